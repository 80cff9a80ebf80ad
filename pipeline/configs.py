"""Every setting of a run: frozen dataclasses, a few presets, and overrides by dotted name.

A setting is named as in `trainer.learning_rate`. Presets are code; a YAML or JSON file and `--set` lay
single values over one. Nothing here imports TensorFlow, so that the command line stays quick.
"""

from __future__ import annotations

import dataclasses
import difflib
import functools
import json
import math
import re
import typing
from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

import yaml

from two_tower.pipeline.errors import UserError

HOUR = 3_600
DAY = 24 * HOUR

# Yambda's own split, by the names of its authors (Ploshkin et al., 2025): seconds of its clock.
YAMBDA_LAST_TIMESTAMP = 26_000_000
YAMBDA_TEST_FROM = 25_913_600
YAMBDA_GAP_SECONDS = 1_800

# A learned temperature never falls below this: however sure training is, scores stay finite.
LEAST_LEARNED_TEMPERATURE = 0.01

PROTOCOLS = ("next_event", "frozen", "leave_one_out", "split_column")

T = TypeVar("T")


@dataclasses.dataclass(frozen=True)
class SplitConfig:
    """What is predicted from what. The protocols (`PROTOCOLS`):

    - next_event: one global point in time, train | gap | eval | gap | test; every label event of eval and
      test is predicted from all that came before it.
    - frozen: the same points in time, and the user's state stops where eval or test begins (before the gap);
      one query a user, whose labels are the set of the period's items. Users unknown to train are left out.
    - leave_one_out: each user's last label event is test's, the one before it eval's. Needs no times, and is
      no split in time: what other users did later is known to train.
    - split_column: the events' own column `split` (train, eval, test).
    """

    protocol: str = "next_event"
    # All lengths in seconds.
    eval_seconds: int = DAY
    test_seconds: int = DAY
    # Listens in a gap are never labels, so that no session straddles two splits. They are context in the
    # next_event protocol and invisible in the frozen one.
    gap_seconds: int = 1_800
    # The time that test's length is counted back from; -1: the newest label event's.
    last_timestamp: int = -1
    # frozen: which events make labels. "listen": label events with a play ratio of at least
    # `min_label_play_ratio`, or an unknown one; any other name: events of that type, such as "like".
    frozen_labels: str = "listen"
    min_label_play_ratio: float = 0.5


@dataclasses.dataclass(frozen=True)
class WindowConfig:
    """Packed windows: the unit of training data."""

    # A query sees its last `history_length` events, in training, evaluation and serving alike.
    history_length: int = 200
    # At most this many query positions a window, after up to `history_length - 1` events of context.
    positions: int = 150
    # Events a shard holds in memory while its windows are cut (about 100 bytes an event).
    events_per_shard: int = 1_000_000
    # Where the events lie in spans (`events/span-<number>/`): how many of the newest are read; 0: all.
    spans: int = 0


@dataclasses.dataclass(frozen=True)
class FeaturesConfig:
    """Columns of the data directory's own that become features, and history aggregates.

    A column is named alone, or as name:kind where its type does not tell the kind: categorical, multi_valued,
    numeric, text or vector (see `pipeline.feature_specs`).
    """

    # Columns of users/, such as gender or occupation:categorical.
    users: tuple[str, ...] = ()
    # Columns of items/, such as tags, title:text or embedding.
    items: tuple[str, ...] = ()
    # History aggregates (see `trainer.history_aggregates`); auto: all that the data allows.
    history: tuple[str, ...] = ("auto",)


@dataclasses.dataclass(frozen=True)
class ValidationConfig:
    """Limits on how far distributions may move before a run is stopped; 0 turns a check off.

    Distances are the Jensen-Shannon divergence of numbers and the largest difference of any value's share
    (L-infinity) of categories, both from 0 to 1.
    """

    # Train's statistics against those of the previous run.
    max_drift: float = 0.3
    # Train's statistics against test's.
    max_skew: float = 0.3


