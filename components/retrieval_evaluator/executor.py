"""Evaluates what would be pushed, beside baselines and the latest blessed model, and judges it."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from tfx import types
from tfx.components.evaluator import constants
from tfx.components.evaluator import executor as tfx_evaluator
from tfx.dsl.io import fileio
from tfx.types import artifact_utils
from tfx.utils import path_utils

from components.interaction_example_gen.facts import DataFacts
from components.pusher.versions import digest_of
from components.retrieval_evaluator import gate, measure
from components.retrieval_evaluator.baselines import LabelEvents, fit_baselines
from components.retrieval_evaluator.markdown_report import render
from components.retrieval_evaluator.metrics import Ints, ann_recall, label_ranks, summarize
from components.retrieval_evaluator.oracle_comparison import OracleAnswers
from components.retrieval_evaluator.queries import (
    LabelSets,
    Windows,
    all_queries,
    read_windows,
    sample_by_user,
)
from components.retrieval_evaluator.slices import Slice, all_slices, trends_from
from components.scann_indexer import provenance
from pipeline.configs import EvaluationConfig, GateConfig
from pipeline.feature_specs import ResolvedFeatures
from trainer import features


# TFX resolves a baseline model on Vertex only for executors that derive from its own evaluator's.
class Executor(tfx_evaluator.Executor):
    """Writes evaluation.json, report.md and the blessing."""

    def Do(
        self,
        input_dict: dict[str, list[types.Artifact]],
        output_dict: dict[str, list[types.Artifact]],
        exec_properties: dict[str, Any],
    ) -> None:
        """Refusing a model is a result, not an error: the run goes on, and Pusher pushes nothing."""
        config = EvaluationConfig(**json.loads(exec_properties["evaluation_config"]))
        gate_config = GateConfig(**json.loads(exec_properties["gate_config"]))
        interactions = artifact_utils.get_single_instance(input_dict["examples"])
        facts = DataFacts.read(interactions)
        model = artifact_utils.get_single_instance(input_dict["model"])
        windows = {
            split: read_windows(artifact_utils.get_split_uri([interactions], split))
            for split in features.SPLITS
        }
        available = all_queries(windows["test"])
        sampled = sample_by_user(available, config.max_queries, config.seed)
        queries = available.take(sampled)
        # The oracle's queries are all asked, in the sample or not; the metrics are over the sample alone.
        oracle = OracleAnswers.read(facts.data, available)
        rows = np.union1d(sampled, oracle.rows) if oracle else sampled
        in_sample = np.searchsorted(rows, sampled)
        k = max(config.cutoffs)
        exclude = not facts.repeats_recommendable
        users = ResolvedFeatures.from_json(exec_properties["features"]).users
        model_path = path_utils.serving_model_path(model.uri)

        def ask(path: str, rows: Ints) -> tuple[Ints, Ints, int]:
            return measure.answers(
                path,
                artifact_utils.get_split_uri([interactions], "test"),
                rows,
                k=k,
                history_length=exec_properties["history_length"],
                exclude=exclude,
                users=users,
            )

        asked, asked_exactly, catalog_size = ask(model_path, rows)
        served, exact = asked[in_sample], asked_exactly[in_sample]

        def summary(recommended: Ints) -> dict[str, float | None]:
            return _finite(
                summarize(recommended, queries.labels, queries.user_id, config.cutoffs, catalog_size)
            )

        events = LabelEvents.of(windows["train"])
        baselines = fit_baselines(
            events,
            windows["eval"],
            cutoff=gate_config.cutoff,
            repeats_recommendable=facts.repeats_recommendable,
            seed=config.seed,
        )
        recommended = {
            name: baseline.recommend(windows["test"], available, rows, k, exclude)
            for name, baseline in baselines.items()
        }
        answers = {"model": served, **{name: items[in_sample] for name, items in recommended.items()}}
        recent_from = trends_from(facts.train_end, facts.test_from, facts.test_to)
        slices = all_slices(queries, windows["test"], windows["train"], events, recent_from)
        recorded = provenance.read(model_path)
        assert recorded is not None, model_path
        digest = digest_of(model_path)
        candidate = provenance.ModelIdentity.from_provenance(recorded, digest)
        blessed = self._blessed(input_dict, candidate, facts, k)
        if blessed and blessed["eligible"]:
            blessed["metrics"] = summary(ask(path_utils.serving_model_path(blessed["uri"]), sampled)[0])

        evaluation: dict[str, Any] = {
            "dataset": facts.dataset,
            "protocol": facts.protocol,
            "has_timestamps": facts.has_timestamps,
            "cutoff": gate_config.cutoff,
            "model": {"uri": model.uri, "digest": digest, "index": recorded["index"]},
            "split": {
                "train_end": facts.train_end,
                "eval": [facts.eval_from, facts.eval_to],
                "test": [facts.test_from, facts.test_to],
            },
            "catalog": {"items": catalog_size},
            "queries": {
                "test": len(queries),
                "users": len(np.unique(queries.user_id)),
                "available": len(available),
                "by_users_unknown_to_train": int((~np.isin(queries.user_id, windows["train"].user_id)).sum()),
                "dropped_repeats": interactions.get_int_custom_property("repeated_labels") or 0,
                "labels": _labels(queries.labels, windows["train"]),
            },
            "metrics": {"test": summary(served), "test_exact": summary(exact)},
            "baselines": {
                name: {**summary(items[in_sample]), **baselines[name].settings}
                for name, items in recommended.items()
            },
            "slices": _sliced(slices, queries.labels, answers, config.cutoffs),
            "ann": {
                **{f"recall@{k}": _ann_recall(served[:, :k], exact[:, :k]) for k in config.cutoffs},
                "kind": recorded["index"]["kind"],
            },
            "blessed_model": blessed,
            "oracle": oracle.compare(available, rows, asked, recommended, config.cutoffs) if oracle else None,
        }
        judgement = gate.judge(evaluation, gate_config)
        evaluation = {
            "verdict": judgement.verdict,
            "unchanged": bool(blessed and blessed["digest"] == digest),
            "thresholds": [threshold.to_dict() for threshold in judgement.thresholds],
            "notes": list(judgement.notes),
            **evaluation,
        }
        self._write(output_dict, evaluation, model, input_dict)

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
            return {"eligible": False, "reason": reason, "uri": model.uri, "digest": None, "metrics": {}}
        identity = provenance.ModelIdentity.from_provenance(recorded, digest_of(path))
        eligible, reason = provenance.eligibility(candidate, identity, facts.test_from)
        if eligible and recorded["max_k"] < k:
            eligible = False
            reason = (
                f"The latest blessed model answers with at most {recorded['max_k']} items "
                f"(index.max_k), and evaluation.cutoffs ask for {k}."
            )
        return {
            "eligible": eligible,
            "reason": reason,
            "uri": model.uri,
            "digest": identity.digest,
            "metrics": {},
        }

    def _write(
        self,
        output_dict: dict[str, list[types.Artifact]],
        evaluation: dict[str, Any],
        model: types.Artifact,
        input_dict: dict[str, list[types.Artifact]],
    ) -> None:
        output = artifact_utils.get_single_instance(output_dict["evaluation"])
        with fileio.open(os.path.join(output.uri, "evaluation.json"), "w") as file:
            file.write(json.dumps(evaluation, indent=2, allow_nan=False) + "\n")
        with fileio.open(os.path.join(output.uri, "report.md"), "w") as file:
            file.write(render(evaluation))
        blessing = artifact_utils.get_single_instance(output_dict["blessing"])
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


def _sliced(
    slices: Sequence[Slice], labels: LabelSets, answers: Mapping[str, Ints], cutoffs: Sequence[int]
) -> dict[str, Any]:
    """By slice its size and, by who recommended, its metrics."""
    ranks = {name: label_ranks(items, labels) for name, items in answers.items()}
    return {
        part.name: {
            **part.size(labels),
            "metrics": {name: _finite(part.metrics(r, labels, cutoffs)) for name, r in ranks.items()},
        }
        for part in slices
    }


def _finite(metrics: Mapping[str, float]) -> dict[str, float | None]:
    """As JSON holds them: what is no number is null."""
    return {name: value if math.isfinite(value) else None for name, value in metrics.items()}


def _labels(labels: LabelSets, train: Windows) -> dict[str, float]:
    """How many labels the queries have, and how many of them are items that no train window holds."""
    counts = labels.counts
    return {
        "total": len(labels.item_id),
        "mean": float(counts.mean()) if len(counts) else 0.0,
        "median": float(np.median(counts)) if len(counts) else 0.0,
        "max": int(counts.max(initial=0)),
        "unknown_to_train": int((~np.isin(labels.item_id, train.item_id)).sum()),
    }


def _ann_recall(served: Ints, exact: Ints) -> float | None:
    recall = ann_recall(served, exact)
    return recall if math.isfinite(recall) else None
