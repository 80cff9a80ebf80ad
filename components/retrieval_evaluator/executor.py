"""Evaluates what would be pushed, beside baselines and the latest blessed model, and judges it."""

from __future__ import annotations

import dataclasses
import json
import os
from typing import Any

import numpy as np
from tfx import types
from tfx.components.evaluator import constants
from tfx.components.evaluator import executor as tfx_evaluator
from tfx.dsl.io import fileio
from tfx.types import artifact_utils
from tfx.utils import path_utils

from two_tower.base.errors import UserError
from two_tower.base.settings import from_plain, to_plain
from two_tower.components.interaction_example_gen.facts import read_facts
from two_tower.data_directory.facts import DataFacts
from two_tower.data_directory.feature_columns import ResolvedFeatures
from two_tower.evaluation import feature_values, index_parity, measure, query_results
from two_tower.evaluation.baselines.catalog import Catalog
from two_tower.evaluation.baselines.fitting import fit_baselines, needs_vectors
from two_tower.evaluation.baselines.ranking import FittedBaseline, first_among
from two_tower.evaluation.beyond_accuracy import ItemVectors
from two_tower.evaluation.bootstrap import RESAMPLES
from two_tower.evaluation.figures import Recommendations, evaluate, results_of
from two_tower.evaluation.gate import judge
from two_tower.evaluation.metrics import Ints
from two_tower.evaluation.oracle_comparison import OracleAnswers
from two_tower.evaluation.queries import (
    NOT_FOR_BASELINES,
    Queries,
    Windows,
    all_queries,
    read_windows,
    sample_by_user,
)
from two_tower.evaluation.recommenders import BLESSED_MODEL, MODEL, MODEL_EXACT
from two_tower.evaluation.report.examples import example_users
from two_tower.evaluation.report.item_map import item_map, map_items
from two_tower.evaluation.report.report_files import named, write_reports
from two_tower.evaluation.settings import EvaluationConfig, GateConfig
from two_tower.evaluation.slices import Slice, all_slices, trends_from
from two_tower.evaluation.train_counts import TrainKnowledge
from two_tower.serving import canary, provenance

_REINDEXED = (
    "The model was re-indexed: baselines, too, recommend none but its items, of those that the data of its "
    "training have. The latest blessed model recommends its own."
)


@dataclasses.dataclass(frozen=True)
class _Task:
    """What is to be evaluated, on what, and by which settings."""

    config: EvaluationConfig
    gate: GateConfig
    interactions: types.Artifact
    facts: DataFacts
    model: types.Artifact
    history_length: int
    resolved: ResolvedFeatures
    seed: int

    @classmethod
    def of(cls, input_dict: dict[str, list[types.Artifact]], exec_properties: dict[str, Any]) -> _Task:
        """From what the component is given."""
        interactions = artifact_utils.get_single_instance(input_dict["examples"])
        return cls(
            from_plain(EvaluationConfig, json.loads(exec_properties["evaluation_config"]), "evaluation"),
            from_plain(GateConfig, json.loads(exec_properties["gate_config"]), "gate"),
            interactions,
            read_facts(interactions),
            artifact_utils.get_single_instance(input_dict["model"]),
            exec_properties["history_length"],
            ResolvedFeatures.from_json(exec_properties["features"]),
            exec_properties["seed"],
        )

    @property
    def k(self) -> int:
        """How many items everyone recommends."""
        return max(self.config.cutoffs)

    @property
    def exclude(self) -> bool:
        """Whether what a user had must not be recommended."""
        return not self.facts.repeats_recommendable

    def directory(self, split: str) -> str:
        """Where a split's windows are."""
        return str(artifact_utils.get_split_uri([self.interactions], split))

    def ask(self, model_uri: str, rows: Ints, served_alone: bool = False) -> measure.Answers:
        """A model's answers to some of the test split's queries."""
        return measure.answers(
            path_utils.serving_model_path(model_uri),
            self.directory("test"),
            rows,
            k=self.k,
            history_length=self.history_length,
            exclude=self.exclude,
            users=self.resolved.users,
            served_alone=served_alone,
        )


