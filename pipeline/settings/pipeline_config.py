"""Every setting of a run: frozen dataclasses, a few presets, and overrides by dotted name.

A setting is named as in `trainer.learning_rate`. Presets are code; a YAML or JSON file and `--set` lay
single values over one. Nothing here imports TensorFlow, so that the command line stays quick.
"""

from __future__ import annotations

import dataclasses
import difflib
import functools
import math
import typing
from collections.abc import Mapping
from typing import Any

from two_tower.base.errors import UserError
from two_tower.base.settings import from_plain, to_plain, typed, types_of, unknown_setting
from two_tower.components.anomaly_gate.settings import ValidationConfig
from two_tower.components.interaction_example_gen.settings import PROTOCOLS, SplitConfig, WindowConfig
from two_tower.data_directory.settings import FeaturesConfig
from two_tower.evaluation.baselines.registry import BASELINES
from two_tower.evaluation.settings import EvaluationConfig, GateConfig, slice_limits
from two_tower.serving.settings import IndexConfig
from two_tower.trainer.settings import TrainerConfig, check_trainer


@dataclasses.dataclass(frozen=True)
class PipelineConfig:
    """All settings of a run."""

    split: SplitConfig = SplitConfig()
    windows: WindowConfig = WindowConfig()
    features: FeaturesConfig = FeaturesConfig()
    validation: ValidationConfig = ValidationConfig()
    trainer: TrainerConfig = TrainerConfig()
    index: IndexConfig = IndexConfig()
    evaluation: EvaluationConfig = EvaluationConfig()
    gate: GateConfig = GateConfig()
    # Passed to Beam as they are, for example ["--runner=DataflowRunner", ...].
    beam_args: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        """Raises UserError for a value outside its setting's range, or two settings that contradict."""
        for name, value in settings(self).items():
            check_range(name, value)
        if max(self.evaluation.cutoffs) > self.index.max_k:
            raise UserError(
                f"evaluation.cutoffs asks for Recall@{max(self.evaluation.cutoffs)} and the served model "
                f"answers with at most index.max_k = {self.index.max_k} items: raise index.max_k."
            )
        if self.index.target_k > self.index.max_k:
            raise UserError(
                f"index.target_k is {self.index.target_k}, and the served model answers with at most "
                f"index.max_k = {self.index.max_k} items: lower the one or raise the other."
            )
        if self.gate.cutoff not in self.evaluation.cutoffs:
            listed, judged = ", ".join(map(str, self.evaluation.cutoffs)), self.gate.cutoff
            raise UserError(
                f"evaluation.cutoffs is {listed}, without {judged}: the gate judges by Recall@{judged} "
                f"(gate.cutoff). Add {judged} to the one or change the other."
            )
        check_trainer(self.trainer)
        slice_limits(self.gate)

    def to_dict(self) -> dict[str, Any]:
        """The settings as nested plain values, as YAML and JSON hold them."""
        return typing.cast(dict[str, Any], to_plain(self))

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> PipelineConfig:
        """The inverse of `to_dict`; a setting that is not named keeps its default.

        Raises:
          UserError: an unknown setting, or a value of the wrong type or out of range.
        """
        return from_plain(cls, values)