@dataclasses.dataclass(frozen=True)
class TrainerConfig:
    """The two towers and how they are trained."""

    embedding_dim: int = 64
    # Width of the table of items where artist, album or content vectors say more of them: then few numbers of
    # an item's own do. Without any of these, or of 0, it is embedding_dim.
    item_embedding_dim: int = 0
    # A term of its own in each item's score, whoever asks: its popularity. It is an embedding's last number;
    # items that train does not know have the mean of what is listened to.
    item_bias: bool = False
    # Where items' own embeddings begin: random, or co_occurrence, at factors of how often items come shortly
    # after each other, for data with few labels an item. A training that begins from an earlier model begins
    # there.
    item_initial: str = "random"
    # What makes the history one vector at each position: mean (of the last N and of the last few listens),
    # attention (causal self-attention, with the distance in events and in time), or attention+mean.
    encoder: str = "mean"
    # Together the layers see the last N events: each one looks back (N - 1) / layers of them.
    attention_layers: int = 2
    attention_heads: int = 2
    # Scores of query and candidate: cosine, or dot. Either is divided by the temperature: of 1, a plain dot
    # product stays what it is.
    similarity: str = "cosine"
    # Parts of the towers to leave out, to see what they are worth or because the data does not bear them:
    # history, seed, user_id, example_age, aggregates, shared_tables (then history and seed read item tables
    # of their own).
    leave_out: tuple[str, ...] = ()
    # Scores of their own for the items of the history, beside the inner product, where items are recommended
    # again; elsewhere it changes nothing.
    repeat_head: bool = False
    # Widths of the query tower's hidden layers, between the joined features and the embedding.
    query_hidden_units: tuple[int, ...] = (256,)
    # By which the softmax divides scores; the default suits the cosine.
    temperature: float = 0.07
    epochs: int = 3
    learning_rate: float = 0.002
    # constant, or cosine: half a cosine, down to 1% of the learning rate at the last step of all epochs.
    learning_rate_schedule: str = "constant"
    # Over so many first steps the learning rate rises from zero; at most half of all.
    warmup_steps: int = 0
    # Decoupled: what a step takes away of kernels, and of the embeddings that it reads, by learning rate.
    weight_decay: float = 0.0
    # The greatest norm of all gradients together; 0: any.
    clip_norm: float = 0.0
    # What towers are computed in: float32, mixed_float16 (GPUs), mixed_bfloat16 (TPUs and new GPUs), or auto,
    # by the hardware: float16 on GPUs of compute capability 7.0 and more. What is served is float32.
    precision: str = "auto"
    # Windows read per step (0: by how many there are, so that an epoch has some 190 steps), and labelled
    # positions drawn at random across them.
    windows_per_step: int = 32
    positions_per_step: int = 1_024
    # Chance that an item's id (or a user's) is replaced by its out-of-vocabulary row in training: it
    # is what places a new release, or a new user, by everything else that is known.
    id_dropout: float = 0.1
    # Chance that a position is trained with an empty history, as a new user will be served.
    history_dropout: float = 0.02
    dropout: float = 0.1
    # Learn the temperature too, from `temperature` on.
    learned_temperature: bool = False
    # What a label is told from at each step: sampled negatives; the full catalog, if that is small, and then
    # nothing is left to correct; or auto: full where 8,192 labels could be told from 50,000 items.
    softmax: str = "sampled"
    # How sampling is corrected for: logq (2019 paper), refined (arXiv 2507.09331), or none, for comparison.
    sampling_correction: str = "logq"
    # An item is a negative once a step, however often it is in the batch.
    deduplicate_negatives: bool = False
    # How often items are labels: exact, train's counts, or streaming, estimated from the batches.
    frequency: str = "exact"
    # Of streaming: weight of the newest gap between two batches with an item, number of hash functions, and
    # the gap of an item never seen.
    frequency_learning_rate: float = 0.01
    frequency_hashes: int = 2
    frequency_initial_gap: float = 100.0
    # Negatives drawn from the whole catalog at each step, beside the batch's labels.
    uniform_negatives: int = 0
    # Labels of earlier steps that stay negatives.
    memory_negatives: int = 0
    # Of each query's negatives only so many count, those of the highest logits; 0: all.
    hard_negatives: int = 0
    # What is a position's label in training: the next listen (1), or any one of so many next ones within its
    # window, where a user is asked for what comes in a day and not for the next track.
    label_horizon: int = 1
    # Loss weight of a label with play ratio r: floor + (1 - floor) * min(r, 1).
    play_ratio_floor: float = 0.3
    # Loss weights of labels that the user reacted to, as in like=2 or dislike=0.
    event_type_weights: tuple[str, ...] = ()
    # The labels of one user together weigh no more than so many would; 0: no limit.
    max_labels_per_user: int = 0
    # How training is spread: none, mirrored (over this machine's GPUs), or multi_worker (over machines that
    # TF_CONFIG names). A step has the same windows and positions however many replicas there are.
    distribution: str = "none"
    # Begin with what the latest blessed model knows of the ids that both have, instead of from scratch.
    warm_start: bool = False
    # Stop when validation recall (at gate.cutoff) has not risen for this many epochs.
    patience: int = 2
    seed: int = 17


