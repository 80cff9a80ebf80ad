from __future__ import annotations

import numpy as np
import pytest

from two_tower.trainer.model.catalog_table import OUT_OF_VOCABULARY, CatalogArrays, CatalogTable

# Artists and albums are rows of their vocabularies. Train has items 3 and 20; of item 7's artists it knows
# the second, of item 90 nothing, and item 50 has no artist and no album.
CATALOG = CatalogArrays(
    item_id=np.array([3, 7, 20, 50, 90], np.int64),
    artist=np.array([[0, -1], [5, 2], [2, 0], [-1, -1], [4, -1]], np.int32),
    album=np.array([[1, -1], [1, -1], [3, -1], [-1, -1], [0, -1]], np.int32),
    length=np.array([0.5, -0.5, 1.0, 0.0, 2.0], np.float32),
)
TRAIN_ITEMS = np.array([20, 3, 1_234], np.int64)
UNKNOWN = 5


@pytest.fixture(scope="module")
def table() -> CatalogTable:
    return CatalogTable(CATALOG, TRAIN_ITEMS)


def test_ids_are_found_and_any_other_id_is_the_row_after_the_last(table: CatalogTable) -> None:
    ids = np.array([[90, 3, 4], [-1, 20, 2**62], [0, 7, 50]], np.int64)
    expected = [[4, 0, UNKNOWN], [UNKNOWN, 2, UNKNOWN], [UNKNOWN, 1, 3]]
    assert table.rows_of(ids).numpy().tolist() == expected
    assert CATALOG.rows_of(ids).tolist() == expected
    assert table.rows_of(np.empty([2, 0], np.int64)).shape == (2, 0)


def test_what_train_never_touched_reads_as_the_out_of_vocabulary_row(table: CatalogTable) -> None:
    item = table.item.numpy()
    assert (item[[1, 3, 4, UNKNOWN]] == OUT_OF_VOCABULARY).all()
    assert sorted(item[[0, 2]]) == [1, 2] and table.item_vocabulary_size == 3

    artist, album = table.artist.numpy(), table.album.numpy()
    # Artists 0 and 2, albums 1 and 3 are touched, and keep a row each.
    assert (table.artist_vocabulary_size, table.album_vocabulary_size) == (3, 3)
    row_of_0, row_of_2 = artist[0, 0], artist[2, 0]
    assert {row_of_0, row_of_2} == {1, 2}
    assert artist[2].tolist() == [row_of_2, row_of_0]
    assert artist[1].tolist() == [OUT_OF_VOCABULARY, row_of_2]
    assert album[1, 0] == album[0, 0] != OUT_OF_VOCABULARY
    for nothing_known in (3, 4, UNKNOWN):
        assert artist[nothing_known].tolist() == [OUT_OF_VOCABULARY, -1]
        assert album[nothing_known].tolist() == [OUT_OF_VOCABULARY, -1]
    assert table.length.numpy().tolist() == [0.5, -0.5, 1.0, 0.0, 2.0, 0.0]


def test_a_catalog_without_artists_has_a_table_of_one_row() -> None:
    nothing = np.full([5, 2], -1, np.int32)
    table = CatalogTable(CatalogArrays(CATALOG.item_id, nothing, nothing, CATALOG.length), TRAIN_ITEMS)
    assert table.artist_vocabulary_size == 1
    assert table.artist.numpy()[:, 0].tolist() == [OUT_OF_VOCABULARY] * 6