@dataclasses.dataclass(frozen=True)
class _Questions:
    """The queries of the test split that are asked.

    Attributes:
        windows: the split's.
        available: all its queries.
        sampled: rows of those that are measured.
        oracle: its answers, where the data is simulated. Its queries are all asked, in the sample or not.
        rows: of all that are asked, ascending.
    """

    windows: Windows
    available: Queries
    sampled: Ints
    oracle: OracleAnswers | None
    rows: Ints

    @classmethod
    def read(cls, task: _Task) -> _Questions:
        """Raises UserError where there is nothing to ask."""
        windows = read_windows(task.directory("test"), task.resolved.users)
        available = all_queries(windows)
        if not len(available):
            raise UserError(
                "The test split holds no query: there is nothing to evaluate by. Change "
                "split.holdout_seconds or split.last_timestamp, or bring more data."
            )
        sampled = sample_by_user(available, task.config.max_queries, task.seed)
        oracle = OracleAnswers.read(task.facts.data, available)
        return cls(
            windows, available, sampled, oracle, np.union1d(sampled, oracle.rows) if oracle else sampled
        )

    @property
    def measured(self) -> Queries:
        """The queries of the sample."""
        return self.available.take(self.sampled)

    @property
    def in_sample(self) -> Ints:
        """Places in `rows` of those that are measured."""
        return np.searchsorted(self.rows, self.sampled)