@dataclasses.dataclass(frozen=True)
class IndexConfig:
    """The index over the catalog's embeddings: ScaNN, tuned on queries of the eval split."""

    # Below this many items exact search is as fast, and is what is built.
    exact_below: int = 20_000
    # The share of exact search's best target_k items that the index has to find; the cheapest setting that
    # does, at 99% confidence over the queries that it is tuned on, is built.
    target_recall: float = 0.95
    target_k: int = 100
    # The most milliseconds that a single query may take on the machine that builds the index; 0: any. Where
    # that is too little for the target, the best that is fast enough is built, and the model says so.
    latency_budget_ms: float = 0.0
    # Queries that the index is tuned on.
    tuning_queries: int = 500
    seed: int = 17
    # The largest k a request may ask for.
    max_k: int = 200


# What a model is compared with (components/retrieval_evaluator/baselines), in the order of reports.
BASELINES = (
    "most_popular",
    "decayed_popularity",
    "personal_history",
    "token_matching",
    "co_occurrence",
    "ials",
    "bpr",
    "content_neighbours",
)


@dataclasses.dataclass(frozen=True)
class EvaluationConfig:
    """What RetrievalEvaluator measures."""

    cutoffs: tuple[int, ...] = (1, 10, 50, 100)
    # Test queries are sampled by user, whole users at a time, up to about this many.
    max_queries: int = 20_000
    # Confidence intervals are those of so many bootstrap resamples of the users.
    resamples: int = 1_000
    # Of each categorical or multi-valued column among the features, so many of its values are slices.
    slice_values: int = 10
    # Users of the test split in the report, under pseudonyms, with what they were recommended; 0: none.
    examples: int = 10
    # What the model is compared with. What the data does not allow is left out, with a note.
    baselines: tuple[str, ...] = BASELINES
    seed: int = 17


@dataclasses.dataclass(frozen=True)
class GateConfig:
    """Thresholds on the test split. A model is pushed only if all of them hold.

    Recall is known up to the noise of the users who were asked: what a model must reach, the lower bound of
    its 95 % confidence interval must. What it may lose against the latest blessed model it has lost only if
    the upper bound of the change is below zero, too: two equal models differ by noise.
    """

    # The k of the Recall@k that is judged, and that picks the best epoch; one of evaluation.cutoffs.
    cutoff: int = 100
    # Absolute Recall@k of the served model, by its lower bound.
    min_recall: float = 0.01
    # Share of exact search's top k that the served index returns.
    min_ann_recall: float = 0.95
    # Model's Recall@k minus the best baseline's, by its lower bound.
    min_lift_over_best_baseline: float = 0.0
    # Model's Recall@k minus that of the latest eligible blessed model, on the same queries. A loss beyond it
    # refuses the model if it is more than noise; above 0, a gain that the lower bound must reach.
    min_change_against_blessed: float = -0.005
    # The same of every slice, by bounds that hold for all slices at once.
    min_slice_change: float = -0.02
    # Slices of fewer users are left out of that.
    min_slice_users: int = 50
    # Recall@k within single slices, by its lower bound: as in cold=0.02.
    slices: tuple[str, ...] = ()
    # Share of the catalog that is among the first k of at least one query.
    min_coverage: float = 0.0
    # Milliseconds that 95 % of single queries are answered in; 0 is no limit.
    max_latency_p95: float = 0.0


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
            _check_range(name, value)
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
        _check_trainer(self.trainer)
        slice_limits(self.gate)

    def to_dict(self) -> dict[str, Any]:
        """The settings as nested plain values, as YAML and JSON hold them."""
        return typing.cast(dict[str, Any], _plain(self))

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
# Tuples of name=value, which a file may hold as a mapping.
_BY_NAME = ("trainer.event_type_weights", "gate.slices")


