"""Executor of CatalogPlacer: passes the artifacts' files to trainer.loop.placement."""

from __future__ import annotations

import os
from typing import Any

import numpy as np
from tfx import types
from tfx.dsl.components.base import base_executor
from tfx.dsl.io import fileio
from tfx.types import artifact_utils
from tfx.utils import path_utils

from two_tower.components.catalog_example_gen.executor import SPLIT as CATALOG_SPLIT
from two_tower.components.interaction_example_gen.facts import read_facts
from two_tower.data_directory.feature_columns import ResolvedFeatures
from two_tower.serving.provenance import ITEMS, TOWERS
from two_tower.trainer.settings import recorded

# Custom properties of the model: today's items, items new since the training, items with a learnt row,
# withdrawn items of the trained catalog, test labels, and test labels of withdrawn items (always missed).
COUNTS = ("items", "items_new", "items_learnt", "items_withdrawn", "test_labels", "test_labels_withdrawn")


class Executor(base_executor.BaseExecutor):
    """Executor that writes towers over today's items, with the state for a later warm start."""

    def Do(
        self,
        input_dict: dict[str, list[types.Artifact]],
        output_dict: dict[str, list[types.Artifact]],
        exec_properties: dict[str, Any],
    ) -> None:
        """Writes the model; raises UserError as `placement.place` does, or without a state to restore."""
        # TensorFlow is imported here, not when the pipeline is built.
        from two_tower.evaluation.queries import all_queries, read_windows
        from two_tower.trainer.loop import placement, warm_start
        from two_tower.trainer.loss.resolved_settings import repeats_for, users_for

        trained = artifact_utils.get_single_instance(input_dict["towers"])
        state = warm_start.left_by(trained.uri)
        facts = read_facts(artifact_utils.get_single_instance(input_dict["interactions"]))
        catalog = artifact_utils.get_split_uri(input_dict["catalog"], CATALOG_SPLIT)
        resolved = ResolvedFeatures.from_json(exec_properties["features"])
        config = repeats_for(recorded(exec_properties["trainer"]), facts.repeats_recommendable)
        placed = placement.place(
            placement.Training(
                towers=path_utils.serving_model_path(trained.uri),
                state=state,
                transform_graph=artifact_utils.get_single_uri(input_dict["transform_graph"]),
                catalog_graph=artifact_utils.get_single_uri(input_dict["catalog_graph"]),
                config=users_for(config, facts.users_are_new, has_columns=bool(resolved.users)),
                history_length=exec_properties["history_length"],
                resolved=resolved,
            ),
            sorted(fileio.glob(os.path.join(catalog, "*.gz"))),
        )
        model = artifact_utils.get_single_instance(output_dict["model"])
        placed.towers.save(path_utils.serving_model_dir(model.uri))
        # The weights are the same, and so is the state for a warm start.
        kept = os.path.join(model.uri, warm_start.DIRECTORY)
        fileio.makedirs(kept)
        for name in fileio.listdir(state):
            fileio.copy(os.path.join(state, name), os.path.join(kept, name))
        windows = read_windows(artifact_utils.get_split_uri(input_dict["interactions"], "test"))
        labels = all_queries(windows).labels.item_id
        counts = (
            len(placed.items),
            len(placed.new),
            placed.learnt,
            len(placed.withdrawn),
            len(labels),
            int(np.isin(labels, placed.withdrawn).sum()),
        )
        for name, count in zip(COUNTS, counts, strict=True):
            model.set_int_custom_property(name, count)
        model.set_string_custom_property(ITEMS, exec_properties["items_digest"])
        model.set_string_custom_property(TOWERS, trained.uri)