# TFX resolves a baseline model on Vertex only for executors that derive from its own evaluator's.
class Executor(tfx_evaluator.Executor):
    """Writes evaluation.json, queries.npz, the blessing, and what is for readers: see `report_files`."""

    def Do(
        self,
        input_dict: dict[str, list[types.Artifact]],
        output_dict: dict[str, list[types.Artifact]],
        exec_properties: dict[str, Any],
    ) -> None:
        """Refusing a model is a result, not an error: the run goes on, and Pusher pushes nothing.

        Raises UserError where there is no query to evaluate by, the model's files are gone, or the gate names
        a slice that there is not: all before a model is asked.
        """
        task = _Task.of(input_dict, exec_properties)
        recorded, digest = _identified(task.model)
        questions = _Questions.read(task)
        train = TrainKnowledge.of(read_windows(task.directory("train"), without=NOT_FOR_BASELINES))
        evaluation_windows = read_windows(task.directory("eval"), without=NOT_FOR_BASELINES)
        slices = _slices(task, questions, train, evaluation_windows)
        judge.check_slices(task.gate, [part.name for part in slices])
        candidate = provenance.ModelIdentity.from_provenance(recorded, digest)
        blessed = self._blessed(input_dict, candidate, task.facts, task.k)

        answers = task.ask(task.model.uri, questions.rows)
        items = {who: found[questions.in_sample] for who, found in _of_model(answers).items()}
        if blessed and blessed["eligible"]:
            items[BLESSED_MODEL] = task.ask(blessed["uri"], questions.sampled, served_alone=True).served
        catalog = _catalog(task)
        baselines = fit_baselines(
            train.events,
            evaluation_windows,
            cutoff=task.gate.cutoff,
            repeats_recommendable=task.facts.repeats_recommendable,
            seed=task.seed,
            history_length=task.history_length,
            names=task.config.baselines,
            catalog=catalog,
        )
        is_reindexed = provenance.ITEMS in recorded
        offered = answers.item_id if is_reindexed else None
        recommended = {
            name: _of_baseline(baseline, task, questions, offered) for name, baseline in baselines.items()
        }
        queries = questions.measured
        recommendations = Recommendations(
            queries=queries,
            items={**items, **{name: found[questions.in_sample] for name, found in recommended.items()}},
            slices=slices,
            train=train,
            history_popularity=train.popularity_of_histories(questions.windows, queries, task.history_length),
            vectors=_vectors(catalog, answers),
            catalog_size=len(answers.item_id),
            cutoffs=task.config.cutoffs,
            judged_cutoff=task.gate.cutoff,
            seed=task.seed,
        )
        results = results_of(recommendations)
        figures = evaluate(recommendations, results)
        for name, baseline in baselines.items():
            figures["baselines"][name] |= baseline.settings
        figures["queries"] |= {
            "available": len(questions.available),
            "dropped_repeats": task.interactions.get_int_custom_property("repeated_labels") or 0,
        }
        figures["ann"] |= {
            "kind": recorded["index"]["kind"],
            "parity": _parity(answers.facts["parity"], recorded["index"], task.model),
        }
        blessed_metrics = figures.pop("blessed_metrics")
        evaluation: dict[str, Any] = {
            **_facts(task),
            "model": {"uri": task.model.uri, "digest": digest, "index": recorded["index"]},
            "catalog": {"items": len(answers.item_id)},
            "latency": answers.facts["latency"],
            "size": answers.facts["size"],
            **figures,
            "blessed_model": {**blessed, "metrics": blessed_metrics} if blessed else None,
            "oracle": questions.oracle.compare(
                questions.available, questions.rows, answers.served, recommended, task.config.cutoffs
            )
            if questions.oracle
            else None,
        }
        judged = judge.judge(evaluation, task.gate, results).to_dict()
        evaluation = {
            **judged,
            "notes": [*judged["notes"], *baselines.notes.values(), *[_REINDEXED] * is_reindexed],
            "unchanged": bool(blessed and blessed["digest"] == digest),
            **evaluation,
        }
        evaluation["refusal"] = named(evaluation.get("refusal"), task.facts.data, bool(task.config.examples))
        self._write(output_dict, evaluation, results, answers.facts["canary"], task.model, input_dict)
        _write_for_readers(task, recommendations, questions.windows, answers, input_dict, output_dict)

    def _blessed(
        self,
        input_dict: dict[str, list[types.Artifact]],
        candidate: provenance.ModelIdentity,
        facts: DataFacts,
        k: int,
    ) -> dict[str, Any] | None:
        """The latest blessed model, and whether it may be compared with: asked for its first k."""
        if not input_dict.get("baseline_model"):
            return None
        model = artifact_utils.get_single_instance(input_dict["baseline_model"])
        path = path_utils.serving_model_path(model.uri)
        recorded = provenance.read(path)
        if recorded is None:
            reason = f"The files of the latest blessed model are gone: {model.uri}."
            return {"eligible": False, "reason": reason, "uri": model.uri, "digest": None}
        identity = provenance.ModelIdentity.from_provenance(recorded, provenance.digest_of(path))
        eligible, reason = provenance.eligibility(candidate, identity, facts.test_from)
        if eligible and recorded["max_k"] < k:
            eligible = False
            reason = (
                f"The latest blessed model answers with at most {recorded['max_k']} items "
                f"(index.max_k), and evaluation.cutoffs ask for {k}."
            )
        return {"eligible": eligible, "reason": reason, "uri": model.uri, "digest": identity.digest}

    def _write(
        self,
        output_dict: dict[str, list[types.Artifact]],
        evaluation: dict[str, Any],
        results: query_results.QueryResults,
        recorded_queries: dict[str, Any] | None,
        model: types.Artifact,
        input_dict: dict[str, list[types.Artifact]],
    ) -> None:
        output = artifact_utils.get_single_instance(output_dict["evaluation"])
        with fileio.open(os.path.join(output.uri, "evaluation.json"), "w") as file:
            file.write(json.dumps(evaluation, indent=2, allow_nan=False) + "\n")
        with fileio.open(os.path.join(output.uri, query_results.FILE_NAME), "wb") as file:
            file.write(results.to_bytes())
        blessing = artifact_utils.get_single_instance(output_dict["blessing"])
        # Of an evaluation Pusher is given the blessing alone.
        with fileio.open(os.path.join(blessing.uri, canary.FILE_NAME), "w") as file:
            file.write(json.dumps(recorded_queries, allow_nan=False) + "\n")
        # What TFX's resolver of the latest blessed model reads.
        blessing.set_string_custom_property(constants.ARTIFACT_PROPERTY_CURRENT_MODEL_URI_KEY, model.uri)
        blessing.set_int_custom_property(constants.ARTIFACT_PROPERTY_CURRENT_MODEL_ID_KEY, model.id)
        if input_dict.get("baseline_model"):
            baseline = artifact_utils.get_single_instance(input_dict["baseline_model"])
            uri_key = constants.ARTIFACT_PROPERTY_BASELINE_MODEL_URI_KEY
            blessing.set_string_custom_property(uri_key, baseline.uri)
            blessing.set_int_custom_property(constants.ARTIFACT_PROPERTY_BASELINE_MODEL_ID_KEY, baseline.id)
        is_blessed = evaluation["verdict"] == judge.BLESSED
        blessing.set_int_custom_property(constants.ARTIFACT_PROPERTY_BLESSED_KEY, int(is_blessed))
        name = constants.BLESSED_FILE_NAME if is_blessed else constants.NOT_BLESSED_FILE_NAME
        with fileio.open(os.path.join(blessing.uri, name), "w") as file:
            file.write("")