@dataclasses.dataclass(frozen=True)
class RunFile:
    """A config file: where a run's data and output are, its preset, and settings laid over that."""

    data: str | None = None
    output: str | None = None
    preset: str | None = None
    settings: Mapping[str, Any] = dataclasses.field(default_factory=dict)


def read_run_file(path: str) -> RunFile:
    """Reads a YAML or JSON config file: the keys `data`, `output`, `preset`, and settings, nested.

    Raises:
      UserError: the file is missing, is not YAML, or one of the three keys is not a text. The settings
        are looked at by `load`.
    """
    try:
        with open(path, encoding="utf-8") as file:
            content = yaml.safe_load(file)
    except OSError as error:
        raise UserError(f"{path}: the config file cannot be read ({error.strerror}).") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: not YAML: {' '.join(str(error).split())}.") from error
    if content is None:
        content = {}
    if not isinstance(content, dict):
        raise UserError(f"{path}: a config file holds keys and values, and this one is a {_kind(content)}.")
    places: dict[str, str | None] = {}
    for key in ("data", "output", "preset"):
        places[key] = content.pop(key, None)
        if not isinstance(places[key], str | None):
            raise UserError(f"{path}: {key} takes a text, and is {places[key]!r}.")
    return RunFile(**places, settings=content)


def suited_preset(label_events: int, has_timestamps: bool = True) -> str:
    """The preset for data of that many label events, with times or without, where none is named."""
    if not has_timestamps:
        return "next_item"
    return "small" if label_events < _SMALL_BELOW else "default"


def load(
    preset: str | None = None,
    file: str | None = None,
    overrides: Sequence[str] = (),
    fallback: str = "default",
) -> PipelineConfig:
    """The settings of a preset, with those of a config file laid over, and `key=value` overrides over both.

    Args:
      preset: a name in PRESETS; None takes the file's `preset`, or else `fallback`.
      file: a YAML or JSON file, see `read_run_file`.
      overrides: as in "trainer.learning_rate=0.01"; a tuple's values are separated by commas.
      fallback: the preset where neither of the two names one.

    Raises:
      UserError: an unknown preset or setting, naming the nearest valid one, or a value that its setting
        does not take.
    """
    run_file = read_run_file(file) if file else RunFile()
    values = _preset(preset or run_file.preset or fallback).to_dict()
    try:
        _lay_over(values, run_file.settings, "")
        # Checked before the overrides, so that a complaint names the right one of the two.
        PipelineConfig.from_dict(values)
    except UserError as error:
        raise UserError(f"{file}: {error}") from error
    _override(values, overrides)
    return PipelineConfig.from_dict(values)


def with_overrides(config: PipelineConfig, overrides: Sequence[str]) -> PipelineConfig:
    """A configuration with `key=value` overrides over it; raises UserError as `load` does."""
    values = config.to_dict()
    _override(values, overrides)
    return PipelineConfig.from_dict(values)


def load_gate(
    limits: GateConfig, preset: str | None = None, file: str | None = None, overrides: Sequence[str] = ()
) -> GateConfig:
    """The limits that an evaluation is judged by again: those of a config file and overrides over `limits`.

    Args:
      limits: to start from, where neither the call nor the file names a preset.
      preset: whose limits to start from instead.
      file: see `read_run_file`; what it sets beside `gate` changes nothing.
      overrides: see `load`.

    Raises:
      UserError: as `load`, and for an override of another section.
    """
    run_file = read_run_file(file) if file else RunFile()
    named = preset or run_file.preset
    values = {**PipelineConfig().to_dict(), "gate": _plain(_preset(named).gate if named else limits)}
    try:
        _lay_over(values, run_file.settings, "")
        _checked_gate(values["gate"])
    except UserError as error:
        raise UserError(f"{file}: {error}") from error
    for override in overrides:
        if not override.strip().startswith("gate."):
            raise UserError(f"--set {override}: an evaluation is judged again by settings of gate alone.")
    _override(values, overrides)
    return _checked_gate(values["gate"])


