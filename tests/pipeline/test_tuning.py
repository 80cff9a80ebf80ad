from __future__ import annotations

import contextlib
import dataclasses
import io
import multiprocessing
import os
import sys
import threading
import time
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import optuna
import pytest
import yaml

from tests.small_world import CONFIG, Transformed
from two_tower.base import console
from two_tower.base.errors import UserError
from two_tower.base.settings import with_values
from two_tower.pipeline.commands import exit_status
from two_tower.pipeline.commands.main import main
from two_tower.pipeline.settings import run_file
from two_tower.pipeline.settings.pipeline_config import PipelineConfig
from two_tower.pipeline.settings.presets import PRESETS
from two_tower.pipeline.tuning import search as search_module
from two_tower.pipeline.tuning import trial, tuning_report
from two_tower.pipeline.tuning import tune as tuning_module
from two_tower.pipeline.tuning.search import Search
from two_tower.pipeline.tuning.search_space import SearchSpace, default_space, with_trainer
from two_tower.pipeline.tuning.trial import OnEpoch, TrialFailed, train_apart
from two_tower.trainer.settings import TrainerConfig

pytestmark = pytest.mark.slow

SPACE = SearchSpace.from_plain(
    {
        "trainer.temperature": {"low": 0.03, "high": 0.5, "log": True},
        "trainer.embedding_dim": {"low": 16, "high": 64},
        "trainer.schedule.shape": ["constant", "cosine"],
        "trainer.query_hidden_units": [[], [64, 32]],
    }
)
SMALL = PRESETS["small"]


@pytest.fixture(autouse=True)
def unchanged_sources(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(search_module, "import_digest", lambda *modules: "sha256:0")


# Content of a space file.


@pytest.mark.parametrize(
    ("space", "message"),
    [
        (
            "trainer.temprature: [0.1, 0.2]",
            "no setting trainer.temprature; the nearest is trainer.temperature",
        ),
        ("temperature: [0.1, 0.2]", "no setting temperature; the nearest is trainer.temperature"),
        ("trainer: {temperature: [0.1, 0.2]}", "trainer is a section of settings"),
        (
            "split.holdout_seconds: [100, 200]",
            "split.holdout_seconds cannot be searched: .*of different queries",
        ),
        ("windows.history_length: [10, 20]", "windows.history_length cannot be searched: .*cut once"),
        ("features.users: [[age], []]", "features.users cannot be searched: .*computes once"),
        ("trainer.warm_start: [true, false]", "trainer.warm_start cannot be searched: all trials start cold"),
        ("trainer.id_dropout: [0.1, 0.2]", "trainer.id_dropout is trainer.dropout.id now"),
        ("gate.cutoff: [10, 100]", "gate.cutoff cannot be searched: .*judged by"),
        ("beam_args: [[], [--x=1]]", "beam_args cannot be searched"),
        ("seed: {low: 1, high: 9}", "seed cannot be searched: .*luck"),
        ("trainer.epochs: [1, two]", "trainer.epochs takes a whole number, and was given 'two'"),
        ("trainer.epochs: {low: 1, high: 2.5}", "trainer.epochs takes a whole number, and was given 2.5"),
        ("trainer.dropout.id: {low: 0, high: 1.5}", "trainer.dropout.id takes a value from 0 to 0.99.*1.5"),
        ("trainer.encoder: [mean, atention]", "trainer.encoder takes one of.*the nearest is attention"),
        ("trainer.encoder: {low: 1, high: 2}", "trainer.encoder is no number and has no range"),
        ("trainer.negatives.deduplicate: {low: 0, high: 1}", "deduplicate is no number"),
        ("trainer.dropout.id: 0.1", "trainer.dropout.id takes a list of choices or a range.*--set"),
        ("trainer.dropout.id: [0.1]", "trainer.dropout.id needs two choices or more"),
        ("trainer.dropout.id: [0.1, 0.1]", "trainer.dropout.id has the choice 0.1 twice"),
        ("trainer.dropout.id: {low: 0.1}", "trainer.dropout.id needs high"),
        ("trainer.dropout.id: {low: 0.1, hihg: 0.2}", "no hihg; the nearest is high"),
        ("trainer.dropout.id: {low: 0.2, high: 0.1}", "Give a low below high"),
        ("trainer.dropout.id: {low: 0, high: 0.1, log: true}", "log scale needs a low above 0"),
        ("trainer.dropout.id: {low: 0, high: 0.1, log: 2}", "log: true or log: false"),
        ("", "the space names no setting"),
        ("- trainer.dropout.id", "a search space holds names of settings"),
        ("{", "not YAML"),
    ],
)
def test_a_mistake_in_a_space_is_named_with_its_file(space: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "space.yaml"
    path.write_text(space)
    with pytest.raises(UserError, match=f"space.yaml: .*{message}"):
        SearchSpace.read(str(path))


def test_a_space_is_written_as_it_is_read() -> None:
    assert SearchSpace.from_plain(yaml.safe_load(yaml.safe_dump(SPACE.to_plain()))) == SPACE


def test_what_is_drawn_is_in_the_space_and_of_the_settings_types() -> None:
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=1))
    seen = set()
    for _ in range(40):
        values = SPACE.suggest(study.ask())
        assert 0.03 <= values["trainer.temperature"] <= 0.5
        assert isinstance(values["trainer.embedding_dim"], int)
        seen.add(values["trainer.query_hidden_units"])
        # Types and ranges apply as in all settings.
        PipelineConfig.from_dict(with_trainer(SMALL, values).to_dict())
    assert seen == {(), (64, 32)}


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"parts": ("history", "seed", "shared_tables")},
        {"softmax": "full"},
        {"frequency.estimate": "streaming", "negatives.deduplicate": True},
        {"query_hidden_units": ()},
        {"encoder": "attention"},
    ],
)
def test_the_default_space_contradicts_no_settings_that_it_lies_over(changes: dict[str, Any]) -> None:
    base = with_trainer(SMALL, {f"trainer.{name}": value for name, value in changes.items()})
    space = default_space(base)
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=1))
    for _ in range(40):
        with_trainer(base, space.suggest(study.ask()))


