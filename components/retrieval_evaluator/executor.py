"""Reads the evaluator's artifacts, has the model evaluated, and writes evaluation, reports and blessing."""

from __future__ import annotations

import json
import os
from typing import Any

from tfx import types
from tfx.components.evaluator import constants
from tfx.dsl.components.base import base_executor
from tfx.dsl.io import fileio
from tfx.types import artifact_utils
from tfx.utils import path_utils

from two_tower.base import pointers
from two_tower.base.settings import from_plain
from two_tower.components.interaction_example_gen.facts import read_facts
from two_tower.components.per_run_settings import with_submitted
from two_tower.components.pusher.executor import EVALUATED_DIGEST
from two_tower.data_directory.feature_columns import ResolvedFeatures
from two_tower.evaluation import query_results
from two_tower.evaluation.evaluate_model import Evaluated, evaluate_model
from two_tower.evaluation.gate.anchor import next_anchor
from two_tower.evaluation.gate.judge import BLESSED
from two_tower.evaluation.settings import EvaluationConfig, GateConfig
from two_tower.evaluation.task import EvaluationTask, ServedModel
from two_tower.schema import features
from two_tower.serving import canary, provenance
from two_tower.serving.versions import files_of

Artifacts = dict[str, list[types.Artifact]]


class Executor(base_executor.BaseExecutor):
    """Writer of evaluation.json, queries.npz, the blessing and the reports, see `report_files`."""

    def Do(self, input_dict: Artifacts, output_dict: Artifacts, exec_properties: dict[str, Any]) -> None:
        """Evaluates a model. A refusal is a result, not an error: the run goes on, and Pusher pushes nothing.

        Raises:
            UserError: see `evaluate_model`.
        """
        task = _task(input_dict, exec_properties)
        evaluated = evaluate_model(task)
        directory = artifact_utils.get_single_uri(output_dict["evaluation"])
        for artifacts in output_dict.values():
            fileio.makedirs(artifact_utils.get_single_uri(artifacts))
        with fileio.open(os.path.join(directory, "evaluation.json"), "w") as file:
            file.write(json.dumps(evaluated.evaluation, indent=2, allow_nan=False) + "\n")
        with fileio.open(os.path.join(directory, query_results.FILE_NAME), "wb") as file:
            file.write(evaluated.results.to_bytes())
        _bless(artifact_utils.get_single_instance(output_dict["blessing"]), task, evaluated)
        training = input_dict.get("training")
        evaluated.write_reports(directory, artifact_utils.get_single_uri(training) if training else None)


def _task(input_dict: Artifacts, exec_properties: dict[str, Any]) -> EvaluationTask:
    """Translates artifacts and execution properties."""
    root = exec_properties["root"]
    blessed = pointers.from_text(exec_properties["latest_blessed"])
    anchor = blessed.properties.get(pointers.ANCHOR, "") if blessed else ""
    windows = artifact_utils.get_single_instance(input_dict["examples"])
    gate = from_plain(GateConfig, json.loads(exec_properties["gate_config"]), "gate")
    model = artifact_utils.get_single_instance(input_dict["model"])
    return EvaluationTask(
        config=from_plain(EvaluationConfig, json.loads(exec_properties["evaluation_config"]), "evaluation"),
        gate=with_submitted(gate, "gate", exec_properties),
        facts=read_facts(windows),
        windows={split: str(artifact_utils.get_split_uri([windows], split)) for split in features.SPLITS},
        repeated_labels=windows.get_int_custom_property("repeated_labels") or 0,
        model=ServedModel(
            model.uri,
            path_utils.serving_model_path(model.uri),
            model.get_string_custom_property(provenance.TOWERS) or "",
        ),
        blessed=ServedModel(blessed.uri, files_of(blessed.uri, root)) if blessed else None,
        anchor=ServedModel(anchor, files_of(anchor, root))
        if blessed and anchor not in ("", blessed.uri)
        else None,
        history_length=exec_properties["history_length"],
        resolved=ResolvedFeatures.from_json(exec_properties["features"]),
        seed=exec_properties["seed"],
    )


def _bless(blessing: types.Artifact, task: EvaluationTask, evaluated: Evaluated) -> None:
    """Writes the verdict and what Pusher checks a copy by, which is given the blessing alone."""
    with fileio.open(os.path.join(blessing.uri, canary.FILE_NAME), "w") as file:
        file.write(json.dumps(evaluated.canary, allow_nan=False) + "\n")
    blessing.set_string_custom_property(EVALUATED_DIGEST, task.model.digest)
    anchor = next_anchor(evaluated.evaluation, task.model.uri, task.anchor.uri if task.anchor else None)
    blessing.set_string_custom_property(pointers.ANCHOR, anchor)
    blessing.set_string_custom_property(constants.ARTIFACT_PROPERTY_CURRENT_MODEL_URI_KEY, task.model.uri)
    if task.blessed is not None:
        key = constants.ARTIFACT_PROPERTY_BASELINE_MODEL_URI_KEY
        blessing.set_string_custom_property(key, task.blessed.uri)
    is_blessed = evaluated.evaluation["verdict"] == BLESSED
    blessing.set_int_custom_property(constants.ARTIFACT_PROPERTY_BLESSED_KEY, int(is_blessed))
    name = constants.BLESSED_FILE_NAME if is_blessed else constants.NOT_BLESSED_FILE_NAME
    with fileio.open(os.path.join(blessing.uri, name), "w") as file:
        file.write("")
