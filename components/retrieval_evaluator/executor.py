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

from components.interaction_example_gen.facts import DataFacts
from components.pusher import canary
from components.pusher.versions import digest_of
from components.retrieval_evaluator import feature_values, gate, measure, query_results
from components.retrieval_evaluator.baselines import Catalog, fit_baselines
from components.retrieval_evaluator.beyond_accuracy import ItemVectors
from components.retrieval_evaluator.evaluation import Recommendations, evaluate, results_of
from components.retrieval_evaluator.examples import example_users
from components.retrieval_evaluator.item_map import item_map, map_items
from components.retrieval_evaluator.metrics import Ints
from components.retrieval_evaluator.oracle_comparison import OracleAnswers
from components.retrieval_evaluator.queries import (
    NOT_FOR_BASELINES,
    all_queries,
    read_windows,
    sample_by_user,
)
from components.retrieval_evaluator.recommenders import BLESSED_MODEL, MODEL, MODEL_EXACT
from components.retrieval_evaluator.report_files import named, write_reports
from components.retrieval_evaluator.slices import all_slices, trends_from
from components.retrieval_evaluator.train_knowledge import TrainKnowledge
from components.scann_indexer import provenance
from pipeline.configs import EvaluationConfig, GateConfig, from_plain
from pipeline.errors import UserError
from pipeline.feature_specs import ResolvedFeatures


