"""The task of an evaluation: model, blessed model, windows and settings, and the queries that are asked."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping
from typing import Any

import numpy as np

from two_tower.base.errors import UserError
from two_tower.data_directory.facts import DataFacts
from two_tower.data_directory.feature_columns import ResolvedFeatures
from two_tower.evaluation import measure
from two_tower.evaluation.metrics import Ints
from two_tower.evaluation.oracle_comparison import OracleAnswers
from two_tower.evaluation.queries import Queries, Windows, all_queries, read_windows, sample_by_user
from two_tower.evaluation.settings import EvaluationConfig, GateConfig
from two_tower.serving import provenance


@dataclasses.dataclass(frozen=True)
class ServedModel:
    """A model as it is served.

    Attributes:
        uri: the artifact, as reports name it.
        path: directory of the SavedModel.
        towers: the Trainer's model that it was built from; empty where that is not known.
    """

    uri: str
    path: str
    towers: str = ""

    @functools.cached_property
    def recorded(self) -> dict[str, Any] | None:
        """The model's provenance, None where its files are gone."""
        return provenance.read(self.path)

    @functools.cached_property
    def digest(self) -> str:
        """Digest of the model's files."""
        return provenance.digest_of(self.path)

    @property
    def known(self) -> dict[str, Any]:
        """The provenance of a model that must be there.

        Raises:
            UserError: the model's files are gone.
        """
        if self.recorded is None:
            raise UserError(
                f"{self.path}: the files of the model that is to be evaluated are gone. Bring them back, or "
                "run in a new output directory."
            )
        return self.recorded

    @functools.cached_property
    def identity(self) -> provenance.ModelIdentity:
        """Data, protocol and digest of the model, by which models are compared."""
        return provenance.ModelIdentity.from_provenance(self.known, provenance.identity_of(self.path))


@dataclasses.dataclass(frozen=True)
class EvaluationTask:
    """The model to evaluate, its data, and the settings.

    Attributes:
        config: settings of the evaluation.
        gate: limits.
        facts: facts of the data.
        windows: directory of each split's windows.
        repeated_labels: number of labels that were left out because the user already had the item.
        model: the model to evaluate.
        blessed: the latest blessed model, if there is one.
        anchor: the best released model, if it is another.
        history_length: events that a query sees.
        resolved: features of the data.
        seed: seed of the sample of queries, the resamples, the baselines and the pseudonyms.
    """

    config: EvaluationConfig
    gate: GateConfig
    facts: DataFacts
    windows: Mapping[str, str]
    repeated_labels: int
    model: ServedModel
    blessed: ServedModel | None
    anchor: ServedModel | None
    history_length: int
    resolved: ResolvedFeatures
    seed: int

    @property
    def k(self) -> int:
        """Number of items that every recommender recommends."""
        return max(self.config.cutoffs)

    @property
    def exclude(self) -> bool:
        """True where items that a user already had must not be recommended."""
        return not self.facts.repeats_recommendable

    def ask(self, model: ServedModel, rows: Ints, served_alone: bool = False) -> measure.Answers:
        """Asks a model the test split's queries at `rows`, see `measure.answers`."""
        return measure.answers(
            model.path,
            self.windows["test"],
            rows,
            k=self.k,
            history_length=self.history_length,
            exclude=self.exclude,
            users=self.resolved.users,
            served_alone=served_alone,
            data=self.facts.data,
        )


@dataclasses.dataclass(frozen=True)
class Questions:
    """The queries of the test split that are asked.

    Attributes:
        windows: windows of the split.
        available: all queries of the split.
        sampled: rows of the queries that are measured.
        oracle: the oracle's answers, where the data is simulated. Its queries are all asked, in the sample or
            not.
        rows: rows of all queries that are asked, ascending.
    """

    windows: Windows
    available: Queries
    sampled: Ints
    oracle: OracleAnswers | None
    rows: Ints

    @classmethod
    def read(cls, task: EvaluationTask) -> Questions:
        """Reads the test split and samples its queries by user.

        Raises:
            UserError: the split holds no query.
        """
        windows = read_windows(task.windows["test"], task.resolved.users)
        available = all_queries(windows)
        if not len(available):
            raise UserError(
                "The test split holds no query to evaluate by. Change split.holdout_seconds "
                "or split.last_timestamp, or bring more data."
            )
        sampled = sample_by_user(available, task.config.max_queries, task.seed)
        oracle = OracleAnswers.read(task.facts.data, available)
        rows = np.union1d(sampled, oracle.rows) if oracle else sampled
        return cls(windows, available, sampled, oracle, rows)

    @functools.cached_property
    def measured(self) -> Queries:
        """The queries of the sample."""
        return self.available.take(self.sampled)

    @property
    def in_sample(self) -> Ints:
        """Places in `rows` of the queries that are measured."""
        return np.searchsorted(self.rows, self.sampled)
