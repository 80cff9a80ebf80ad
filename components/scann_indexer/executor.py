"""Embeds the catalog, builds the index, and writes the model that is evaluated and pushed."""

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
from two_tower.base.settings import DEFAULT_SEED, from_plain
from two_tower.components.interaction_example_gen.facts import read_facts, write_facts
from two_tower.data_directory.feature_columns import FeatureSpec, ResolvedFeatures
from two_tower.evaluation.queries import Ints, all_queries, history_batch, read_windows
from two_tower.schema import features
from two_tower.serving.provenance import ITEMS, PROVENANCE, TOWERS, recorded, towers_digest
from two_tower.serving.settings import IndexConfig

Floats = npt.NDArray[np.float32]

_ITEMS_PER_BATCH = 16_384
_QUERIES_PER_BATCH = 256
# Queries that the index is tuned on.
TUNING_QUERIES = 500


class Executor(base_executor.BaseExecutor):
    """From the Trainer's towers to one servable SavedModel, and its form without custom operations."""

    def Do(
        self,
        input_dict: dict[str, list[types.Artifact]],
        output_dict: dict[str, list[types.Artifact]],
        exec_properties: dict[str, Any],
    ) -> None:
        """Raises UserError on an empty catalog, on ids that are not distinct, and on embeddings that say
        nothing."""
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
        embeddings = embed_catalog(towers, item_id)
        check_embeddings(item_id, embeddings)
        queries = np.zeros([0, embeddings.shape[1]], np.float32)
        seed = exec_properties["seed"]
        if needs_queries(len(item_id)):
            queries = real_queries(interactions, towers, history_length, resolved.users, seed)
        built = build_index(embeddings, queries, config, exec_properties["target_recall"], seed)

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
            ).save(path)
            provenance = {
                **recorded(facts),
                # Which towers, whatever the run or the directory: the index is theirs or it is stale.
                "index": {**form.described(), "towers": towers_digest(trained.uri)},
                "history_length": history_length,
                "features": dataclasses.asdict(resolved),
                "max_k": config.max_k,
                "items": len(item_id),
            }
            if items_digest := trained.get_string_custom_property(ITEMS):
                provenance[ITEMS] = items_digest
            fileio.makedirs(os.path.join(path, "assets.extra"))
            with fileio.open(os.path.join(path, PROVENANCE), "w") as file:
                file.write(json.dumps(provenance, indent=2) + "\n")
            write_facts(facts, artifact)
            # Not among what is served: the same towers are the same model, wherever they lie.
            artifact.set_string_custom_property(TOWERS, trained.uri)


def check_ids(item_id: Ints) -> None:
    """Raises UserError unless there are items and no two are the same; `item_id`: int64 [items]."""
    if not len(item_id):
        raise UserError(
            "The catalog is empty: items/ of the data directory holds no available item to index."
        )
    found, counts = np.unique(item_id, return_counts=True)
    if len(found) < len(item_id):
        raise UserError(
            f"The catalog holds {len(item_id) - len(found)} ids more than once, item "
            f"{found[counts > 1][0]} for one: items/ of the data directory must have one row an item."
        )


def check_embeddings(item_id: Ints, embeddings: Floats) -> None:
    """Raises UserError for embeddings [items, embedding_dim] that are not numbers, or all zero.

    Single items may be at zero: those of which nothing is known are, where training saw none such.
    """
    broken = ~np.isfinite(embeddings).all(axis=1)
    if broken.any():
        raise UserError(
            f"The embeddings of {broken.sum()} items are not numbers, item {item_id[broken][0]} for one. "
            "Train again with a lower trainer.learning_rate."
        )
    if not embeddings.any():
        raise UserError(
            f"The embeddings of all {len(item_id)} items are zero: every item would be as good as any. Train "
            "again with a lower trainer.weight_decay or a higher trainer.learning_rate."
        )


def embed_catalog(towers: Any, item_id: Ints) -> Floats:
    """What the candidate tower makes of every item, float32 [items, embedding_dim]."""
    import tensorflow as tf

    starts = range(0, len(item_id), _ITEMS_PER_BATCH)
    batches = [item_id[begin : begin + _ITEMS_PER_BATCH] for begin in starts]
    return np.concatenate(
        [towers.candidate_embedding(tf.constant(batch))["embedding"].numpy() for batch in batches]
    )


def real_queries(
    interactions: types.Artifact,
    towers: Any,
    history_length: int,
    users: tuple[FeatureSpec, ...],
    seed: int = DEFAULT_SEED,
    most: int = TUNING_QUERIES,
) -> Floats:
    """Returns embeddings of some queries of eval, float32 [at most `most`, dim], drawn by the seed.

    Never of test, on which the index is judged. Where eval holds no query, of train.

    Raises:
        UserError: neither split holds a query, or embeddings are not numbers.
    """
    import tensorflow as tf

    for split in ("eval", "train"):
        directory = artifact_utils.get_split_uri([interactions], split)
        if not _has_windows(directory):
            continue
        windows = read_windows(directory, users)
        queries = all_queries(windows)
        if len(queries):
            break
    else:
        raise UserError(
            "Neither eval nor train holds a query to tune the index on: the split (split.protocol and its "
            "periods) leaves no label."
        )
    size = min(most, len(queries))
    rows = np.sort(np.random.default_rng(seed).choice(len(queries), size, replace=False))
    parts = []
    for begin in range(0, size, _QUERIES_PER_BATCH):
        batch = history_batch(windows, queries, rows[begin : begin + _QUERIES_PER_BATCH], history_length)
        del batch[features.EXCLUDE_ITEM_ID]
        inputs = {name: tf.constant(values) for name, values in batch.items()}
        parts.append(towers.query_embedding(**inputs)["embedding"].numpy())
    embeddings = np.concatenate(parts)
    broken = ~np.isfinite(embeddings).all(axis=1)
    if broken.any():
        raise UserError(
            f"The embeddings of {broken.sum()} of {size} queries are not numbers. "
            "Train again with a lower trainer.learning_rate."
        )
    return embeddings


def _has_windows(directory: str) -> bool:
    import tensorflow as tf

    files = tf.io.gfile.glob(os.path.join(directory, "data_tfrecord-*.gz"))
    return any(True for _ in tf.data.TFRecordDataset(files, "GZIP").take(1)) if files else False
