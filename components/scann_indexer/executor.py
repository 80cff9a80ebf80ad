"""Executor of ScannIndexer: embeds the catalog, builds the index and writes the servable models."""

from __future__ import annotations

import dataclasses
import json
import os
from typing import Any

import numpy as np
import numpy.typing as npt
from tfx import types
from tfx.dsl.components.base import base_executor
from tfx.dsl.io import fileio
from tfx.types import artifact_utils
from tfx.utils import path_utils

from two_tower.base.errors import UserError
from two_tower.base.import_closure import import_digest
from two_tower.base.settings import from_plain
from two_tower.components.catalog_example_gen.executor import SPLIT as CATALOG_SPLIT
from two_tower.components.interaction_example_gen.facts import read_facts, write_facts
from two_tower.data_directory.feature_columns import ResolvedFeatures
from two_tower.evaluation.tuning_queries import tuning_queries
from two_tower.schema import features, text_ids
from two_tower.schema.request_inputs import IdKinds
from two_tower.serving.catalog_embeddings import check_embeddings, check_ids, embed_catalog
from two_tower.serving.provenance import ITEMS, PROVENANCE, TOWERS, recorded, towers_digest
from two_tower.serving.settings import IndexConfig

_ITEMS_PER_BATCH = 16_384


def _code_digest() -> str:
    """Returns the digest of the code that draws the graph of Transform, of the towers and of the index.

    Equal weights in another graph are another model.
    """
    return import_digest(
        "two_tower.trainer.model.preprocessing",
        "two_tower.trainer.model.signatures",
        "two_tower.serving.retrieval_model",
    )


def _texts_of(item_id: npt.NDArray[np.int64], catalog: str) -> npt.NDArray[np.object_]:
    """Reads the texts of ids from the catalog's Examples, UTF-8 [items].

    Raises:
        UserError: an item has none.
    """
    import tensorflow as tf

    spec = {
        features.ITEM_ID: tf.io.FixedLenFeature([], tf.int64),
        features.ITEM_TEXT: tf.io.FixedLenFeature([], tf.string, default_value=""),
    }
    texts = np.full(len(item_id), b"", object)
    order = np.argsort(item_id)
    files = sorted(fileio.glob(os.path.join(catalog, "*.gz")))
    for serialized in tf.data.TFRecordDataset(files, compression_type="GZIP").batch(_ITEMS_PER_BATCH):
        parsed = tf.io.parse_example(serialized, spec)
        found = parsed[features.ITEM_ID].numpy()
        place = order[np.minimum(np.searchsorted(item_id, found, sorter=order), len(item_id) - 1)]
        is_one = item_id[place] == found
        texts[place[is_one]] = parsed[features.ITEM_TEXT].numpy()[is_one]
    if lacking := int((texts == b"").sum()):
        raise UserError(
            f"{lacking:,} items have no text of their id, such as item {item_id[texts == b''][0]}. The model "
            f"was trained on text ids: items/ needs the column '{text_ids.ORIGINAL_ID}'. Ingest the items."
        )
    return texts


class Executor(base_executor.BaseExecutor):
    """Executor that writes two servable SavedModels from the Trainer's towers: with ScaNN, and exact."""

    def Do(
        self,
        input_dict: dict[str, list[types.Artifact]],
        output_dict: dict[str, list[types.Artifact]],
        exec_properties: dict[str, Any],
    ) -> None:
        """Writes `model` and `exact_model`.

        Raises:
            UserError: the catalog is empty or repeats ids, or embeddings are not finite or all zero.
        """
        import tensorflow as tf

        from two_tower.serving.index import ExactIndex
        from two_tower.serving.index_tuning import Built, build_index, needs_queries
        from two_tower.serving.retrieval_model import RetrievalModel

        interactions = artifact_utils.get_single_instance(input_dict["interactions"])
        facts = read_facts(interactions)
        trained = artifact_utils.get_single_instance(input_dict["towers"])
        config = from_plain(IndexConfig, json.loads(exec_properties["index"]), "index")
        history_length = exec_properties["history_length"]
        resolved = ResolvedFeatures.from_json(exec_properties["features"])
        towers = tf.saved_model.load(path_utils.serving_model_path(trained.uri))
        item_id = towers.catalog()["item_id"].numpy()
        check_ids(item_id)
        ids = IdKinds.of(dataclasses.asdict(facts))
        item_text = None
        if ids.item_id != text_ids.INTEGER:
            item_text = _texts_of(item_id, artifact_utils.get_split_uri(input_dict["catalog"], CATALOG_SPLIT))
        embeddings = embed_catalog(towers, item_id)
        check_embeddings(item_id, embeddings)
        queries, groups = np.zeros([0, embeddings.shape[1]], np.float32), np.zeros(0, np.int64)
        seed = exec_properties["seed"]
        if needs_queries(len(item_id)):
            windows = [artifact_utils.get_split_uri([interactions], split) for split in ("eval", "train")]
            queries, groups = tuning_queries(windows, towers, history_length, resolved.users, seed)
        built = build_index(
            embeddings,
            queries,
            config,
            exec_properties["target_recall"],
            seed,
            groups,
            exec_properties["cutoff"],
        )

        model = artifact_utils.get_single_instance(output_dict["model"])
        exact_model = artifact_utils.get_single_instance(output_dict["exact_model"])
        exact = ExactIndex(tf.constant(embeddings))
        without_scann = Built(exact, "Exact search: the form without custom operations.", None)
        for artifact, form in ((model, built), (exact_model, without_scann)):
            path = path_utils.serving_model_dir(artifact.uri)
            RetrievalModel(
                towers,
                form.index,
                tf.constant(item_id),
                config.max_k,
                resolved.users,
                facts.repeats_recommendable,
                ids,
                item_text,
            ).save(path)
            provenance = {
                **recorded(facts),
                # A digest of the towers' content: an index of other towers is stale.
                "index": {**form.described(), "towers": towers_digest(trained.uri)},
                "history_length": history_length,
                "features": dataclasses.asdict(resolved),
                "max_k": config.max_k,
                "items": len(item_id),
                "code": _code_digest(),
            }
            if items_digest := trained.get_string_custom_property(ITEMS):
                provenance[ITEMS] = items_digest
            fileio.makedirs(os.path.join(path, "assets.extra"))
            with fileio.open(os.path.join(path, PROVENANCE), "w") as file:
                file.write(json.dumps(provenance, indent=2) + "\n")
            write_facts(facts, artifact)
            # The URI is not part of the served files: the same towers are the same model, wherever they lie.
            artifact.set_string_custom_property(TOWERS, trained.uri)
