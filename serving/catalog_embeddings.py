"""Embeddings of the catalog, computed by the candidate tower and checked before indexing."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from two_tower.base.errors import UserError

_ITEMS_PER_BATCH = 16_384


def check_ids(item_id: npt.NDArray[np.int64]) -> None:
    """Raises UserError for an empty catalog or repeated ids; `item_id`: int64 [items]."""
    if not len(item_id):
        raise UserError(
            "The catalog is empty: items/ of the data directory holds no available item to index. "
            "Ingest available items."
        )
    found, counts = np.unique(item_id, return_counts=True)
    if len(found) < len(item_id):
        raise UserError(
            f"The catalog repeats {len(item_id) - len(found)} ids, such as item "
            f"{found[counts > 1][0]}: items/ of the data directory must have one row per item."
        )


def check_embeddings(item_id: npt.NDArray[np.int64], embeddings: npt.NDArray[np.float32]) -> None:
    """Raises UserError for embeddings [items, embedding_dim] that are not finite, or all zero.

    Single items may have zeros. An item without any known feature does if training saw none like it.
    """
    broken = ~np.isfinite(embeddings).all(axis=1)
    if broken.any():
        raise UserError(
            f"The embeddings of {broken.sum()} items are not finite numbers, such as item "
            f"{item_id[broken][0]}. Train again with a lower trainer.learning_rate."
        )
    if not embeddings.any():
        raise UserError(
            f"The embeddings of all {len(item_id)} items are zero, so every item has the same score. Train "
            "again with a lower trainer.weight_decay or a higher trainer.learning_rate."
        )


def embed_catalog(towers: Any, item_id: npt.NDArray[np.int64]) -> npt.NDArray[np.float32]:
    """Returns the candidate tower's embedding of every item, float32 [items, embedding_dim].

    Args:
        towers: a SavedModel with the signature `candidate_embedding`.
        item_id: int64 [items].
    """
    import tensorflow as tf

    starts = range(0, len(item_id), _ITEMS_PER_BATCH)
    batches = [item_id[begin : begin + _ITEMS_PER_BATCH] for begin in starts]
    return np.concatenate(
        [towers.candidate_embedding(tf.constant(batch))["embedding"].numpy() for batch in batches]
    )