@pytest.mark.parametrize("preset", sorted(set(PRESETS) - {"smoke"}))
def test_a_search_of_the_default_space_can_begin_with_what_the_preset_has(preset: str) -> None:
    base = run_file.load(preset)
    space = default_space(base)
    assert set(space.parameters_of(base)) == set(space.dimensions)


# The study, over trials without training.


def recall_of(config: TrainerConfig) -> float:
    """Returns a recall with its maximum at a temperature of 0.2 and 64 dimensions."""
    return 0.5 - abs(config.temperature - 0.2) + config.embedding_dim / 1_000


class Trials:
    """Fake training, which calls `at` with a trial's number before the trial ends."""

    def __init__(self, at: Callable[[int], None] = lambda number: None) -> None:
        self.given: list[TrainerConfig] = []
        self.epochs: list[int] = []
        self._at = at

    def __call__(self, number: int, config: TrainerConfig, on_epoch: OnEpoch) -> None:
        self.given.append(config)
        self.epochs.append(0)
        self._at(number)
        for epoch in range(1, 5):
            self.epochs[-1] = epoch
            # The third trial is the best.
            if not on_epoch(epoch, "val_recall@100", recall_of(config) - 0.01 * abs(epoch - 3)):
                return


def search_in(output: Path, **changes: Any) -> Search:
    given = {"data": "/data", "data_digest": "sha256:1", "preset": "small", "base": SMALL, "space": SPACE}
    return Search(output=str(output), **{**given, **changes})


def run(search: Search, trials: int, train: Trials, timeout: float | None = None) -> str:
    shown = io.StringIO()
    progress = console.Progress(shown)
    study = tuning_module.opened(search)
    tuning_module.go_on(search, study, trials, timeout, train, progress)
    return shown.getvalue()


def trials_of(search: Search) -> list[dict[str, Any]]:
    study = tuning_module.opened(search)
    return [
        {"state": one.state.name, "value": one.value, **one.params}
        for one in tuning_report.ended_trials(study)
    ]


def test_an_interrupted_search_goes_on_as_if_nothing_had_been(tmp_path: Path) -> None:
    whole, parts = search_in(tmp_path / "whole"), search_in(tmp_path / "parts")
    shown = run(whole, 13, Trials())
    assert len(shown.splitlines()) == 13

    def interrupt(number: int) -> None:
        if number in (0, 6):
            raise KeyboardInterrupt

    for _ in range(2):
        with pytest.raises(KeyboardInterrupt):
            run(parts, 13, Trials(interrupt))
    assert len(run(parts, 12, Trials()).splitlines()) == 12 - 5
    assert len(run(parts, 13, Trials()).splitlines()) == 1
    assert run(parts, 13, Trials()) == ""
    assert trials_of(parts) == trials_of(whole)


