"""Executor of Trainer: passes the artifacts' files to trainer.loop.training."""

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

from two_tower.base import pointers
from two_tower.base.pointers import Pointer
from two_tower.base.settings import from_plain
from two_tower.components.catalog_example_gen.executor import SPLIT as CATALOG_SPLIT
from two_tower.components.interaction_example_gen.facts import read_facts
from two_tower.data_directory.facts import DataFacts
from two_tower.data_directory.feature_columns import ResolvedFeatures
from two_tower.serving import provenance
from two_tower.trainer.settings import TrainerConfig

# Custom property of the model if trainer.warm_start is on: the model that training began from, or the reason
# for none. Counts of carried-over rows stand beside it, see `warm_start.CarriedOver.to_dict`.
WARM_START = "warm_start"

_log = logging.getLogger(__name__)


class Executor(base_executor.BaseExecutor):
    """Executor that trains and records the best epoch's validation recall and the warm start on the model."""

    def Do(
        self,
        input_dict: dict[str, list[types.Artifact]],
        output_dict: dict[str, list[types.Artifact]],
        exec_properties: dict[str, Any],
    ) -> None:
        """Writes the model; raises UserError if the loss becomes NaN, and as `training.train` does."""
        # TensorFlow is imported here, not when the pipeline is built.
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
            users_are_new=facts.users_are_new,
        )
        config = from_plain(TrainerConfig, json.loads(exec_properties["trainer"]), "trainer")
        model = artifact_utils.get_single_instance(output_dict["model"])
        start = None
        if config.warm_start:
            start, reason = starting_point(pointers.from_text(exec_properties["latest_blessed"]), facts)
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
    """Returns the directory of checkpoints, shared by trainings with equal inputs, settings and sources.

    A killed training continues from it. Its own outputs cannot hold the checkpoints: TFX removes the outputs
    of a failed execution, and the next execution has others.

    Args:
        model_uri: the output's URI, <pipeline root>/Trainer/model/<execution>.
        input_dict: the inputs; equal URIs mean equal content.
        exec_properties: the component's parameters.

    Returns:
        <pipeline root>/Trainer/.checkpoints/<digest>. Vertex has <pipeline root>/<job>/<task> for the first
        two parts: a retried task continues there, and a new job begins from scratch.
    """
    uris = {name: [artifact.uri for artifact in artifacts] for name, artifacts in input_dict.items()}
    digest = hashlib.sha256(json.dumps([uris, exec_properties], sort_keys=True).encode()).hexdigest()
    component = os.path.dirname(os.path.dirname(model_uri.rstrip("/")))
    return os.path.join(component, ".checkpoints", digest[:16])


def starting_point(blessed: Pointer | None, facts: DataFacts) -> tuple[str | None, str]:
    """Returns the state for a warm start, if `trainer.warm_start` is on.

    Args:
        blessed: the pointer to the latest blessed model, an output of ScannIndexer; None in a first run.
        facts: facts of today's data.

    Returns:
        The directory of the state and a note that names its model; or None and the reason.
    """
    from two_tower.trainer.loop import warm_start

    def none(why: str) -> tuple[None, str]:
        return None, f"none, training begins from scratch. {why}"

    if blessed is None:
        return none(provenance.NO_BLESSED_MODEL)
    recorded = provenance.read(path_utils.serving_model_path(blessed.uri))
    if recorded is None:
        return none(f"The files of the latest blessed model are gone: {blessed.uri}.")
    earlier = provenance.ModelIdentity.from_provenance(recorded, "")
    allowed, reason = provenance.starting_point(provenance.ModelIdentity.to_be_trained(facts), earlier)
    if not allowed:
        return none(reason)
    # Models older than warm starts do not record the URI of their towers.
    towers = blessed.properties.get(provenance.TOWERS, "")
    directory = os.path.join(towers, warm_start.DIRECTORY)
    if not (towers and warm_start.exists(directory)):
        return none(f"The training of {blessed.uri} left no state for a warm start.")
    return directory, f"from {blessed.uri}"
