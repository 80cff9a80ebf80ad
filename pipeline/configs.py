"""Every setting of a run: frozen dataclasses, a few presets, and overrides by dotted name.

A setting is named as in `trainer.learning_rate`. Presets are code; a YAML file and `--set` lay single
values over one. Nothing here imports TensorFlow, so that the command line stays quick.
"""

from __future__ import annotations

import dataclasses
import difflib
import os
import types
import typing
from collections.abc import Mapping, Sequence
from typing import Any

import yaml

from pipeline.errors import UserError

DAY = 86_400


@dataclasses.dataclass(frozen=True)
class SplitConfig:
    """One global point in time: train | gap | eval | gap | test. All lengths in seconds."""

    eval_seconds: int = DAY
    test_seconds: int = DAY
    # Listens in a gap are context but never labels, so that no session straddles two splits.
    gap_seconds: int = 1_800


@dataclasses.dataclass(frozen=True)
class WindowConfig:
    """Packed windows: the unit of training data."""

    # A query sees its last `history_length` events, in training, evaluation and serving alike.
    history_length: int = 50
    # At most this many query positions a window, after up to `history_length - 1` events of context.
    positions: int = 150
    # Events a shard holds in memory while its windows are cut (about 100 bytes an event).
    events_per_shard: int = 1_000_000


@dataclasses.dataclass(frozen=True)
class TrainerConfig:
    """The two towers and how they are trained."""

    embedding_dim: int = 64
    # Widths of the query tower's hidden layers, between the joined features and the embedding.
    query_hidden_units: tuple[int, ...] = (256,)
    # Softmax temperature of L2-normalised embeddings.
    temperature: float = 0.07
    epochs: int = 8
    learning_rate: float = 0.002
    # Windows read per step, and labelled positions drawn at random across them.
    windows_per_step: int = 128
    positions_per_step: int = 2_048
    # Chance that an item's id (or a user's) is replaced by its out-of-vocabulary row in training: it
    # is what places a new release, or a new user, by everything else that is known.
    id_dropout: float = 0.1
    # Chance that a position is trained with an empty history, as a new user will be served.
    history_dropout: float = 0.02
    dropout: float = 0.1
    # Subtract log Q from the logits ("none" trains without: for comparison only).
    sampling_correction: str = "logq"
    # Loss weight of a label with play ratio r: floor + (1 - floor) * min(r, 1).
    play_ratio_floor: float = 0.3
    # Stop when validation Recall@100 has not risen for this many epochs.
    patience: int = 2
    seed: int = 17


@dataclasses.dataclass(frozen=True)
class IndexConfig:
    """The ScaNN index over the catalog's embeddings."""

    # Below this many items exact search is as fast, and is what is built.
    exact_below: int = 20_000
    # 0: the square root of the catalog's size.
    num_leaves: int = 0
    # Share of the leaves that a query visits.
    search_fraction: float = 0.15
    # Candidates rescored exactly.
    reordering_candidates: int = 500
    # The largest k a request may ask for.
    max_k: int = 200


@dataclasses.dataclass(frozen=True)
class EvaluationConfig:
    """What RetrievalEvaluator measures."""

    cutoffs: tuple[int, ...] = (1, 10, 50, 100)
    # Test queries are sampled by user, whole users at a time, up to about this many.
    max_queries: int = 20_000
    seed: int = 17


@dataclasses.dataclass(frozen=True)
class GateConfig:
    """Thresholds on the test split. A model is pushed only if all of them hold."""

    # Absolute Recall@100 of the served model.
    min_recall_at_100: float = 0.01
    # Share of exact search's top 100 that the served index returns.
    min_ann_recall_at_100: float = 0.95
    # Model's Recall@100 minus the best baseline's.
    min_lift_over_best_baseline: float = 0.0
    # Model's Recall@100 minus that of the latest eligible blessed model, on the same queries.
    min_change_against_blessed: float = -0.005


@dataclasses.dataclass(frozen=True)
class PipelineConfig:
    """All settings of a run."""

    split: SplitConfig = SplitConfig()
    windows: WindowConfig = WindowConfig()
    trainer: TrainerConfig = TrainerConfig()
    index: IndexConfig = IndexConfig()
    evaluation: EvaluationConfig = EvaluationConfig()
    gate: GateConfig = GateConfig()
    # Passed to Beam as they are, for example ["--runner=DataflowRunner", ...].
    beam_args: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """The settings as nested plain values, as YAML and JSON hold them."""
        return typing.cast(dict[str, Any], _plain(self))
