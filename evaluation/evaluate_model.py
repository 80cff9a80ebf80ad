"""Evaluation of a served model, from its answers to evaluation.json and the verdict."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection
from typing import Any

import numpy as np

from two_tower.base.errors import UserError
from two_tower.base.settings import to_plain
from two_tower.data_directory.facts import NEW_USERS
from two_tower.evaluation import feature_values, index_parity
from two_tower.evaluation.baselines.catalog import Catalog
from two_tower.evaluation.baselines.fitting import Fitted, fit_baselines, needs_vectors
from two_tower.evaluation.baselines.ranking import FittedBaseline, first_among
from two_tower.evaluation.beyond_accuracy import ItemVectors
from two_tower.evaluation.figures import Recommendations, evaluate, results_of
from two_tower.evaluation.gate import judge
from two_tower.evaluation.measure import Answers
from two_tower.evaluation.metrics import Ints
from two_tower.evaluation.queries import NOT_FOR_BASELINES, Windows, read_windows
from two_tower.evaluation.query_results import QueryResults
from two_tower.evaluation.recommenders import ANCHOR_MODEL, BLESSED_MODEL, MODEL, MODEL_EXACT
from two_tower.evaluation.report.examples import example_users
from two_tower.evaluation.report.item_map import item_map, map_items
from two_tower.evaluation.report.report_files import named, write_reports
from two_tower.evaluation.slices import Slice, all_slices, trends_from
from two_tower.evaluation.task import EvaluationTask, Questions, ServedModel
from two_tower.evaluation.train_counts import TrainCounts
from two_tower.evaluation.uncertainty import RESAMPLES
from two_tower.serving import provenance

PERSONAL_HISTORY = "personal_history"
_REINDEXED = (
    "The model was re-indexed: baselines, too, recommend none but its items, of those in the data of its "
    "training. The latest blessed model recommends its own items."
)


@dataclasses.dataclass(frozen=True)
class Evaluated:
    """A finished evaluation.

    Attributes:
        evaluation: content of evaluation.json.
        results: content of queries.npz.
        canary: queries with their answers, which Pusher asks again.
    """

    evaluation: dict[str, Any]
    results: QueryResults
    canary: dict[str, Any] | None
    _task: EvaluationTask
    _questions: Questions
    _recommendations: Recommendations
    _answers: Answers

    def write_reports(self, directory: str, training_run: str | None) -> None:
        """Writes example users, the map of items and the reports beside evaluation.json and queries.npz.

        Args:
            directory: directory of the evaluation.
            training_run: directory of the Trainer's run, whose learning curves the report shows, or None.
        """
        data, config, seed = self._task.facts.data, self._task.config, self._task.seed
        recommendations, answers = self._recommendations, self._answers
        played = recommendations.train.events.item_id
        # The map shows the most played items and others.
        rows = np.flatnonzero(np.isin(answers.item_id, map_items(answers.item_id, played, seed)))
        write_reports(
            directory,
            example_users(
                recommendations.queries,
                self._questions.windows,
                recommendations.items[MODEL],
                data,
                count=config.examples,
                seed=seed,
            ),
            item_map(answers.item_id[rows], answers.embeddings[rows], played, data, seed),
            training_run,
        )


def evaluate_model(task: EvaluationTask) -> Evaluated:
    """Measures a model beside baselines and the latest blessed model, and judges it.

    Raises:
        UserError: there is no query to evaluate by, the model's files are gone, or the gate names a slice
            that does not exist: all before a model is asked.
    """
    recorded = task.model.known
    # Read before the model is asked: the digest is of what is judged, whatever becomes of the files.
    digest = task.model.digest
    questions = Questions.read(task)
    train = TrainCounts.of(read_windows(task.windows["train"], without=NOT_FOR_BASELINES))
    evaluation_windows = read_windows(task.windows["eval"], without=NOT_FOR_BASELINES)
    slices = _slices(task, questions, train, evaluation_windows)
    judge.check_slices(task.gate, [part.name for part in slices])
    blessed = compared_model(task, task.blessed, provenance.LATEST_BLESSED)
    anchor = compared_model(task, task.anchor, "best released model")

    answers = task.ask(task.model, questions.rows)
    items = {MODEL: answers.served[questions.in_sample], MODEL_EXACT: answers.exact[questions.in_sample]}
    for who, model, compared in ((BLESSED_MODEL, task.blessed, blessed), (ANCHOR_MODEL, task.anchor, anchor)):
        if model is not None and compared and compared["eligible"]:
            items[who] = task.ask(model, questions.sampled, served_alone=True).served
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
    offered = answers.item_id if provenance.ITEMS in recorded else None
    recommended = {
        name: recommended_by(baseline, task, questions, offered) for name, baseline in baselines.items()
    }
    items |= {name: found[questions.in_sample] for name, found in recommended.items()}
    queries = questions.measured
    recommendations = Recommendations(
        queries=queries,
        items=items,
        slices=slices,
        train=train,
        history_popularity=train.popularity_of_histories(questions.windows, queries, task.history_length),
        without_history=answers.without_history,
        vectors=_vectors(catalog, answers),
        catalog_size=len(answers.item_id),
        cutoffs=task.config.cutoffs,
        judged_cutoff=task.gate.cutoff,
        seed=task.seed,
    )
    results = results_of(recommendations)
    figures = evaluate(recommendations, results)
    measured = _assembled(task, digest, questions, answers, figures, baselines, blessed, anchor)
    if questions.oracle:
        measured["oracle"] = questions.oracle.compare(
            questions.available, questions.rows, answers.served, recommended, task.config.cutoffs
        )
    judged = judge.judge(measured, task.gate, results).to_dict()
    evaluation = {
        **judged,
        "notes": [
            *judged["notes"],
            *baselines.notes.values(),
            *[_REINDEXED] * (offered is not None),
            *(notes_of_new_users(baselines) if task.facts.users_are_new else ()),
        ],
        "unchanged": _is_unchanged(task),
        **measured,
    }
    evaluation["refusal"] = named(evaluation["refusal"], task.facts.data, bool(task.config.examples))
    canary = answers.facts["canary"]
    return Evaluated(evaluation, results, canary, task, questions, recommendations, answers)


def notes_of_new_users(baselines: Collection[str]) -> list[str]:
    """Explains figures that presume users known to train, for data that has none in test."""
    notes = [NEW_USERS, "The slice new_users holds all queries, and the slices by activity hold none."]
    if PERSONAL_HISTORY in baselines:
        notes.append(f"{PERSONAL_HISTORY} knows the listens of the request's history alone.")
    return notes


def _assembled(
    task: EvaluationTask,
    digest: str,
    questions: Questions,
    answers: Answers,
    figures: dict[str, Any],
    baselines: Fitted,
    blessed: dict[str, Any] | None,
    anchor: dict[str, Any] | None,
) -> dict[str, Any]:
    """Puts evaluation.json together without the verdict: facts of the data, figures, baselines' settings."""
    index = task.model.known["index"]
    released = figures.pop("released_metrics")
    for name, baseline in baselines.items():
        figures["baselines"][name] |= baseline.settings
    figures["queries"] |= {
        "available": len(questions.available),
        "dropped_repeats": task.repeated_labels,
    }
    figures["ann"] |= {
        "kind": index["kind"],
        "parity": parity_with_towers(answers.facts["parity"], index, task.model),
    }
    return {
        **_facts(task),
        "model": {"uri": task.model.uri, "digest": digest, "index": index},
        "catalog": {"items": len(answers.item_id), "choice": answers.facts["choice"]},
        "latency": answers.facts["latency"],
        "size": answers.facts["size"],
        **figures,
        "blessed_model": {**blessed, "metrics": released[BLESSED_MODEL]} if blessed else None,
        "anchor": {**anchor, "metrics": released[ANCHOR_MODEL]} if anchor else None,
        "oracle": None,
    }


