"""`two-tower tune`: search for trainer settings by validation recall, with Optuna."""

from __future__ import annotations

import datetime
import glob
import json
import math
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import optuna
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import TrialState

from two_tower.base import console
from two_tower.base.errors import UserError
from two_tower.pipeline.tuning import tuning_report
from two_tower.pipeline.tuning.search import SEARCHED, Search
from two_tower.pipeline.tuning.search_space import setting_text, with_trainer
from two_tower.pipeline.tuning.trial import OnEpoch, TrialFailed, train_apart
from two_tower.pipeline.tuning.tuning_report import METRIC, REASON, ended_trials
from two_tower.trainer.settings import AGGREGATES, TrainerConfig

if TYPE_CHECKING:
    from two_tower.trainer.loop.training_data import TrainingData

# Trains the trial of a number with settings.
Train = Callable[[int, TrainerConfig, OnEpoch], None]

_STUDY = "two-tower"
_JOURNAL = "study.journal"
# Attribute of the study: the identity that its trials share.
_IDENTITY = "identity"
_CHECKPOINTS = "checkpoints-"
# Pruning begins at a trial's second epoch, once this number of other trials has reached it.
_FIRST_PRUNED_EPOCH = 2
_TRIALS_BEFORE_PRUNING = 5


def opened(search: Search) -> optuna.Study:
    """Opens the study of `search.folder`; creates a missing study. The caller owns the output directory.

    Trials of a killed search are marked as interrupted, and its checkpoints are removed.

    Raises:
      UserError: its trials had other data, settings or another space, or it cannot be read.
    """
    os.makedirs(search.folder, exist_ok=True)
    _mend(search.folder)
    # The round trip through JSON turns tuples into lists.
    identity = json.loads(json.dumps(search.identity()))
    study = _load(search.folder)
    known = study.user_attrs.get(_IDENTITY)
    if known != identity:
        if known is not None and ended_trials(study):
            raise UserError(_what_differs(search, known, identity))
        # No trial has ended, so nothing is lost.
        os.remove(os.path.join(search.folder, _JOURNAL))
        study = _load(search.folder)
        study.set_user_attr(_IDENTITY, identity)
    for left in study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
        study.tell(left.number, state=TrialState.FAIL)
    for folder in Path(search.folder).glob(f"{_CHECKPOINTS}*"):
        shutil.rmtree(folder, ignore_errors=True)
    return study


def _mend(folder: str) -> None:
    """Removes a lock and a half-written last line, which a kill or a full disk left in the journal."""
    for lock in Path(folder).glob(f"{_JOURNAL}.lock*"):
        lock.unlink()
    journal = Path(folder, _JOURNAL)
    if journal.is_file():
        content = journal.read_bytes()
        if not content.endswith(b"\n"):
            os.truncate(journal, content.rfind(b"\n") + 1)


def _load(folder: str) -> optuna.Study:
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    path = os.path.join(folder, _JOURNAL)
    try:
        return optuna.create_study(
            storage=JournalStorage(JournalFileBackend(path)),
            study_name=_STUDY,
            direction="maximize",
            load_if_exists=True,
            pruner=optuna.pruners.MedianPruner(_TRIALS_BEFORE_PRUNING, _FIRST_PRUNED_EPOCH),
        )
    except (ValueError, KeyError) as error:
        raise UserError(
            f"{path}: the study cannot be read ({error}). Remove {folder} to begin anew."
        ) from error


def _what_differs(search: Search, known: Mapping[str, Any], identity: Mapping[str, Any]) -> str:
    changes = [
        f"{name} is {_told(identity.get(name))}, and was {_told(known.get(name))}"
        for name in {**identity, **known}
        if identity.get(name) != known.get(name)
    ]
    return (
        f"{search.folder} holds a search whose trials cannot be compared with new ones: {'; '.join(changes)}."
        f" Continue with its settings, take another --output, or remove {search.folder}."
    )


def _told(value: Any) -> str:
    """Formats a part of an identity as a space file or `--set` does."""
    if isinstance(value, dict):
        return f"searched in {json.dumps(value[SEARCHED])}"
    return setting_text(tuple(value)) if isinstance(value, list) else setting_text(value)


