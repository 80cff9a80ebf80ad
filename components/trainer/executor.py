"""Hands the artifacts' files to trainer.training."""

from __future__ import annotations

import hashlib
import json
import logging
import os
from typing import Any

from tfx import types
from tfx.dsl.components.base import base_executor
from tfx.dsl.io import fileio
from tfx.types import artifact_utils
from tfx.utils import path_utils

from two_tower.base.settings import from_plain
from two_tower.components.catalog_example_gen.executor import SPLIT as CATALOG_SPLIT
from two_tower.components.interaction_example_gen.facts import read_facts
from two_tower.data_directory.facts import DataFacts
from two_tower.data_directory.feature_columns import ResolvedFeatures
from two_tower.serving import provenance
from two_tower.trainer.settings import TrainerConfig

# Custom property of the model, where trainer.warm_start is on: which model training began from, or why from
# none. How many rows were carried over stands beside it, see `warm_start.CarriedOver.to_dict`.
WARM_START = "warm_start"

_log = logging.getLogger(__name__)


class Executor(base_executor.BaseExecutor):
    """Trains, and records the best epoch's validation recall on the model, and what training began from."""

    def Do(
        self,
        input_dict: dict[str, list[types.Artifact]],
        output_dict: dict[str, list[types.Artifact]],
        exec_properties: dict[str, Any],
    ) -> None:
        """Raises UserError when the loss becomes NaN, and as `training.train` does."""
        # TensorFlow loads here, not when the pipeline is drawn.
        from two_tower.trainer.loop import training, training_data, warm_start

        examples, catalog = input_dict["examples"], input_dict["catalog"]

        def files(artifacts: list[types.Artifact], split: str) -> list[str]:
            return sorted(fileio.glob(os.path.join(artifact_utils.get_split_uri(artifacts, split), "*.gz")))

        facts = read_facts(artifact_utils.get_single_instance(input_dict["interactions"]))
        data = training_data.TrainingData(
            train_files=files(examples, "train"),
            eval_files=files(examples, "eval"),
            transform_graph=artifact_utils.get_single_uri(input_dict["transform_graph"]),
            catalog_files=files(catalog, CATALOG_SPLIT),
            catalog_graph=artifact_utils.get_single_uri(input_dict["catalog_graph"]),
            history_length=exec_properties["history_length"],
            repeats_recommendable=facts.repeats_recommendable,
            resolved=ResolvedFeatures.from_json(exec_properties["features"]),
        )
        config = from_plain(TrainerConfig, json.loads(exec_properties["trainer"]), "trainer")
        model = artifact_utils.get_single_instance(output_dict["model"])
        start = None
        if config.warm_start:
            start, reason = starting_point(input_dict.get("base_model") or [], facts)
            _log.log(logging.INFO if start else logging.WARNING, "Warm start: %s", reason)
            model.set_string_custom_property(WARM_START, reason)
        result = training.train(
            data,
            config,
            model_dir=path_utils.serving_model_dir(model.uri),
            log_dir=artifact_utils.get_single_uri(output_dict["model_run"]),
            cutoff=exec_properties["cutoff"],
            seed=exec_properties["seed"],
            warm_start=start,
            state_dir=os.path.join(model.uri, warm_start.DIRECTORY),
            checkpoint_dir=checkpoint_directory(model.uri, input_dict, exec_properties),
        )
        for key, value in result.items():
            model.set_float_custom_property(key, float(value))


def checkpoint_directory(
    model_uri: str, input_dict: dict[str, list[types.Artifact]], exec_properties: dict[str, Any]
) -> str:
    """Where a killed training left its checkpoints, if it was of the same inputs, settings and sources.

    An execution's own outputs are of no use for that: TFX removes those of one that fails, and the next has
    others. Beside them it finds nothing of trainings that differ in anything.

    Args:
        model_uri: of the output, <pipeline root>/Trainer/model/<execution>.
        input_dict: each artifact has a place of its own, since nothing is written to one twice.
        exec_properties: the component's parameters.

    Returns:
        <pipeline root>/Trainer/.checkpoints/<digest>, where Vertex has <pipeline root>/<job>/<task> for the
        first two: there a task that is retried goes on, and a new job begins anew.
    """
    uris = {name: [artifact.uri for artifact in artifacts] for name, artifacts in input_dict.items()}
    digest = hashlib.sha256(json.dumps([uris, exec_properties], sort_keys=True).encode()).hexdigest()
    component = os.path.dirname(os.path.dirname(model_uri.rstrip("/")))
    return os.path.join(component, ".checkpoints", digest[:16])


def starting_point(base_model: list[types.Artifact], facts: DataFacts) -> tuple[str | None, str]:
    """Where training begins, if `trainer.warm_start` asks for an earlier model.

    Args:
        base_model: the latest blessed model, which is the ScannIndexer's; empty in a first run.
        facts: of today's data.

    Returns:
        What the training of that model left, and which model it is; or None, and why training begins from
        scratch.
    """
    from two_tower.trainer.loop import warm_start

    def none(why: str) -> tuple[None, str]:
        return None, f"none, training begins from scratch. {why}"

    if not base_model:
        return none(provenance.NO_BLESSED_MODEL)
    model = artifact_utils.get_single_instance(base_model)
    recorded = provenance.read(path_utils.serving_model_path(model.uri))
    if recorded is None:
        return none(f"The files of the latest blessed model are gone: {model.uri}.")
    earlier = provenance.ModelIdentity.from_provenance(recorded, "")
    allowed, reason = provenance.starting_point(provenance.ModelIdentity.to_be_trained(facts), earlier)
    if not allowed:
        return none(reason)
    # Models from before there was warm start do not say where their towers are.
    towers = model.get_string_custom_property(provenance.TOWERS)
    directory = os.path.join(towers, warm_start.DIRECTORY)
    if not (towers and warm_start.exists(directory)):
        return none(f"What the training of {model.uri} had to leave for that is not there.")
    return directory, f"from {model.uri}"
