"""Embeds the catalog, builds the index, and writes the model that is evaluated and pushed."""

from __future__ import annotations

import dataclasses
import json
import os
from typing import Any

from tfx import types
from tfx.dsl.components.base import base_executor
from tfx.dsl.io import fileio
from tfx.types import artifact_utils
from tfx.utils import path_utils

from components.interaction_example_gen.facts import DataFacts
from components.scann_indexer.provenance import PROVENANCE, TOWERS, recorded
from pipeline.configs import IndexConfig
from pipeline.errors import UserError
from pipeline.feature_specs import ResolvedFeatures

_ITEMS_PER_BATCH = 16_384


class Executor(base_executor.BaseExecutor):
    """From the Trainer's towers to one servable SavedModel."""

    def Do(
        self,
        input_dict: dict[str, list[types.Artifact]],
        output_dict: dict[str, list[types.Artifact]],
        exec_properties: dict[str, Any],
    ) -> None:
        """Raises UserError on an empty catalog and on embeddings that are not numbers."""
        import numpy as np
        import tensorflow as tf

        from components.scann_indexer.index import build_index
        from components.scann_indexer.retrieval_model import RetrievalModel

        facts = DataFacts.read(artifact_utils.get_single_instance(input_dict["interactions"]))
        trained = artifact_utils.get_single_instance(input_dict["towers"])
        config = IndexConfig(**json.loads(exec_properties["index"]))
        resolved = ResolvedFeatures.from_json(exec_properties["features"])
        towers = tf.saved_model.load(path_utils.serving_model_path(trained.uri))
        item_id = towers.catalog()["item_id"].numpy()
        if not len(item_id):
            raise UserError(
                "The catalog is empty: items/ of the data directory holds no available item to index."
            )
        batches = [item_id[i : i + _ITEMS_PER_BATCH] for i in range(0, len(item_id), _ITEMS_PER_BATCH)]
        embeddings = np.concatenate(
            [towers.candidate_embedding(tf.constant(batch))["embedding"].numpy() for batch in batches]
        )
        broken = ~np.isfinite(embeddings).all(axis=1)
        if broken.any():
            raise UserError(
                f"The embeddings of {broken.sum()} items are not numbers, item {item_id[broken][0]} for one. "
                "Train again with a lower trainer.learning_rate."
            )
        index = build_index(tf.constant(embeddings), config)

        model = artifact_utils.get_single_instance(output_dict["model"])
        path = path_utils.serving_model_dir(model.uri)
        retrieval = RetrievalModel(towers, index, tf.constant(item_id), config.max_k, resolved.users)
        retrieval.recommend(
            tf.constant([0], tf.int64), tf.zeros([1, 0], tf.int64), tf.zeros([1, 0], tf.int64)
        )  # called once, so that ScaNN's handle is traced into what is saved
        retrieval.save(path)
        described: dict[str, Any] = {"kind": index.kind}
        if index.kind == "scann":
            described |= {"num_leaves": index.num_leaves, "leaves_to_search": index.leaves_to_search}
        provenance = {
            **recorded(facts),
            "index": described,
            "history_length": exec_properties["history_length"],
            "features": dataclasses.asdict(resolved),
            "max_k": config.max_k,
            "items": len(item_id),
        }
        fileio.makedirs(os.path.join(path, "assets.extra"))
        with fileio.open(os.path.join(path, PROVENANCE), "w") as file:
            file.write(json.dumps(provenance, indent=2) + "\n")
        facts.write(model)
        # Not among what is served: the same towers are the same model, wherever they lie.
        model.set_string_custom_property(TOWERS, trained.uri)