def test_the_first_trial_has_the_settings_as_given_and_seed_and_all_else_stay(tmp_path: Path) -> None:
    train = Trials()
    run(search_in(tmp_path), 3, train)
    assert train.given[0].temperature == SMALL.trainer.temperature
    assert train.given[0].embedding_dim == SMALL.trainer.embedding_dim
    searched: dict[str, Any] = {name.removeprefix("trainer."): None for name in SPACE.dimensions}
    for config in train.given:
        kept = with_values(config, searched)
        if not config.query_hidden_units:
            # Nothing is left to drop: the meaningless value is the default.
            assert config.dropout.hidden == TrainerConfig().dropout.hidden
            kept = with_values(kept, {"dropout.hidden": SMALL.trainer.dropout.hidden})
        assert kept == with_values(SMALL.trainer, searched)


def test_the_winner_is_a_config_file_of_the_very_settings_that_won(tmp_path: Path) -> None:
    base = run_file.load("small", None, ["gate.cutoff=50", "features.users=gender,age", "trainer.epochs=4"])
    search = search_in(tmp_path, base=base)
    train = Trials()
    run(search, 12, train)
    path = os.path.join(search.folder, "best.yaml")
    winner = run_file.load(None, path)
    assert winner.trainer == max(train.given, key=recall_of)
    assert winner == dataclasses.replace(base, trainer=winner.trainer)
    given = run_file.read_run_file(path)
    assert (given.data, given.output, given.preset) == ("/data", str(tmp_path), "small")
    comment = Path(path).read_text().split("data:")[0]
    number = train.given.index(winner.trainer)
    assert f"best of 12 trials of `two-tower tune`: trial {number}" in comment
    assert f"recall@100 {recall_of(winner.trainer):.4f} after epoch 3" in comment.replace("\n# ", " ")


def test_a_bad_trial_is_pruned_and_shown_as_that(tmp_path: Path) -> None:
    search = search_in(tmp_path)
    train = Trials()
    shown = run(search, 12, train).splitlines()
    states = [one["state"] for one in trials_of(search)]
    pruned = [number for number, state in enumerate(states) if state == "PRUNED"]
    assert pruned
    for number in pruned:
        assert number >= 5
        assert 2 <= train.epochs[number] < 4
        assert f"pruned after epoch {train.epochs[number]}; best" in shown[number]
    assert {train.epochs[number] for number in range(12) if number not in pruned} == {4}


def test_failed_trials_count_with_their_reason_and_the_search_goes_on(tmp_path: Path) -> None:
    def fail(number: int) -> None:
        if number == 1:
            raise TrialFailed("the loss is nan.\nLower trainer.learning_rate.")
        if number == 2:
            raise UserError("contradiction")

    space = {"trainer.temperature": [0.1, 0.2], "trainer.dropout.id": {"low": 0, "high": 0.5}}
    search = search_in(tmp_path, space=SearchSpace.from_plain(space))
    shown = run(search, 4, Trials(fail))
    assert "Trial 1   failed: the loss is nan. Lower trainer.learning_rate." in shown
    table = (Path(search.folder) / "trials.md").read_text()
    assert "4 trials: 2 complete, 2 failed" in table
    assert "- 2: contradiction\n" in table
    rows = [line.split("|")[1:-1] for line in table.splitlines() if line.startswith("|")][2:]
    assert [row[1].strip() for row in rows] == ["complete", "complete", "failed", "failed"]
    assert float(rows[0][2]) >= float(rows[1][2])
    study = tuning_module.opened(search)
    tuning_report.plot(study, search)
    assert (Path(search.folder) / "trials.png").read_bytes().startswith(b"\x89PNG")


def test_without_a_complete_trial_there_is_no_winner_and_the_reason_is_told(tmp_path: Path) -> None:
    def fail(number: int) -> None:
        raise TrialFailed("no memory")

    search = search_in(tmp_path)
    run(search, 2, Trials(fail))
    study = tuning_module.opened(search)
    with pytest.raises(UserError, match="2 trials failed, the last one with: no memory"):
        tuning_report.summary(study)
    assert not os.path.exists(os.path.join(search.folder, "best.yaml"))