def _checked_gate(values: Any) -> GateConfig:
    if not isinstance(values, Mapping):
        raise UserError(f"gate is a section of settings, and was given {values!r}.")
    gate = from_plain(GateConfig, values, "gate")
    for field in dataclasses.fields(gate):
        _check_range(f"gate.{field.name}", getattr(gate, field.name))
    slice_limits(gate)
    return gate


def _override(values: dict[str, Any], overrides: Sequence[str]) -> None:
    """Sets those named by `key=value` among nested plain values."""
    for override in overrides:
        name, equals, text = override.partition("=")
        name = name.strip()
        if not equals:
            raise UserError(f"--set takes key=value, as in trainer.learning_rate=0.01, and got {override!r}.")
        *path, last = _known(name).split(".")
        section = functools.reduce(lambda values, part: values[part], path, values)
        section[last] = _parse(name, text.strip())


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
    return _hints()[_known(name)]


def checked(name: str, value: Any) -> Any:
    """A plain value as the setting of that dotted name holds it.

    Raises:
      UserError: there is no such setting, naming the nearest, or it does not take the value.
    """
    typed = _typed(name, setting_type(name), value)
    _check_range(name, typed)
    return typed


def from_plain(cls: type[T], values: Mapping[str, Any], section: str = "") -> T:
    """One of this module's dataclasses from plain values, such as JSON holds: lists become tuples again.

    Args:
      cls: PipelineConfig or the class of one of its sections.
      values: by field name; a field that is not there keeps its default.
      section: the section's name, for messages.

    Raises:
      UserError: an unknown key or a value of the wrong type.
    """
    hints = typing.get_type_hints(cls)
    taken: dict[str, Any] = {}
    for key, value in values.items():
        name = f"{section}.{key}" if section else str(key)
        hint = hints.get(key)
        if hint is None:
            raise _unknown(name)
        if dataclasses.is_dataclass(hint):
            if not isinstance(value, Mapping):
                raise UserError(f"{name} is a section of settings, and was given {value!r}.")
            taken[key] = from_plain(typing.cast(type, hint), value, name)
        else:
            taken[key] = _typed(name, hint, value)
    return cls(**taken)


def _plain(value: Any) -> Any:
    if dataclasses.is_dataclass(value):
        return {field.name: _plain(getattr(value, field.name)) for field in dataclasses.fields(value)}
    return list(value) if isinstance(value, tuple) else value


def _preset(name: str) -> PipelineConfig:
    if name not in PRESETS:
        nearest = difflib.get_close_matches(name, PRESETS, n=1, cutoff=0)[0]
        raise UserError(f"there is no preset {name!r}; the nearest is {nearest!r} of {', '.join(PRESETS)}.")
    return PRESETS[name]


@functools.cache
def _hints() -> dict[str, Any]:
    """The type of every setting, by its dotted name."""
    hints: dict[str, Any] = {}
    for key, hint in typing.get_type_hints(PipelineConfig).items():
        if dataclasses.is_dataclass(hint):
            hints.update({f"{key}.{inner}": kind for inner, kind in typing.get_type_hints(hint).items()})
        else:
            hints[key] = hint
    return hints


def _known(name: str) -> str:
    if name in _hints():
        return name
    if any(known.startswith(f"{name}.") for known in _hints()):
        raise UserError(f"{name} is a section of settings: name one of them, as in {name}.<setting>=<value>.")
    raise _unknown(name)


def _unknown(name: str) -> UserError:
    # The last part alone decides where the section was left out or mistaken.
    last = name.rpartition(".")[2]
    same_last = [known for known in _hints() if known.rpartition(".")[2] == last]
    nearest = same_last or difflib.get_close_matches(name, _hints(), n=1, cutoff=0)
    return UserError(f"there is no setting {name}; the nearest is {' or '.join(nearest)}.")


def _lay_over(values: dict[str, Any], over: Mapping[str, Any], section: str) -> None:
    for key, value in over.items():
        if isinstance(value, Mapping) and isinstance(values.get(key), dict):
            _lay_over(values[key], value, f"{section}{key}.")
        elif key in values:
            values[key] = value
        else:
            raise _unknown(f"{section}{key}")


def _kind(value: Any) -> str:
    return {"str": "text"}.get(type(value).__name__, type(value).__name__)


