"""Hands the artifacts' files to trainer.training."""

from __future__ import annotations

import json
import os
from typing import Any

from tfx import types
from tfx.dsl.components.base import base_executor
from tfx.dsl.io import fileio
from tfx.types import artifact_utils
from tfx.utils import path_utils

from components.catalog_example_gen.executor import SPLIT as CATALOG_SPLIT
from components.interaction_example_gen.facts import DataFacts
from pipeline.configs import TrainerConfig
from pipeline.feature_specs import ResolvedFeatures


class Executor(base_executor.BaseExecutor):
    """Trains, and records the best epoch's validation recall on the model."""

    def Do(
        self,
        input_dict: dict[str, list[types.Artifact]],
        output_dict: dict[str, list[types.Artifact]],
        exec_properties: dict[str, Any],
    ) -> None:
        """Raises UserError when the loss becomes NaN."""
        from trainer import training, training_data  # TensorFlow loads here, not when the pipeline is drawn.

        examples, catalog = input_dict["examples"], input_dict["catalog"]

        def files(artifacts: list[types.Artifact], split: str) -> list[str]:
            return sorted(fileio.glob(os.path.join(artifact_utils.get_split_uri(artifacts, split), "*.gz")))

        facts = DataFacts.read(artifact_utils.get_single_instance(input_dict["interactions"]))
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
        model = artifact_utils.get_single_instance(output_dict["model"])
        result = training.train(
            data,
            TrainerConfig(**json.loads(exec_properties["trainer"])),
            model_dir=path_utils.serving_model_dir(model.uri),
            log_dir=artifact_utils.get_single_uri(output_dict["model_run"]),
            cutoff=exec_properties["cutoff"],
        )
        for key, value in result.items():
            model.set_float_custom_property(key, float(value))