def tune(search: Search, study: optuna.Study, trials: int, timeout: float | None = None) -> None:
    """Runs the pipeline up to Transform, and then trials until there are `trials`.

    Args:
      search: definition of the search.
      study: the result of `opened`.
      trials: total number of trials, including those of earlier calls.
      timeout: seconds of training after which no trial begins; None: any.

    Raises:
      UserError: the data is refused.
      ComponentFailed: a component failed.
    """
    data = _prepared(search)
    log = Path(search.output, "logs", f"{datetime.datetime.now():%Y%m%d-%H%M%S}-tune.log")

    def train(number: int, config: TrainerConfig, on_epoch: OnEpoch) -> None:
        logs = os.path.join(search.folder, "tensorboard", f"trial-{number}")
        with tempfile.TemporaryDirectory(prefix=_CHECKPOINTS, dir=search.folder) as checkpoints:
            train_apart(data, config, search.base.gate.cutoff, search.base.seed, logs, checkpoints, on_epoch)

    with console.quiet(str(log)) as progress:
        go_on(search, study, trials, timeout, train, progress)


def _prepared(search: Search) -> TrainingData:
    """Runs the components before the Trainer, and returns their outputs as training data."""
    from two_tower.data_directory.feature_columns import resolve
    from two_tower.data_directory.manifest import Manifest
    from two_tower.pipeline.local_runner import run_local
    from two_tower.pipeline.runs.stored_runs import latest_nodes, uris_of, users_are_new
    from two_tower.trainer.loop.training_data import TrainingData

    windows, catalog = "Transform", "CatalogTransform"
    run_local(search.data, search.output, search.base, until=(windows, catalog))
    nodes = latest_nodes(search.output, catalog, partial=True)
    outputs = uris_of(nodes)
    manifest = Manifest.load(search.data)

    def files(component: str, split: str) -> list[str]:
        (folder,) = outputs[component]["transformed_examples"]
        return sorted(glob.glob(os.path.join(glob.escape(folder), f"Split-{split}", "*.gz")))

    return TrainingData(
        train_files=files(windows, "train"),
        eval_files=files(windows, "eval"),
        transform_graph=outputs[windows]["transform_graph"][0],
        catalog_files=files(catalog, "catalog"),
        catalog_graph=outputs[catalog]["transform_graph"][0],
        history_length=search.base.windows.history_length,
        repeats_recommendable=manifest.repeats_recommendable,
        resolved=resolve(search.base.features, manifest, AGGREGATES in search.base.trainer.parts),
        users_are_new=users_are_new(nodes),
    )


def go_on(
    search: Search,
    study: optuna.Study,
    trials: int,
    timeout: float | None,
    train: Train,
    progress: console.Progress,
) -> None:
    """Runs trials until `trials` have ended or `timeout` has passed; updates table and winner after each.

    A trial's settings depend on the ended trials alone. So an interrupted search continues as it would have
    without the interruption.
    """
    began = time.monotonic()
    while (number := len(ended_trials(study))) < trials:
        if timeout is not None and time.monotonic() - began > timeout:
            break
        study.sampler = optuna.samplers.TPESampler(seed=number)
        if number == 0 and not study.get_trials(deepcopy=False, states=(TrialState.WAITING,)):
            # The first trial has the base settings, to show the gain of the search.
            study.enqueue_trial(search.space.parameters_of(search.base))
        trial = study.ask()
        try:
            _run(search, study, trial, train, progress)
        except BaseException:
            # An interrupted trial does not count, and its settings come again.
            study.tell(trial, state=TrialState.FAIL, skip_if_finished=True)
            raise
        ended = study.get_trials(deepcopy=False)[trial.number]
        progress.conclude(
            tuning_report.line(study, ended, search.space),
            style="" if ended.state == TrialState.COMPLETE else "dim",
        )
        tuning_report.write(study, search)


def _run(
    search: Search, study: optuna.Study, trial: optuna.Trial, train: Train, progress: console.Progress
) -> None:
    """Runs one trial, from its settings to its value in the study."""
    recalls: list[float] = []
    pruned = False

    def on_epoch(epoch: int, name: str, recall: float) -> bool:
        nonlocal pruned
        recalls.append(recall)
        study.set_user_attr(METRIC, name.removeprefix("val_"))
        trial.report(recall, epoch)
        progress.advance(0, 0, f"epoch {epoch}: {recall:.4f}, best {max(recalls):.4f}")
        pruned = trial.should_prune()
        return not pruned

    try:
        values = search.space.suggest(trial)
        progress.start(f"Trial {trial.number}", tuning_report.settings_text(values))
        config = with_trainer(search.base, values)
        train(trial.number, config.trainer, on_epoch)
        if not (recalls and math.isfinite(max(recalls))):
            raise TrialFailed("validation gave no recall. Check the labels of the eval split.")
    except (UserError, TrialFailed) as error:
        trial.set_user_attr(REASON, " ".join(str(error).split()))
        study.tell(trial, state=TrialState.FAIL)
    else:
        if pruned:
            study.tell(trial, state=TrialState.PRUNED)
        else:
            # Training restores the best epoch, so its recall counts.
            study.tell(trial, max(recalls))