def _describe(hint: Any) -> str:
    of = {int: "whole number", float: "number", bool: "true or false", str: "text"}
    if typing.get_origin(hint) is tuple:
        return f"a list of {of[typing.get_args(hint)[0]]}s"
    return of[hint] if hint is bool else f"a {of[hint]}"


def _typed(name: str, hint: Any, value: Any) -> Any:
    """`value` as the setting's type; YAML reads 1e-3 as a text, hence the numbers in texts."""
    if typing.get_origin(hint) is tuple:
        if isinstance(value, list | tuple):
            return tuple(_typed(name, typing.get_args(hint)[0], one) for one in value)
        # Settings of the form name=value read better as a mapping, in a file that has them.
        if isinstance(value, Mapping) and name in _BY_NAME:
            return tuple(f"{key}={one}" for key, one in value.items())
    elif hint is float:
        if isinstance(value, int | float | str) and not isinstance(value, bool):
            try:
                return float(value)
            except ValueError:
                pass
    elif isinstance(value, hint) and not (hint is int and isinstance(value, bool)):
        return value
    raise UserError(f"{name} takes {_describe(_hints().get(name, hint))}, and was given {value!r}.")


def _parse(name: str, text: str) -> Any:
    """A value of `--set` as YAML would hold it; whether it is one is for `_typed` to say."""
    hint = _hints()[name]
    if typing.get_origin(hint) is tuple:
        if text.startswith("["):
            try:
                return json.loads(text)
            except ValueError:
                raise UserError(f"{name}: {text!r} is not a list: separate the values by commas.") from None
        # An option of Beam may hold commas itself: only where the next one begins does one end.
        parts = re.split(r",(?=\s*--)" if name == "beam_args" else ",", text)
        return [_scalar(typing.get_args(hint)[0], part.strip()) for part in parts] if text else []
    return _scalar(hint, text)


def _scalar(hint: Any, text: str) -> Any:
    if hint is int:
        try:
            return int(text)
        except ValueError:
            return text
    if hint is bool:
        return {"true": True, "false": False}.get(text.lower(), text)
    return text


def event_type_weights(trainer: TrainerConfig) -> dict[str, float]:
    """trainer.event_type_weights by event type.

    Raises:
      UserError: one of them is not of the form "like=2", with a weight from 0 on, or names a type twice.
    """
    weights: dict[str, float] = {}
    for text in trainer.event_type_weights:
        name, _, number = (part.strip() for part in text.partition("="))
        try:
            weight = float(number)
        except ValueError:
            weight = math.nan
        if not (name and math.isfinite(weight) and weight >= 0):
            raise UserError(
                f"trainer.event_type_weights takes event types with weights from 0 on, as in like=2, and was "
                f"given {text!r}."
            )
        if name in weights:
            raise UserError(f"trainer.event_type_weights names the event type {name!r} twice.")
        weights[name] = weight
    return weights


def slice_limits(gate: GateConfig) -> dict[str, float]:
    """gate.slices by slice: the Recall@k that the lower bound must reach there.

    Raises:
      UserError: one of them is not of the form "cold=0.02", or names a slice twice.
    """
    limits: dict[str, float] = {}
    for text in gate.slices:
        name, _, number = (part.strip() for part in text.rpartition("="))
        try:
            limit = float(number)
        except ValueError:
            limit = math.nan
        if not (name and math.isfinite(limit)):
            raise UserError(
                f"gate.slices takes slices with the recall that each must reach, as in cold=0.02, and was "
                f"given {text!r}."
            )
        if name in limits:
            raise UserError(f"gate.slices names the slice {name!r} twice.")
        limits[name] = limit
    return limits