# TFX resolves a baseline model on Vertex only for executors that derive from its own evaluator's.
class Executor(tfx_evaluator.Executor):
    """Writes evaluation.json, queries.npz, the blessing, and what is for readers: see `report_files`."""

    def Do(
        self,
        input_dict: dict[str, list[types.Artifact]],
        output_dict: dict[str, list[types.Artifact]],
        exec_properties: dict[str, Any],
    ) -> None:
        """Refusing a model is a result, not an error: the run goes on, and Pusher pushes nothing."""
        config = from_plain(EvaluationConfig, json.loads(exec_properties["evaluation_config"]), "evaluation")
        gate_config = from_plain(GateConfig, json.loads(exec_properties["gate_config"]), "gate")
        interactions = artifact_utils.get_single_instance(input_dict["examples"])
        facts = DataFacts.read(interactions)
        model = artifact_utils.get_single_instance(input_dict["model"])
        model_path = path_utils.serving_model_path(model.uri)
        history_length = exec_properties["history_length"]
        resolved = ResolvedFeatures.from_json(exec_properties["features"])
        test_dir, eval_dir, train_dir = (
            artifact_utils.get_split_uri([interactions], split) for split in ("test", "eval", "train")
        )
        windows = read_windows(test_dir, resolved.users)
        available = all_queries(windows)
        sampled = sample_by_user(available, config.max_queries, config.seed)
        queries = available.take(sampled)
        # The oracle's queries are all asked, in the sample or not; the metrics are over the sample alone.
        oracle = OracleAnswers.read(facts.data, available)
        rows = np.union1d(sampled, oracle.rows) if oracle else sampled
        in_sample = np.searchsorted(rows, sampled)
        k = max(config.cutoffs)
        exclude = not facts.repeats_recommendable

        def ask(path: str, rows: Ints, served_alone: bool = False) -> measure.Answers:
            return measure.answers(
                path,
                test_dir,
                rows,
                k=k,
                history_length=history_length,
                exclude=exclude,
                users=resolved.users,
                served_alone=served_alone,
            )

        train = TrainKnowledge.of(read_windows(train_dir, without=NOT_FOR_BASELINES))
        evaluation_windows = read_windows(eval_dir, without=NOT_FOR_BASELINES)
        slices = all_slices(
            queries,
            windows,
            train,
            evaluation_windows,
            history_length=history_length,
            recent_from=trends_from(facts.train_end, facts.test_from, facts.test_to),
            columns=[
                *feature_values.of_users(windows, queries, resolved.users),
                *feature_values.of_items(facts.data, queries.label_item_id, resolved.items),
            ],
            most_values=config.slice_values,
        )
        # Before the models are asked, which may take long.
        gate.check_slices(gate_config, [part.name for part in slices])
        answers = ask(model_path, rows)
        recorded = provenance.read(model_path)
        assert recorded is not None, model_path
        digest = digest_of(model_path)
        candidate = provenance.ModelIdentity.from_provenance(recorded, digest)
        blessed = self._blessed(input_dict, candidate, facts, k)
        items = {MODEL: answers.served[in_sample], MODEL_EXACT: answers.exact[in_sample]}
        if blessed and blessed["eligible"]:
            items[BLESSED_MODEL] = ask(
                path_utils.serving_model_path(blessed["uri"]), sampled, served_alone=True
            ).served

        baselines = fit_baselines(
            train.events,
            evaluation_windows,
            cutoff=gate_config.cutoff,
            repeats_recommendable=facts.repeats_recommendable,
            seed=config.seed,
            history_length=exec_properties["history_length"],
            names=config.baselines,
            catalog=_catalog(facts, config),
        )
        recommended = {
            name: baseline.recommend(windows, available, rows, k, exclude)
            for name, baseline in baselines.items()
        }
        recommendations = Recommendations(
            queries=queries,
            items={**items, **{name: found[in_sample] for name, found in recommended.items()}},
            slices=slices,
            train=train,
            history_popularity=train.popularity_of_histories(windows, queries, history_length),
            vectors=ItemVectors.of_model(answers.item_id, answers.embeddings),
            catalog_size=len(answers.item_id),
            cutoffs=config.cutoffs,
            judged_cutoff=gate_config.cutoff,
            seed=config.seed,
            resamples=config.resamples,
        )
        results = results_of(recommendations)
        figures = evaluate(recommendations, results)
        blessed_metrics = figures.pop("blessed_metrics")
        evaluation: dict[str, Any] = {
            "dataset": facts.dataset,
            "protocol": facts.protocol,
            "has_timestamps": facts.has_timestamps,
            "cutoff": gate_config.cutoff,
            "gate": dataclasses.asdict(gate_config),
            "bootstrap": {"resamples": config.resamples, "seed": config.seed},
            "model": {"uri": model.uri, "digest": digest, "index": recorded["index"]},
            "split": {
                "train_end": facts.train_end,
                "eval": [facts.eval_from, facts.eval_to],
                "test": [facts.test_from, facts.test_to],
            },
            "catalog": {"items": len(answers.item_id)},
            "latency": answers.facts["latency"],
            "size": answers.facts["size"],
            **figures,
            "blessed_model": {**blessed, "metrics": blessed_metrics} if blessed else None,
            "oracle": oracle.compare(available, rows, answers.served, recommended, config.cutoffs)
            if oracle
            else None,
        }
        evaluation["queries"] |= {
            "available": len(available),
            "dropped_repeats": interactions.get_int_custom_property("repeated_labels") or 0,
        }
        evaluation["ann"] |= {
            "kind": recorded["index"]["kind"],
            "parity": _parity(answers.facts["parity"], recorded["index"], model),
        }
        for name, baseline in baselines.items():
            evaluation["baselines"][name] |= baseline.settings
        judged = gate.judge(evaluation, gate_config, results).to_dict()
        evaluation = {
            **judged,
            "notes": [*judged["notes"], *baselines.notes.values()],
            "unchanged": bool(blessed and blessed["digest"] == digest),
            **evaluation,
        }
        evaluation["refusal"] = named(evaluation.get("refusal"), facts.data, bool(config.examples))
        self._write(output_dict, evaluation, results, answers.facts["canary"], model, input_dict)
        # The candidate tower's, of items for the map: of the most played, and of others.
        mapped = map_items(answers.item_id, train.events.item_id, config.seed)
        rows_of_map = np.flatnonzero(np.isin(answers.item_id, mapped))
        training = input_dict.get("training")
        write_reports(
            artifact_utils.get_single_uri(output_dict["evaluation"]),
            example_users(
                queries, windows, items[MODEL], facts.data, count=config.examples, seed=config.seed
            ),
            item_map(
                answers.item_id[rows_of_map],
                answers.embeddings[rows_of_map],
                train.events.item_id,
                facts.data,
                config.seed,
            ),
            artifact_utils.get_single_uri(training) if training else None,
        )

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
        identity = provenance.ModelIdentity.from_provenance(recorded, digest_of(path))
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
        is_blessed = evaluation["verdict"] == gate.BLESSED
        blessing.set_int_custom_property(constants.ARTIFACT_PROPERTY_BLESSED_KEY, int(is_blessed))
        name = constants.BLESSED_FILE_NAME if is_blessed else constants.NOT_BLESSED_FILE_NAME
        with fileio.open(os.path.join(blessing.uri, name), "w") as file:
            file.write("")


def _catalog(facts: DataFacts, config: EvaluationConfig) -> Catalog | str:
    """What the data directory says of its items, or why it cannot be asked."""
    try:
        return Catalog.read(facts.data, facts.data_digest, "content_neighbours" in config.baselines)
    except UserError as error:
        return str(error)


def _parity(measured: dict[str, Any], index: dict[str, Any], model: types.Artifact) -> dict[str, Any]:
    """What was measured of the index, and whether the towers that it was built from are the model's own.

    Where these are gone they are None, and nothing can be said against the index.
    """
    towers = model.get_string_custom_property(provenance.TOWERS)
    expected = provenance.towers_digest(towers) if towers else None
    recorded = index.get("towers")
    ok = measured["ok"] and expected in (None, recorded)
    return {**measured, "towers": recorded, "expected_towers": expected, "ok": ok}