def test_no_trial_begins_after_the_timeout(tmp_path: Path) -> None:
    train = Trials()
    run(search_in(tmp_path), 50, train, timeout=1e-6)
    assert len(train.given) <= 1


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"data_digest": "sha256:2"}, "the data's digest is sha256:2, and was sha256:1"),
        (
            {"base": run_file.load("small", None, ["trainer.epochs=9"])},
            f"trainer.epochs is 9, and was {SMALL.trainer.epochs}",
        ),
        (
            {"base": run_file.load("small", None, ["windows.positions=9"])},
            "windows.positions is 9, and was 20",
        ),
        (
            {"space": SearchSpace.from_plain({**SPACE.to_plain(), "trainer.temperature": [0.1, 0.2]})},
            r"trainer.temperature is searched in \[0.1, 0.2\], and was searched in {\"low\": 0.03",
        ),
        (
            {"space": SearchSpace.from_plain({**SPACE.to_plain(), "trainer.dropout.id": [0.1, 0.2]})},
            r"trainer.dropout.id is searched in \[0.1, 0.2\], and was 0.2",
        ),
    ],
)
def test_trials_of_something_else_are_not_mixed_in(
    changes: dict[str, Any], message: str, tmp_path: Path
) -> None:
    search, other = search_in(tmp_path), search_in(tmp_path, **changes)
    # Without an ended trial, a study may start with other settings.
    for one in (other, search):
        run(one, 0, Trials())
    run(search, 1, Trials())
    with pytest.raises(UserError, match=f"{message}.*Continue with .*, or remove {search.folder}"):
        run(other, 2, Trials())
    # Settings without an effect on validation recall may change.
    base = run_file.load("small", None, ["gate.min_recall=0.5", "index.max_k=150"])
    assert len(run(search_in(tmp_path, base=base), 2, Trials()).splitlines()) == 1


def test_a_winner_without_hidden_layers_names_no_dropout_of_them(tmp_path: Path) -> None:
    """Checks a setting at its default that another makes meaningless: given in a file, it is an error."""

    def train(number: int, config: TrainerConfig, on_epoch: OnEpoch) -> None:
        on_epoch(1, "val_recall@100", 0.5 - 0.1 * len(config.query_hidden_units))

    space = SearchSpace.from_plain({"trainer.query_hidden_units": [[], [8]]})
    search = search_in(tmp_path, space=space)
    study = tuning_module.opened(search)
    tuning_module.go_on(search, study, 4, None, train, console.Progress(io.StringIO()))
    winner = run_file.load(None, os.path.join(search.folder, "best.yaml")).trainer
    assert winner.query_hidden_units == () and winner.dropout.hidden == TrainerConfig().dropout.hidden


def test_a_setting_that_changes_nothing_in_any_trial_is_not_searched(tmp_path: Path) -> None:
    values = {"trainer.frequency.correction": ["logq", "refined"]}
    space = SearchSpace.from_plain(values)
    remedy = r"correction cannot be searched: .* trainer.softmax is auto.* set trainer.softmax=sampled"
    with pytest.raises(UserError, match=remedy):
        search_in(tmp_path, space=space)
    search_in(tmp_path, space=space, base=run_file.load("small", None, ["trainer.softmax=sampled"]))
    search_in(tmp_path, space=SearchSpace.from_plain({**values, "trainer.softmax": ["sampled", "full"]}))


def test_a_search_is_of_one_machine(tmp_path: Path) -> None:
    base = run_file.load("small", None, ["trainer.distribution=multi_worker"])
    with pytest.raises(UserError, match="Take none or mirrored"):
        search_in(tmp_path, base=base)


def test_what_a_kill_or_a_full_disk_left_in_the_journal_ends_no_search(tmp_path: Path) -> None:
    search = search_in(tmp_path)
    run(search, 2, Trials())
    before = trials_of(search)
    journal = Path(search.folder, "study.journal")
    with journal.open("ab") as file:
        file.write(b'{"op_code": 4, "worker')
    lock = Path(f"{journal}.lock")
    lock.symlink_to(journal)
    began = time.monotonic()
    assert trials_of(search) == before
    assert time.monotonic() - began < 20  # Optuna itself waits 30 seconds for the owner of a lock
    run(search, 3, Trials())
    assert len(trials_of(search)) == 3


def test_a_study_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    search = search_in(tmp_path)
    run(search, 1, Trials())
    journal = Path(search.folder) / "study.journal"
    journal.write_text("{\n" + journal.read_text())
    with pytest.raises(UserError, match=r"study\.journal: the study cannot be read"):
        run(search, 2, Trials())