def _check_trainer(trainer: TrainerConfig) -> None:
    """Raises UserError for settings of towers and loss that contradict each other."""
    event_type_weights(trainer)
    if trainer.encoder != "mean" and trainer.embedding_dim % trainer.attention_heads:
        raise UserError(
            f"trainer.attention_heads is {trainer.attention_heads}, and trainer.embedding_dim, "
            f"{trainer.embedding_dim}, cannot be divided by it."
        )
    if trainer.learned_temperature and trainer.temperature < LEAST_LEARNED_TEMPERATURE:
        raise UserError(
            f"trainer.temperature is {trainer.temperature}, and a learned one is never below "
            f"{LEAST_LEARNED_TEMPERATURE}: begin there or above, or set trainer.learned_temperature=false."
        )
    if trainer.frequency == "streaming" and not trainer.deduplicate_negatives:
        raise UserError(
            "trainer.frequency=streaming counts an item once a batch: set trainer.deduplicate_negatives=true,"
            " so that it is a negative once as well."
        )
    if trainer.softmax == "full":
        unused = [
            name
            for name in ("deduplicate_negatives", "uniform_negatives", "memory_negatives")
            if getattr(trainer, name)
        ]
        if unused:
            raise UserError(
                f"trainer.softmax=full has the whole catalog for negatives, and trainer.{unused[0]} changes "
                "how they are sampled: take the one or the other."
            )


def _check_range(name: str, value: Any) -> None:
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


# Below this many label events a day holds too few of them to evaluate on.
_SMALL_BELOW = 300_000
# What each preset is for stands in the command line's help.
# Chosen on eval of the simulated default run, one seed each: Recall@100 .507 with a constant rate of .002,
# three epochs and 64 dimensions; .514 with this schedule and four epochs; .521 with 128 dimensions as well;
# .543 with scores of their own for the history's items, and .551 with 100 of them, not 50; .553 with 32
# numbers of an item's own, not 128, and .552 with histories of 200 too; .558 with items' biases as well, in
# three epochs (docs/decisions/0011-what-is-an-items-own.md); .563 with every label of a step's windows, some
# 3,400, twice the rate and decay, in two (docs/decisions/0013-every-label-of-a-step.md). Before scores of the
# history's items 256 dimensions, a dot product, a learnt temperature and attention gave no more in two to
# six epochs.
_LISTENING = TrainerConfig(
    embedding_dim=128,
    repeat_head=True,
    learning_rate=0.005,
    learning_rate_schedule="cosine",
    warmup_steps=100,
)

