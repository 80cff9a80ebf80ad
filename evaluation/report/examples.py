"""Example users of the test split: what they played, were shown, and played next.

Users have pseudonyms, "user 1" and on, in the order of the draw: their ids are not written.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from two_tower.base import storage
from two_tower.base.errors import UserError
from two_tower.evaluation.queries import Ints, Queries, Windows
from two_tower.schema import features, text_ids

# Beside evaluation.json.
EXAMPLES_FILE = "examples.json"
SHOWN_HISTORY = 6
SHOWN_RECOMMENDATIONS = 10
SHOWN_NEXT = 5
_LISTEN = features.LISTEN.encode()


@dataclasses.dataclass(frozen=True)
class ItemNames:
    """Titles, artists, tags and texts of ids of some items for readers, by item id; empty where unknown."""

    title: Mapping[int, str] = dataclasses.field(default_factory=dict)
    artist: Mapping[int, str] = dataclasses.field(default_factory=dict)
    tags: Mapping[int, Sequence[str]] = dataclasses.field(default_factory=dict)
    original_id: Mapping[int, str] = dataclasses.field(default_factory=dict)

    @classmethod
    def read(cls, data: str, item_ids: npt.ArrayLike) -> ItemNames:
        """Reads the names of some items.

        Args:
            data: the data directory. If it has moved there are no names, which is no error: names are for
                reading only.
            item_ids: any shape; negative ones are padding.
        """
        import pyarrow as pa
        import pyarrow.dataset as pads

        from two_tower.data_directory.checked_columns import open_dataset
        from two_tower.data_directory.manifest import item_files

        wanted = np.unique(np.asarray(item_ids, np.int64))
        wanted = wanted[wanted >= 0]
        try:
            if not storage.is_file(storage.join(data, "manifest.json")):
                return cls()
            items = open_dataset(item_files(data))
            wanted_names = ("title", "artist", "tags", text_ids.ORIGINAL_ID)
            known = [name for name in wanted_names if name in items.schema.names]
            rows = items.to_table(columns=["item_id", *known], filter=pads.field("item_id").isin(wanted))
        except (OSError, UserError, pa.ArrowInvalid):
            return cls()
        named: dict[str, dict[int, Any]] = {name: {} for name in known}
        for row in rows.to_pylist():
            for name in known:
                # A data set's own column may be called artist and hold no name.
                is_name = isinstance(row[name], list if name == "tags" else str)
                if is_name and row[name]:
                    named[name][int(row["item_id"])] = row[name]
        return cls(**named)

    def of(self, item_id: int) -> dict[str, Any]:
        """Returns `item_id`, `title`, `artist` and `tags`, null where unknown, as in examples.json.

        `item_id` is the text of a text id.
        """
        tags = self.tags.get(item_id)
        return {
            "item_id": self.original_id.get(item_id, int(item_id)),
            "title": self.title.get(item_id),
            "artist": self.artist.get(item_id),
            "tags": [str(tag) for tag in tags if tag is not None] if tags else None,
        }


def example_users(
    queries: Queries,
    windows: Windows,
    recommended: Ints,
    data: str,
    *,
    count: int = 10,
    seed: int = 0,
) -> list[dict[str, Any]]:
    """Draws users at random, and one query of each, so that they are no better and no worse than the rest.

    Args:
        queries: Q queries of the test split.
        windows: their windows.
        recommended: [Q, K] item ids, best first, -1 where there are fewer.
        data: the data directory, for titles and tags.
        count: largest number of users.
        seed: seed of the draw.

    Returns:
        Users as in examples.json: `history`, oldest first, of at most SHOWN_HISTORY listens before the
        `seed`; the first SHOWN_RECOMMENDATIONS `recommended`, with `played`, true for a label; and
        `played_next`, the label and later plays, or in the frozen protocol the labels, best ranked first, of
        which there are `labels`. `rank` is an item's rank among all K, null where it is missing.
    """
    random = np.random.default_rng(seed)
    users, of_user = np.unique(queries.user_id, return_inverse=True)
    drawn = random.permutation(len(users))[:count]
    rows = np.array([random.choice(np.flatnonzero(of_user == user)) for user in drawn], np.int64)
    chosen = queries.take(rows)
    shown = [_shown(chosen, row, windows, recommended[rows[row]]) for row in range(len(rows))]
    names = ItemNames.read(data, [item for one in shown for part in one for item in part])
    examples = []
    for number, (listens, first, following) in enumerate(shown, start=1):
        row = number - 1
        wanted = chosen.labels.item_id[chosen.labels.offsets[row] : chosen.labels.offsets[row + 1]]
        ranks = {int(item): rank for rank, item in reversed(list(enumerate(recommended[rows[row]], start=1)))}
        examples.append(
            {
                "user": f"user {number}",
                "history": [names.of(item) for item in listens[:-1]],
                "seed": names.of(listens[-1]) if listens else None,
                "recommended": [{**names.of(item), "played": bool(np.isin(item, wanted))} for item in first],
                "played_next": [{**names.of(item), "rank": ranks.get(item)} for item in following],
                "labels": len(wanted),
            }
        )
    return examples


def _shown(
    queries: Queries, row: int, windows: Windows, recommended: Ints
) -> tuple[list[int], list[int], list[int]]:
    """Returns item ids: listens up to the seed item, recommendations, and plays that followed."""
    begin, end = (windows.offsets[queries.window[row] + step] for step in (0, 1))
    event, label = queries.event[row], queries.label_event[row]
    past = np.arange(begin, event + 1)
    listens = past[windows.event_type[past] == _LISTEN][-SHOWN_HISTORY - 1 :]
    first = recommended[:SHOWN_RECOMMENDATIONS]
    if label >= 0:
        future = np.arange(label, end)
        following = windows.item_id[future[windows.event_type[future] == _LISTEN]]
    else:
        labels = queries.labels.take([row]).item_id
        equal = labels[:, np.newaxis] == recommended
        place = np.where(equal.any(axis=1), equal.argmax(axis=1), len(recommended))
        following = labels[np.argsort(place, kind="stable")]
    return windows.item_id[listens].tolist(), first[first >= 0].tolist(), following[:SHOWN_NEXT].tolist()