# The least and the greatest value of a number, both allowed; for a tuple, of each of its numbers. Whatever
# is not here need only be finite.
_RANGES: dict[str, tuple[float, float]] = {
    "split.eval_seconds": (1, math.inf),
    "split.test_seconds": (1, math.inf),
    "split.gap_seconds": (0, math.inf),
    "split.last_timestamp": (-1, math.inf),
    "split.min_label_play_ratio": (0, math.inf),
    "windows.history_length": (1, 10_000),
    "windows.positions": (1, 100_000),
    "windows.events_per_shard": (1, math.inf),
    "windows.spans": (0, math.inf),
    "validation.max_drift": (0, 1),
    "validation.max_skew": (0, 1),
    "trainer.embedding_dim": (2, 4_096),
    "trainer.item_embedding_dim": (0, 4_096),
    "trainer.query_hidden_units": (1, 65_536),
    "trainer.attention_layers": (1, 64),
    "trainer.attention_heads": (1, 64),
    "trainer.temperature": (1e-4, 100),
    "trainer.epochs": (1, 10_000),
    "trainer.learning_rate": (0, 100),
    "trainer.warmup_steps": (0, 100_000_000),
    "trainer.weight_decay": (0, 1_000),
    "trainer.clip_norm": (0, math.inf),
    "trainer.windows_per_step": (0, 1_000_000),
    # In-batch negatives: a position alone would have none.
    "trainer.positions_per_step": (2, 1_000_000),
    "trainer.id_dropout": (0, 0.99),
    "trainer.history_dropout": (0, 0.99),
    "trainer.dropout": (0, 0.99),
    "trainer.frequency_learning_rate": (1e-6, 1),
    "trainer.frequency_hashes": (1, 16),
    # Nothing is in a batch more often than in every one.
    "trainer.frequency_initial_gap": (1, 1e9),
    "trainer.uniform_negatives": (0, 10_000_000),
    "trainer.memory_negatives": (0, 10_000_000),
    "trainer.hard_negatives": (0, 10_000_000),
    "trainer.label_horizon": (1, 1_000_000),
    "trainer.play_ratio_floor": (0, 1),
    "trainer.max_labels_per_user": (0, math.inf),
    "trainer.patience": (1, 10_000),
    "trainer.seed": (0, 2**31 - 1),
    "index.exact_below": (0, math.inf),
    "index.target_recall": (0.01, 1),
    "index.target_k": (1, 100_000),
    "index.latency_budget_ms": (0, math.inf),
    "index.tuning_queries": (10, 1_000_000),
    "index.seed": (0, 2**31 - 1),
    "index.max_k": (1, 100_000),
    "evaluation.cutoffs": (1, 100_000),
    "evaluation.max_queries": (1, math.inf),
    "evaluation.examples": (0, 100),
    "evaluation.resamples": (100, 100_000),
    "evaluation.slice_values": (0, 1_000),
    "evaluation.seed": (0, 2**31 - 1),
    "gate.cutoff": (1, 100_000),
    "gate.min_slice_users": (2, math.inf),
    "gate.min_coverage": (0, 1),
    "gate.max_latency_p95": (0, math.inf),
}
_CHOICES: dict[str, tuple[str, ...]] = {
    "evaluation.baselines": BASELINES,
    "split.protocol": PROTOCOLS,
    "trainer.encoder": ("mean", "attention", "attention+mean"),
    "trainer.similarity": ("cosine", "dot"),
    "trainer.item_initial": ("random", "co_occurrence"),
    "trainer.learning_rate_schedule": ("constant", "cosine"),
    "trainer.precision": ("auto", "float32", "mixed_float16", "mixed_bfloat16"),
    "trainer.leave_out": ("history", "seed", "user_id", "example_age", "aggregates", "shared_tables"),
    "trainer.softmax": ("sampled", "full", "auto"),
    "trainer.sampling_correction": ("logq", "refined", "none"),
    "trainer.frequency": ("exact", "streaming"),
    "trainer.distribution": ("none", "mirrored", "multi_worker"),
}
# Tuples that may hold nothing.
_MAY_BE_EMPTY = (
    "trainer.query_hidden_units",
    "trainer.event_type_weights",
    "trainer.leave_out",
    "features.users",
    "features.items",
    "features.history",
    "gate.slices",
    "beam_args",
)


def settings(config: PipelineConfig) -> dict[str, Any]:
    """Every setting by its dotted name, in the order of their declaration."""
    found: dict[str, Any] = {}
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        if dataclasses.is_dataclass(value):
            for inner in dataclasses.fields(value):
                found[f"{field.name}.{inner.name}"] = getattr(value, inner.name)
        else:
            found[field.name] = value
    return found


def setting_type(name: str) -> Any:
    """int, float, bool, str or a tuple of one of them. Raises UserError, naming the nearest setting."""
    return types()[known(name)]


def checked(name: str, value: Any) -> Any:
    """A plain value as the setting of that dotted name holds it.

    Raises:
      UserError: there is no such setting, naming the nearest, or it does not take the value.
    """
    found = typed(name, setting_type(name), value)
    check_range(name, found)
    return found


@functools.cache
def types() -> dict[str, Any]:
    """The type of every setting, by its dotted name."""
    return types_of(PipelineConfig)


def known(name: str) -> str:
    """Returns a dotted name that is a setting's. Raises UserError, naming the nearest, for any other."""
    if name in types():
        return name
    if any(known.startswith(f"{name}.") for known in types()):
        raise UserError(f"{name} is a section of settings: name one of them, as in {name}.<setting>=<value>.")
    raise unknown_setting(name, types())


def check_range(name: str, value: Any) -> None:
    """Raises UserError for a value outside its setting's range or choices."""
    values = value if isinstance(value, tuple) else (value,)
    if not values and name not in _MAY_BE_EMPTY:
        raise UserError(f"{name} needs at least one value.")
    least, greatest = _RANGES.get(name, (-math.inf, math.inf))
    for one in values:
        if isinstance(one, int | float) and not (math.isfinite(one) and least <= one <= greatest):
            limits = f"from {least:g}" + (f" to {greatest:g}" if math.isfinite(greatest) else "")
            wanted = f"a value {limits}" if math.isfinite(least) else "a finite value"
            raise UserError(f"{name} takes {wanted}, and was given {one!r}.")
    choices = _CHOICES.get(name, ())
    for one in values if choices else ():
        if one not in choices:
            nearest = difflib.get_close_matches(str(one), choices, n=1, cutoff=0)[0]
            listed = ", ".join(choices)
            raise UserError(f"{name} takes one of {listed}, and was given {one!r}; the nearest is {nearest}.")

