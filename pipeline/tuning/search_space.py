"""Search space of `two-tower tune`: settings of the trainer with choices or a range."""

from __future__ import annotations

import dataclasses
import difflib
import functools
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from two_tower.base import yaml_files
from two_tower.base.errors import UserError
from two_tower.base.settings import to_plain
from two_tower.base.settings import value_text as setting_text
from two_tower.pipeline.settings import pipeline_config
from two_tower.pipeline.settings.pipeline_config import PipelineConfig
from two_tower.pipeline.settings.run_file import settled
from two_tower.trainer.loss.loss_registry import LOSSES
from two_tower.trainer.model.encoder_registry import has_dropout
from two_tower.trainer.settings import ITEM_BIAS, NORMALISATION, TrainerConfig

if TYPE_CHECKING:
    from optuna.trial import BaseTrial

EXAMPLE = "trainer.temperature: {low: 0.03, high: 0.5, log: true}, or trainer.encoder: [mean, attention]"
# Significant digits of a drawn number. A config file shows them all; more digits do not change recall.
_DIGITS = 4

# Reasons why other sections cannot be searched.
_REFUSED = {
    "split": "it decides the labels of validation recall, so the recalls of two trials would be of different "
    "queries",
    "windows": "all trials read the same windows, which are cut once",
    "features": "all trials read the same features, which Transform computes once",
    "validation": "it stops runs and does not change the model",
    "index": "validation recall is measured by exact search, without an index",
    "evaluation": "it applies to the test split, which a search never reads",
    "gate": "a model is judged by it, and it does not change the model",
    "seed": "the best of many seeds is luck, and test recall would be lower",
    "beam_args": "it decides where Beam runs and does not change the model",
}
_REFUSED_TRAINER = {
    "trainer.distribution": "it decides where steps run and does not change the model",
    "trainer.warm_start": "all trials start cold",
    "trainer.patience": "it decides when training stops, so the longest training would win; give all trials "
    "one value with --set",
}


@dataclasses.dataclass(frozen=True)
class Choices:
    """Choices: a few values of any setting's type."""

    values: tuple[Any, ...]

    def suggest(self, trial: BaseTrial, name: str) -> Any:
        """Draws one of the values; a study holds it as a text."""
        by_text = {setting_text(value): value for value in self.values}
        return by_text[trial.suggest_categorical(name, list(by_text))]

    def parameter(self, value: Any) -> Any:
        """Returns `value` as a study holds it; None if it is no choice."""
        return setting_text(value) if value in self.values else None

    def to_plain(self) -> Any:
        """Returns the content for a space file."""
        return [list(value) if isinstance(value, tuple) else value for value in self.values]


@dataclasses.dataclass(frozen=True)
class Range:
    """Range from `low` to `high`, both included; whole numbers if both are. `log` draws on a log scale."""

    low: float
    high: float
    log: bool = False

    def suggest(self, trial: BaseTrial, name: str) -> Any:
        """Draws a number of the range."""
        if isinstance(self.low, int) and isinstance(self.high, int):
            return trial.suggest_int(name, self.low, self.high, log=self.log)
        drawn = trial.suggest_float(name, self.low, self.high, log=self.log)
        return min(max(float(f"{drawn:.{_DIGITS}g}"), self.low), self.high)

    def parameter(self, value: Any) -> Any:
        """Returns `value` as a study holds it; None if it is outside the range."""
        return value if self.low <= value <= self.high else None

    def to_plain(self) -> Any:
        """Returns the content for a space file."""
        return {"low": self.low, "high": self.high, **({"log": True} if self.log else {})}


@dataclasses.dataclass(frozen=True)
class SearchSpace:
    """Dimensions by the dotted names of their settings."""

    dimensions: Mapping[str, Choices | Range]

    @classmethod
    def from_plain(cls, values: Mapping[str, Any]) -> SearchSpace:
        """Parses a space file's content: names of settings with choices, or with `low`, `high` and `log`.

        Raises:
          UserError: a setting does not exist, cannot be searched, or does not take a value.
        """
        if not values:
            raise UserError(f"the space names no setting. Write one as in {EXAMPLE}.")
        return cls({str(name): _dimension(str(name), value) for name, value in values.items()})

    @classmethod
    def read(cls, path: str) -> SearchSpace:
        """Reads a YAML or JSON file; `from_plain` describes its content.

        Raises:
          UserError: the file is unreadable or invalid; the message names it.
        """
        content = yaml_files.read(path, "search space")
        if not isinstance(content, dict | None):
            raise UserError(f"{path}: a search space holds names of settings, as in {EXAMPLE}.")
        try:
            return cls.from_plain(content or {})
        except UserError as error:
            raise UserError(f"{path}: {error}") from error

    def suggest(self, trial: BaseTrial) -> dict[str, Any]:
        """Draws a study's suggestions, by dotted names of settings."""
        return {name: one.suggest(trial, name) for name, one in self.dimensions.items()}

    def parameters_of(self, config: PipelineConfig) -> dict[str, Any]:
        """Returns the settings of `config` that lie in the space, as a study holds them."""
        given = pipeline_config.settings(config)
        found = {name: one.parameter(given[name]) for name, one in self.dimensions.items() if name in given}
        return {name: value for name, value in found.items() if value is not None}

    def to_plain(self) -> dict[str, Any]:
        """Returns the content for a space file, the inverse of `from_plain`."""
        return {name: one.to_plain() for name, one in self.dimensions.items()}


