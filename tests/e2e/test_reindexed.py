"""Tests of `two-tower reindex`: today's items in the newest model are judged and pushed without training."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.e2e.runs import Run, World, call, read_run
from two_tower.data_directory.manifest import item_files
from two_tower.evaluation.gate.judge import BLESSED

pytestmark = pytest.mark.e2e


@pytest.fixture(scope="module")
def today(world: World, newer: Run, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Data directory of items alone: every fortieth item is withdrawn, and one like the first is released."""
    table = pa.concat_tables([pq.read_table(path) for path in item_files(str(world.data))])
    ids = table["item_id"].to_numpy()
    released = table.slice(0, 1).set_column(0, "item_id", pa.array([ids.max() + 1]))
    place = tmp_path_factory.mktemp("today")
    (place / "items").mkdir()
    kept = table.filter(pa.array(np.arange(len(ids)) % 40 != 5))
    pq.write_table(pa.concat_tables([kept, released.cast(table.schema)]), place / "items" / "part-0.parquet")
    return place


@pytest.fixture(scope="module")
def reindexed(world: World, newer: Run, today: Path) -> Run:
    # Withdrawn items cost some recall, so a decrease against the previous model is accepted here.
    accepted = ["--set", "gate.min_change_against_blessed=-0.2", "--set", "gate.slices="]
    arguments = ["reindex", "--model", str(world.output), "--items", str(today), *accepted]
    status, shown, errors = call(arguments)
    return read_run(world, status, shown + errors)


def test_todays_items_are_judged_and_pushed_without_training(
    reindexed: Run, newer: Run, world: World, today: Path
) -> None:
    import tensorflow as tf

    assert reindexed.status == 0, reindexed.shown
    assert reindexed.report["verdict"] == BLESSED, reindexed.shown
    assert "CatalogPlacer" in reindexed.ran and "Trainer" not in reindexed.ran
    assert len(reindexed.pushed) == len(newer.pushed) + 1
    # The previous model is comparable on the same labels.
    assert reindexed.report["blessed_model"]["eligible"]
    assert reindexed.report["queries"]["test"] == newer.report["queries"]["test"]
    items = sorted(pq.read_table(today / "items")["item_id"].to_pylist())
    served = tf.saved_model.load(reindexed.report["in_service"])
    assert served.catalog()["item_id"].numpy().tolist() == items
    counts = reindexed.report["reindexed"]
    assert (counts["items"], counts["items_new"]) == (len(items), 1)
    assert counts["items_withdrawn"] == len(pq.read_table(item_files(str(world.data))[0])) + 1 - len(items)
    assert 0 < counts["test_labels_withdrawn"] < counts["test_labels"] / 10
    assert "are withdrawn items: no query can find them" in " ".join(reindexed.shown.split())
