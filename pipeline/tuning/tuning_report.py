"""Report of a search: console lines, a table, a plot, and the winner as a config file."""

from __future__ import annotations

import itertools
import math
import os
from collections import Counter
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import optuna
import yaml
from optuna.trial import FixedTrial, FrozenTrial, TrialState

from two_tower.base.errors import UserError
from two_tower.pipeline.settings import pipeline_config, presets
from two_tower.pipeline.settings.contradictions import faults
from two_tower.pipeline.tuning.search_space import Range, SearchSpace, setting_text, with_trainer

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from two_tower.pipeline.tuning.search import Search

TRIALS_FILE = "trials.md"
PLOT_FILE = "trials.png"
BEST_FILE = "best.yaml"
# METRIC: attribute of the study, such as recall@100. REASON: attribute of a trial, why it failed.
METRIC = "metric"
REASON = "reason"
_STATES = {TrialState.COMPLETE: "complete", TrialState.PRUNED: "pruned", TrialState.FAIL: "failed"}
_COLORS = {TrialState.COMPLETE: "tab:blue", TrialState.PRUNED: "tab:gray"}
_PANELS_A_ROW = 3


def ended_trials(study: optuna.Study) -> list[FrozenTrial]:
    """Returns the trials that count, without interrupted ones (failed without a reason)."""
    trials = study.get_trials(deepcopy=False, states=tuple(_STATES))
    return [one for one in trials if one.state != TrialState.FAIL or REASON in one.user_attrs]


def best_of(study: optuna.Study) -> FrozenTrial | None:
    """Finds the complete trial of the highest recall, the first of equals; None if there is none."""
    complete = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
    return max(complete, key=lambda one: (_recall(one), -one.number), default=None)


def line(study: optuna.Study, trial: FrozenTrial, space: SearchSpace) -> str:
    """Formats an ended trial as a line, with the best so far."""
    if trial.state == TrialState.FAIL:
        return f"Trial {trial.number:<3} failed: {trial.user_attrs[REASON]}"
    text = f"Trial {trial.number:<3} {study.user_attrs[METRIC]} {_recall(trial):.4f}"
    if trial.state == TrialState.PRUNED:
        text += f", pruned after epoch {trial.last_step}"
    best = best_of(study)
    if best is not None:
        text += f"; best {_recall(best):.4f} (trial {best.number})"
    return f"{text}; {_seconds(trial):.0f} s; {settings_text(values_of(trial, space))}"


def summary(study: optuna.Study) -> str:
    """Compares the best trial with the trial of the base settings, in words.

    Raises:
      UserError: no trial ended well.
    """
    best, trials = best_of(study), ended_trials(study)
    if best is None:
        reasons = [one.user_attrs[REASON] for one in trials if REASON in one.user_attrs]
        why = (
            f"{len(trials)} trials failed, the last one with: {reasons[-1]}"
            if reasons
            else "no trial has ended yet."
        )
        raise UserError(f"the search has no best trial: {why}")
    metric = study.user_attrs[METRIC]
    text = f"Best of {len(trials)} trials: trial {best.number}, with validation {metric} {_recall(best):.4f}"
    if best is not trials[0] and trials[0].state == TrialState.COMPLETE:
        text += f"; trial {trials[0].number}, with the settings as given: {_recall(trials[0]):.4f}"
    return f"{text}."


def settings_text(values: Mapping[str, Any]) -> str:
    """Formats settings of the trainer on one line."""
    return ", ".join(f"{_short(name)}={setting_text(value)}" for name, value in values.items())


def values_of(trial: FrozenTrial, space: SearchSpace) -> dict[str, Any]:
    """Returns a trial's settings by dotted name."""
    return space.suggest(FixedTrial(trial.params))


def write(study: optuna.Study, search: Search) -> None:
    """Updates table and winner in `search.folder`; each file is replaced as a whole."""
    _write(os.path.join(search.folder, TRIALS_FILE), table(study, search.space))
    if best_of(study) is not None:
        _write(os.path.join(search.folder, BEST_FILE), config_file(study, search))


def table(study: optuna.Study, space: SearchSpace) -> str:
    """Formats all trials as a Markdown table, the best first."""
    trials = ended_trials(study)
    counts = Counter(_STATES[one.state] for one in trials)
    metric = study.user_attrs.get(METRIC, "recall")
    lines = [
        "# Search of settings",
        "",
        f"{len(trials)} trials: {', '.join(f'{count} {state}' for state, count in counts.items())}. "
        f"{metric} is that of the best epoch on the validation split; no trial reads the test split. The "
        "first trial has the base settings, if the space has them. The best of many trials owes part of its "
        "recall to luck. A run of the winner measures it on the test split, once.",
        "",
    ]
    names = list(space.dimensions)
    header = ["trial", "state", metric, "best epoch", "epochs", "seconds", *map(_short, names)]
    lines += [_row(header), _row(["---:", "---", *["---:"] * (len(header) - 2)])]
    for one in sorted(trials, key=lambda one: (one.state, -_recall(one), one.number)):
        measured = [f"{_recall(one):.4f}", _best_epoch(one)] if one.intermediate_values else ["", ""]
        took = [len(one.intermediate_values), f"{_seconds(one):.0f}"]
        values = [setting_text(value) for value in values_of(one, space).values()]
        lines.append(_row([one.number, _STATES[one.state], *measured, *took, *values]))
    failed = [one for one in trials if one.state == TrialState.FAIL]
    if failed:
        lines += ["", "Reasons of failed trials:", ""]
        lines += [f"- {one.number}: {one.user_attrs[REASON]}" for one in failed]
    return "\n".join(lines) + "\n"