PRESETS: dict[str, PipelineConfig] = {
    "default": PipelineConfig(
        trainer=dataclasses.replace(
            _LISTENING,
            item_embedding_dim=32,
            item_bias=True,
            # All that a step's windows hold, as long as users have some 130 labels.
            positions_per_step=4_096,
            epochs=2,
            learning_rate=0.01,
            weight_decay=0.3,
        )
    ),
    "small": PipelineConfig(
        # Ratings come by the handful a day: a day's would be too few to tell two models apart.
        split=SplitConfig(eval_seconds=14 * DAY, test_seconds=14 * DAY, gap_seconds=HOUR),
        # Short windows: most users have a few events, and a batch is padded to its longest.
        windows=WindowConfig(history_length=20, positions=20),
        trainer=TrainerConfig(
            query_hidden_units=(64,),
            # Of all settings tried on MovieTweetings' eval split the one that matters: Recall@100 was .327 at
            # 0.07, .348 at 0.12, .360 at 0.2 and .369 at 0.3, where decayed popularity has .348. Later, at
            # .360, the whole catalog for negatives gave Recall@10 .106 for .089.
            temperature=0.3,
            softmax="auto",
            # 48 windows a step there. With 512, a constant rate and up to 30 epochs Recall@100 was .361 and
            # Recall@10 .100; with 48 they are .369 to .372 and .109 to .114 (two seeds), and .369 and .111 by
            # this schedule; with 64 numbers an embedding and not 32 .374 and .116 (.371 for .363 by another
            # seed). Items' biases: .366 and .117 with 32, .367 with 64. Where items begin at factors of
            # co-occurrence .399 for .377 (docs/decisions/0014-where-items-begin.md).
            item_initial="co_occurrence",
            windows_per_step=0,
            epochs=8,
            learning_rate=0.005,
            learning_rate_schedule="cosine",
            warmup_steps=100,
            id_dropout=0.2,
            history_dropout=0.1,
            dropout=0.3,
            patience=4,
        ),
        # A few thousand queries: Recall@100 of one and the same model wanders by about a point, and lower
        # bounds lie about a point below.
        gate=GateConfig(
            min_lift_over_best_baseline=-0.01, min_change_against_blessed=-0.01, min_slice_change=-0.05
        ),
    ),
    # The benchmark protocol of Yambda's authors, on any size of it: who is asked once for all that is played
    # in the test period is asked for a user's tastes, more than what follows the track now playing. Chosen on
    # eval of a simulated year of 2,500 users (152 queries; seeds of one model differ by .01). Recall@100 is
    # .288 as the default trains, .359 with labels from further on, .360 to .372 with histories of 200 and no
    # user id, .364 at this temperature in as many epochs, and .374 with scores of the history's items, which
    # take five (two seeds; .383 at the best of eight). Horizons of 20 and 80 gave .350 and .354; windows
    # bound them by their positions. About what seeds differ by: labels drawn among distinct items (-.006 to
    # +.011), 2,048 positions (+.013), items' biases (+.008). For where items begin see
    # docs/decisions/0014-where-items-begin.md.
    "yambda": PipelineConfig(
        split=SplitConfig(
            protocol="frozen",
            last_timestamp=YAMBDA_LAST_TIMESTAMP,
            test_seconds=YAMBDA_LAST_TIMESTAMP - YAMBDA_TEST_FROM,
            gap_seconds=YAMBDA_GAP_SECONDS,
        ),
        trainer=dataclasses.replace(
            _LISTENING,
            temperature=0.15,
            epochs=5,
            label_horizon=300,
            leave_out=("user_id",),
            item_initial="co_occurrence",
        ),
    ),
    # The protocol by which next-item recommenders are compared, on sequences without times. Chosen by
    # validation alone (HR@10) on MovieLens-1M (`benchmarks/ml1m_next_item.py`; 163 labels a user) and on what
    # S3-Rec publishes. The cosine and the windows of a step, of a plain dot product and the cosine: MovieLens
    # .347 to .349 (three seeds) and .348, Beauty .094 and .102, LastFM .098 and .096; of 32 windows a step
    # and the number taken here: Beauty (118) .092 (a dot product, and three times as long) and .102, LastFM
    # (8) .086 and .096. Then of a decay of 0, .5 and 1: MovieLens .358, .357, .353, Beauty .1035, .109, .106,
    # Yelp .046, .050, .050, LastFM .104, .111, .100 (seeds differ by .01). For where items begin, and at
    # which rate they go on, see docs/decisions/0014-where-items-begin.md.
    "next_item": PipelineConfig(
        split=SplitConfig(protocol="leave_one_out"),
        # A user's whole history is one window.
        windows=WindowConfig(history_length=200, positions=2_400),
        features=FeaturesConfig(history=()),
        trainer=TrainerConfig(
            encoder="attention+mean",
            softmax="auto",
            deduplicate_negatives=True,
            embedding_dim=128,
            leave_out=("user_id",),
            query_hidden_units=(256,),
            id_dropout=0.0,
            history_dropout=0.0,
            dropout=0.3,
            weight_decay=0.5,
            item_initial="co_occurrence",
            learning_rate=0.001,
            learning_rate_schedule="cosine",
            warmup_steps=300,
            epochs=16,
            patience=5,
            # All that the windows hold.
            windows_per_step=0,
            positions_per_step=100_000,
        ),
        evaluation=EvaluationConfig(max_queries=1_000_000),
        gate=GateConfig(cutoff=10),
    ),
    "smoke": PipelineConfig(
        windows=WindowConfig(history_length=20, positions=50),
        trainer=TrainerConfig(
            embedding_dim=16,
            repeat_head=True,
            query_hidden_units=(32,),
            epochs=3,
            learning_rate=0.01,
            windows_per_step=64,
            positions_per_step=512,
        ),
        evaluation=EvaluationConfig(max_queries=2_000),
        # So little training is not expected to beat a user's own favourites, nor two trainings to agree.
        gate=GateConfig(
            min_recall=0.01,
            min_lift_over_best_baseline=-0.5,
            min_change_against_blessed=-0.05,
            min_slice_change=-0.2,
        ),
    ),
}
PRESET_HELP: dict[str, str] = {
    "default": "a million events and more, of a few weeks or longer",
    "small": "a hundred thousand events over months: two weeks are held back for evaluation, not a day",
    "yambda": "Yambda's own protocol: the state is frozen at the split, the labels are a day's items",
    "next_item": "sequences without times: each user's last item, by causal self-attention and means",
    "smoke": "seconds of training, to see that everything works",
}
