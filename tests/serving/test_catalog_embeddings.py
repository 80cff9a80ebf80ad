from __future__ import annotations

import numpy as np
import pytest

from two_tower.base.errors import UserError
from two_tower.serving.catalog_embeddings import check_embeddings, check_ids, embed_catalog


@pytest.mark.parametrize(
    ("item_id", "message"),
    [([], "catalog is empty"), ([4, 9, 4, 4], "repeats 2 ids, such as item 4")],
)
def test_a_catalog_that_cannot_be_indexed_is_refused(item_id: list[int], message: str) -> None:
    with pytest.raises(UserError, match=message):
        check_ids(np.array(item_id, np.int64))


def test_embeddings_that_say_nothing_are_refused() -> None:
    item_id = np.array([7, 8, 9])
    vectors = np.ones((3, 4), np.float32)
    check_embeddings(item_id, vectors * [[0], [1], [1]])  # zeros of one item alone are allowed
    with pytest.raises(UserError, match="embeddings of all 3 items are zero"):
        check_embeddings(item_id, vectors * 0)
    vectors[1, 2] = np.nan
    vectors[2, 0] = np.inf
    with pytest.raises(UserError, match="embeddings of 2 items are not finite numbers, such as item 8"):
        check_embeddings(item_id, vectors)


def test_items_beyond_a_batch_are_embedded_in_order(monkeypatch: pytest.MonkeyPatch) -> None:
    import tensorflow as tf

    class Towers:
        """Towers that embed an item as its id."""

        def candidate_embedding(self, item_id: tf.Tensor) -> dict[str, tf.Tensor]:
            assert len(item_id) <= 3
            return {"embedding": tf.cast(item_id[:, tf.newaxis], tf.float32)}

    monkeypatch.setattr("two_tower.serving.catalog_embeddings._ITEMS_PER_BATCH", 3)
    found = embed_catalog(Towers(), np.arange(8))
    assert found.tolist() == [[float(item)] for item in range(8)]
