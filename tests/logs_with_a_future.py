"""Logs of Yambda's layout that agree up to a time, and have nothing in common after it."""

from __future__ import annotations

import pathlib

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from two_tower.data_directory.manifest import DAY

USERS, ITEMS, EVENTS, DAYS = 40, 60, 1_200, 10
TYPES = ("listen", "listen", "listen", "like", "dislike")


def write_log(folder: pathlib.Path, replaced_from: int | None = None) -> str:
    """Writes events of ten days and a catalog that describes every item, and returns the folder.

    Args:
      replaced_from: from this time on, in seconds, all events are others: by new users and old ones, of other
        items, types, ratios and lengths. Their number and the newest time stay. None: none is replaced.
    """
    draw = np.random.default_rng(5)
    events = _events(draw, 0, DAYS * DAY, 1, USERS, ITEMS // 2)
    if replaced_from is not None:
        late = events["timestamp"] >= replaced_from
        # Items of the second half are heard in this future alone, and by every second event.
        others = _events(np.random.default_rng(6), replaced_from, DAYS * DAY, 30, USERS + 50, ITEMS)
        for name, values in events.items():
            values[late] = others[name][: late.sum()]
        events["played_ratio_pct"][late] //= 3
        events["track_length_seconds"][late] += 1_000
    # The newest label event sets the split's times.
    events["timestamp"][-1], events["event_type"][-1] = DAYS * DAY, "listen"
    order = np.lexsort((events["timestamp"], events["uid"]))
    folder.mkdir()
    pq.write_table(
        pa.table({name: values[order] for name, values in events.items()}), folder / "multi_event.parquet"
    )
    items = np.arange(ITEMS)
    pq.write_table(
        pa.table(
            {
                "item_id": items,
                "title": [f"Track {item}" for item in items],
                "track_length_seconds": 60 + items,
            }
        ),
        folder / "names.parquet",
    )
    pq.write_table(
        pa.table({"artist_id": items % 7, "item_id": items}), folder / "artist_item_mapping.parquet"
    )
    vectors = np.random.default_rng(7).normal(size=(ITEMS, 4))
    pq.write_table(pa.table({"item_id": items, "embed": list(vectors)}), folder / "embeddings.parquet")
    return str(folder)


def _events(
    draw: np.random.Generator, start: int, end: int, first_user: int, last_user: int, items: int
) -> dict[str, np.ndarray]:
    item = draw.integers(0, items, EVENTS)
    return {
        "uid": draw.integers(first_user, last_user + 1, EVENTS),
        "timestamp": draw.integers(start // 5, end // 5, EVENTS) * 5,
        "item_id": item,
        "is_organic": draw.integers(0, 2, EVENTS),
        "played_ratio_pct": draw.integers(0, 120, EVENTS),
        "track_length_seconds": 60 + item,
        "event_type": draw.choice(np.array(TYPES), EVENTS),
    }