def config_file(study: optuna.Study, search: Search) -> str:
    """Formats the best trial as a file for `two-tower run --config`."""
    best = best_of(study)
    assert best is not None
    config = with_trainer(search.base, values_of(best, search.space))
    preset = pipeline_config.settings(presets.PRESETS[search.preset])
    content: dict[str, Any] = {"data": search.data, "output": search.output, "preset": search.preset}
    # Given, a setting without an effect would be an error.
    idle = {fault.meaningless for fault in faults(config, pipeline_config.types().keys())}
    for name, value in pipeline_config.settings(config).items():
        if value != preset.get(name) and name not in idle:
            *path, last = name.split(".")
            inner = content
            for part in path:
                inner = inner.setdefault(part, {})
            inner[last] = list(value) if isinstance(value, tuple) else value
    count = len(ended_trials(study))
    return (
        f"# The best of {count} trials of `two-tower tune`: trial {best.number}, validation\n"
        f"# {study.user_attrs[METRIC]} {_recall(best):.4f} after epoch {_best_epoch(best)}.\n"
        "# For `two-tower run --config FILE`.\n"
    ) + yaml.safe_dump(content, sort_keys=False, allow_unicode=True)


def plot(study: optuna.Study, search: Search) -> None:
    """Draws recall by trial, with the best so far, and by the values of each setting, in `search.folder`."""
    from matplotlib.figure import Figure  # needs no window system, unlike pyplot

    trials = [one for one in ended_trials(study) if one.intermediate_values]
    if not trials:
        return
    space, path = search.space, os.path.join(search.folder, PLOT_FILE)
    rows = math.ceil((len(space.dimensions) + 1) / _PANELS_A_ROW)
    figure = Figure(figsize=(4 * _PANELS_A_ROW, 3 * rows), layout="constrained")
    panels = iter(figure.subplots(rows, _PANELS_A_ROW, sharey=True, squeeze=False).flat)
    history = next(panels)
    _scatter(history, {one.number: one.number for one in trials}, trials)
    complete = [one for one in trials if one.state == TrialState.COMPLETE]
    so_far = list(itertools.accumulate(map(_recall, complete), max))
    history.step(
        [one.number for one in complete], so_far, where="post", color="tab:orange", label="best so far"
    )
    history.set(xlabel="trial", ylabel=f"validation {study.user_attrs.get(METRIC, 'recall')}")
    history.legend(fontsize="small")
    values = {one.number: values_of(one, space) for one in trials}
    for name, dimension in space.dimensions.items():
        panel = next(panels)
        if isinstance(dimension, Range):
            _scatter(panel, {number: given[name] for number, given in values.items()}, trials)
            panel.set_xscale("log" if dimension.log else "linear")
            panel.set_xlim(dimension.low, dimension.high)
        else:
            places = {value: place for place, value in enumerate(dimension.values)}
            _scatter(panel, {number: places[given[name]] for number, given in values.items()}, trials)
            panel.set_xticks(range(len(places)), [setting_text(value) for value in places])
            panel.set_xlim(-0.5, len(places) - 0.5)
        panel.set_xlabel(name)
    for unused in panels:
        unused.set_axis_off()
    figure.savefig(f"{path}.new", format="png", dpi=100)
    os.replace(f"{path}.new", path)


def _scatter(panel: Axes, places: Mapping[int, float], trials: list[FrozenTrial]) -> None:
    for state, color in _COLORS.items():
        shown = [one for one in trials if one.state == state]
        recalls = [_recall(one) for one in shown]
        panel.scatter(
            [places[one.number] for one in shown],
            recalls,
            s=16,
            color=color,
            label=_STATES[state],
            clip_on=False,
        )


def _recall(trial: FrozenTrial) -> float:
    """Returns the recall of the best epoch; -1, below any recall, without epochs."""
    return max(trial.intermediate_values.values(), default=-1.0)


def _best_epoch(trial: FrozenTrial) -> int:
    recalls = trial.intermediate_values
    return min(recalls, key=lambda epoch: (-recalls[epoch], epoch))


def _seconds(trial: FrozenTrial) -> float:
    return trial.duration.total_seconds() if trial.duration else 0.0


def _short(name: str) -> str:
    return name.rpartition(".")[2]


def _row(cells: list[Any]) -> str:
    return f"| {' | '.join(map(str, cells))} |"


def _write(path: str, text: str) -> None:
    with open(f"{path}.new", "w", encoding="utf-8") as file:
        file.write(text)
    os.replace(f"{path}.new", path)