def _facts(task: EvaluationTask) -> dict[str, Any]:
    """Lists facts of the data and settings, for readers of evaluation.json and for judging it again."""
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


def _is_unchanged(task: EvaluationTask) -> bool:
    """Tells if the latest blessed model is the judged model itself."""
    if task.blessed is None or task.blessed.recorded is None:
        return False
    return task.blessed.identity.digest == task.model.identity.digest


def compared_model(task: EvaluationTask, model: ServedModel | None, who: str) -> dict[str, Any] | None:
    """Decides whether a released model is compared with: `eligible`, `reason`, `uri` and `digest`.

    Args:
        task: the task.
        model: the released model, if there is one.
        who: the released model in words.
    """
    if model is None:
        return None
    if model.recorded is None:
        reason = f"The files of the {who} are gone: {model.uri}."
        return {"eligible": False, "reason": reason, "uri": model.uri, "digest": None}
    eligible, reason = provenance.eligibility(task.model.identity, model.identity, task.facts.test_from, who)
    if eligible and model.recorded["max_k"] < task.k:
        eligible = False
        reason = (
            f"The {who} answers with at most {model.recorded['max_k']} items "
            f"(index.max_k), and evaluation.cutoffs ask for {task.k}."
        )
    return {"eligible": eligible, "reason": reason, "uri": model.uri, "digest": model.digest}


def recommended_by(
    baseline: FittedBaseline, task: EvaluationTask, questions: Questions, offered: Ints | None
) -> Ints:
    """Asks a baseline all queries: [Q, k] items, of those in `offered`, if it is given.

    Baselines know the items of the model's training data. Where the model was given other items since, twice
    as many as needed are asked for, so that k are left where up to half of them are withdrawn.
    """
    wanted = task.k if offered is None else 2 * task.k
    found = baseline.recommend(questions.windows, questions.available, questions.rows, wanted, task.exclude)
    return found if offered is None else first_among(found, offered, task.k)


def parity_with_towers(measured: dict[str, Any], index: dict[str, Any], model: ServedModel) -> dict[str, Any]:
    """Adds to a measured parity whether the index was built from the model's own towers."""
    expected = provenance.towers_digest(model.towers) if model.towers else None
    return index_parity.built_from(measured, index.get("towers"), expected)


def _slices(
    task: EvaluationTask, questions: Questions, train: TrainCounts, evaluation_windows: Windows
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


def _vectors(catalog: Catalog | str, answers: Answers) -> ItemVectors:
    """Returns the vectors that lists are compared with themselves by: content, or else the model's own.

    By its own vectors a model's recommendations look more alike than they are.
    """
    if isinstance(catalog, Catalog) and catalog.embeddings is not None:
        return ItemVectors("content", catalog.items, catalog.embeddings)
    return ItemVectors.of_model(answers.item_id, answers.embeddings)


def _catalog(task: EvaluationTask) -> Catalog | str:
    """Reads the data directory's items, or returns a sentence that says why they cannot be read."""
    facts = task.facts
    try:
        return Catalog.read(facts.data, facts.data_digest, needs_vectors(task.config.baselines))
    except UserError as error:
        return str(error)