def _identified(model: types.Artifact) -> tuple[dict[str, Any], str]:
    """What a model says of itself, and the digest of its files. Raises UserError where these are gone."""
    path = path_utils.serving_model_path(model.uri)
    recorded = provenance.read(path)
    if recorded is None:
        raise UserError(
            f"{path}: the files of the model that is to be evaluated are gone. Bring them back, or run in a "
            "new output directory."
        )
    return recorded, provenance.digest_of(path)


def _slices(
    task: _Task, questions: _Questions, train: TrainKnowledge, evaluation_windows: Windows
) -> list[Slice]:
    facts, queries, windows = task.facts, questions.measured, questions.windows
    return all_slices(
        queries,
        windows,
        train,
        evaluation_windows,
        history_length=task.history_length,
        recent_from=trends_from(facts.train_end, facts.test_from, facts.test_to),
        columns=[
            *feature_values.of_users(windows, queries, task.resolved.users),
            *feature_values.of_items(facts.data, queries.label_item_id, task.resolved.items),
        ],
    )


def _of_model(answers: measure.Answers) -> dict[str, Ints]:
    return {MODEL: answers.served, MODEL_EXACT: answers.exact}


def _of_baseline(baseline: FittedBaseline, task: _Task, questions: _Questions, offered: Ints | None) -> Ints:
    """What a baseline recommends to all that are asked, [Q, k]; of the items in `offered`, if it is given.

    Baselines know the items of the data that the model was trained on. Where it was given others since, twice
    as many as are needed are asked for, so that k are left where up to half of them are withdrawn.
    """
    wanted = task.k if offered is None else 2 * task.k
    found = baseline.recommend(questions.windows, questions.available, questions.rows, wanted, task.exclude)
    return found if offered is None else first_among(found, offered, task.k)


def _vectors(catalog: Catalog | str, answers: measure.Answers) -> ItemVectors:
    """What lists are compared with themselves by: content where it was read, else the model's own vectors.

    By its own vectors what a model recommends looks more alike than it is.
    """
    if isinstance(catalog, Catalog) and catalog.embeddings is not None:
        return ItemVectors("content", catalog.items, catalog.embeddings)
    return ItemVectors.of_model(answers.item_id, answers.embeddings)


def _facts(task: _Task) -> dict[str, Any]:
    """Of the data and the settings, for whoever reads evaluation.json or judges by it again."""
    facts = task.facts
    return {
        "dataset": facts.dataset,
        "protocol": facts.protocol,
        "has_timestamps": facts.has_timestamps,
        "cutoff": task.gate.cutoff,
        "gate": to_plain(task.gate),
        "bootstrap": {"resamples": RESAMPLES, "seed": task.seed},
        "split": {
            "train_end": facts.train_end,
            "eval": [facts.eval_from, facts.eval_to],
            "test": [facts.test_from, facts.test_to],
        },
    }


def _write_for_readers(
    task: _Task,
    recommendations: Recommendations,
    windows: Windows,
    answers: measure.Answers,
    input_dict: dict[str, list[types.Artifact]],
    output_dict: dict[str, list[types.Artifact]],
) -> None:
    """Example users, the map of items, and the reports over what was written before."""
    data, seed, played = task.facts.data, task.seed, recommendations.train.events.item_id
    # The candidate tower's, of items for the map: of the most played, and of others.
    mapped = map_items(answers.item_id, played, seed)
    rows = np.flatnonzero(np.isin(answers.item_id, mapped))
    training = input_dict.get("training")
    write_reports(
        artifact_utils.get_single_uri(output_dict["evaluation"]),
        example_users(
            recommendations.queries,
            windows,
            recommendations.items[MODEL],
            data,
            count=task.config.examples,
            seed=seed,
        ),
        item_map(answers.item_id[rows], answers.embeddings[rows], played, data, seed),
        artifact_utils.get_single_uri(training) if training else None,
    )


def _catalog(task: _Task) -> Catalog | str:
    """What the data directory says of its items, or why it cannot be asked."""
    facts = task.facts
    try:
        return Catalog.read(facts.data, facts.data_digest, needs_vectors(task.config.baselines))
    except UserError as error:
        return str(error)


def _parity(measured: dict[str, Any], index: dict[str, Any], model: types.Artifact) -> dict[str, Any]:
    """What was measured of the index, and whether the towers that it was built from are the model's own."""
    towers = model.get_string_custom_property(provenance.TOWERS)
    expected = provenance.towers_digest(towers) if towers else None
    return index_parity.built_from(measured, index.get("towers"), expected)