def default_space(base: PipelineConfig) -> SearchSpace:
    """Returns the space of the settings that matter most, without those meaningless in `base`."""
    trainer = base.trainer
    without_bias = [part for part in trainer.parts if part != ITEM_BIAS]
    values: dict[str, Any] = {
        "trainer.temperature": {"low": 0.03, "high": 0.5, "log": True},
        "trainer.learning_rate": {"low": 0.0005, "high": 0.02, "log": True},
        "trainer.embedding_dim": [32, 64, 128],
        "trainer.item_initial": ["random", "co_occurrence"],
        "trainer.parts": [without_bias, [*without_bias, ITEM_BIAS]],
        "trainer.dropout.hidden": {"low": 0.0, "high": 0.5},
        "trainer.dropout.id": {"low": 0.0, "high": 0.4},
        "trainer.weight_decay": {"low": 0.0, "high": 1.0},
        "trainer.frequency.correction": ["logq", "refined"],
        "trainer.negatives.deduplicate": [False, True],
    }
    idle = []
    if NORMALISATION not in trainer.parts:
        idle.append("trainer.temperature")
    if trainer.softmax not in (name for name, loss in LOSSES.items() if loss.samples):
        idle += ["trainer.frequency.correction", "trainer.negatives.deduplicate"]
    elif trainer.frequency.estimate == "streaming":
        idle.append("trainer.negatives.deduplicate")
    if not trainer.query_hidden_units and not has_dropout(trainer.encoder):
        idle.append("trainer.dropout.hidden")
    return SearchSpace.from_plain({name: value for name, value in values.items() if name not in idle})


def with_trainer(base: PipelineConfig, values: Mapping[str, Any]) -> PipelineConfig:
    """Returns `base` with other values of trainer settings, by dotted names.

    A search draws each setting by itself. A value that another one makes meaningless gets its default.

    Raises:
      UserError: two settings contradict each other.
    """
    plain = base.to_dict()
    for name, value in values.items():
        *path, last = name.split(".")
        functools.reduce(lambda section, key: section[key], path, plain)[last] = to_plain(value)
    return settled(plain)


def _dimension(name: str, value: Any) -> Choices | Range:
    kind = pipeline_config.setting_type(name)
    section = name.partition(".")[0]
    if reason := _REFUSED_TRAINER.get(name):
        raise UserError(f"{name} cannot be searched: {reason}.")
    if reason := _REFUSED.get(section):
        raise UserError(
            f"{name} cannot be searched: {reason}. A search varies settings of trainer alone. To compare "
            "others, tune once per value, with --set and a separate --output."
        )
    if isinstance(value, list):
        checked = [pipeline_config.checked(name, one) for one in value]
        if name == "trainer.parts":
            # TrainerConfig sorts the parts.
            checked = [TrainerConfig(parts=parts).parts for parts in checked]
        return _choices(name, checked)
    if isinstance(value, Mapping):
        if kind not in (int, float):
            raise UserError(f"{name} is no number and has no range. Give it a list of choices.")
        return _range(name, value)
    raise UserError(
        f"{name} takes a list of choices or a range, as in {EXAMPLE}; it was given {value!r}. Give a value "
        "that all trials share with --set."
    )


def _choices(name: str, values: list[Any]) -> Choices:
    texts = [setting_text(value) for value in values]
    if repeated := [text for text in texts if texts.count(text) > 1]:
        raise UserError(f"{name} has the choice {repeated[0]} twice. Leave one out.")
    if len(values) < 2:
        raise UserError(f"{name} needs two choices or more. Give a value that all trials share with --set.")
    return Choices(tuple(values))


def _range(name: str, value: Mapping[str, Any]) -> Range:
    keys = [field.name for field in dataclasses.fields(Range)]
    for key in value:
        if key not in keys:
            nearest = difflib.get_close_matches(str(key), keys, n=1, cutoff=0)[0]
            raise UserError(
                f"{name}: a range holds low, high and log, and no {key}; the nearest is {nearest}."
            )
    if missing := [key for key in ("low", "high") if key not in value]:
        raise UserError(f"{name} needs {missing[0]}: write a range as in {{low: 1, high: 10}}.")
    log = value.get("log", False)
    if not isinstance(log, bool):
        raise UserError(f"{name} takes log: true or log: false, and was given {log!r}.")
    low, high = pipeline_config.checked(name, value["low"]), pipeline_config.checked(name, value["high"])
    if not low < high:
        raise UserError(f"{name} has low {low} and high {high}. Give a low below high.")
    if log and low <= 0:
        raise UserError(f"{name} has log: true and low {low}. A log scale needs a low above 0.")
    return Range(low, high, log)