# Command line.


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--output", "o"], "tune needs a directory in --data"),
        (["--data", "d"], "tune needs a directory in --output"),
        (["--data", "d", "--output", "o", "--trials", "0"], "--trials takes a number from 1 on"),
        (["--data", "d", "--output", "o", "--timeout", "0"], "--timeout takes more than 0 seconds"),
        (["--data", "d", "--output", "o", "--space", "s"], "s: the search space is missing"),
        (["--data", "d", "--output", "o"], "d is not a data directory"),
    ],
)
def test_wrong_input_leaves_nothing(
    arguments: list[str],
    message: str,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["tune", *arguments]) == exit_status.USER_ERROR
    assert message in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


# Process of a trial.


def messages_of(
    monkeypatch: pytest.MonkeyPatch, train: Callable[..., None], answers: tuple[bool, ...]
) -> list[Any]:
    """Collects the messages of a trial's process for given answers; `train` replaces the Trainer's."""
    fake = types.ModuleType("two_tower.trainer.loop.training")
    fake.train = train  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "two_tower.trainer.loop.training", fake)
    monkeypatch.setattr(trial.signal, "signal", lambda *arguments: None)
    ours, theirs = multiprocessing.Pipe()
    for answer in answers:
        ours.send(answer)
    data: Any = None
    trial._train(theirs, data, SMALL.trainer, 100, 17, "logs", "checkpoints")
    theirs.close()
    sent = []
    with contextlib.suppress(EOFError):
        while True:
            sent.append(ours.recv())
    return sent


def test_a_trials_process_tells_its_epochs_until_it_is_stopped(monkeypatch: pytest.MonkeyPatch) -> None:
    def train(*arguments: Any, on_epoch: Callable[[int, str, float], None], **others: Any) -> None:
        for epoch in range(1, 4):
            on_epoch(epoch, "val_recall@10", epoch / 10)

    told = [(1, "val_recall@10", 0.1), (2, "val_recall@10", 0.2), (3, "val_recall@10", 0.3)]
    assert messages_of(monkeypatch, train, (True, False)) == [*told[:2], None]
    assert messages_of(monkeypatch, train, (True, True, True)) == [*told, None]


@pytest.mark.parametrize(
    ("error", "reason"),
    [(UserError("the loss is nan."), "the loss is nan."), (MemoryError("of 9 GB"), "MemoryError: of 9 GB")],
)
def test_a_trials_process_tells_why_it_failed(
    error: Exception, reason: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def train(*arguments: Any, **others: Any) -> None:
        raise error

    assert messages_of(monkeypatch, train, ())[0] == reason


def test_a_trial_trains_in_its_process_and_the_study_has_its_recall(
    small_world: Transformed, tmp_path: Path
) -> None:
    data = small_world.training_data()
    small = dataclasses.replace(SMALL, trainer=dataclasses.replace(CONFIG, epochs=2))
    space = SearchSpace.from_plain({"trainer.learning_rate": {"low": 0.001, "high": 0.1}})
    search = search_in(tmp_path, base=small, space=space)

    def train(number: int, config: TrainerConfig, on_epoch: OnEpoch) -> None:
        train_apart(data, config, 5, 17, str(tmp_path / "logs"), str(tmp_path / "checkpoints"), on_epoch)

    shown = io.StringIO()
    study = tuning_module.opened(search)
    tuning_module.go_on(search, study, 1, None, train, console.Progress(shown))
    (ended,) = tuning_report.ended_trials(study)
    assert ended.state.name == "COMPLETE", ended.user_attrs
    assert list(ended.intermediate_values) == [1, 2]
    assert ended.value == max(ended.intermediate_values.values()) > 0
    assert shown.getvalue().startswith(f"Trial 0   recall@5 {ended.value:.4f}")
    assert list((tmp_path / "logs").rglob("events.out.tfevents*"))


def test_a_trial_whose_process_is_killed_fails_and_is_no_end_of_the_search() -> None:
    def kill() -> None:
        for child in multiprocessing.active_children():
            child.kill()

    timer = threading.Timer(0.3, kill)
    timer.start()
    data: Any = None
    with pytest.raises(TrialFailed, match=r"SIGKILL ended the process .*memory"):
        train_apart(data, SMALL.trainer, 100, 17, "logs", "checkpoints", lambda *epoch: True)
    timer.join()
