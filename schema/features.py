"""The one home of feature names.

Raw names are those of a window's Example and, but for the label's, of a serving request. Transformed names
are what Transform writes and the towers read.
"""

from __future__ import annotations

from collections.abc import Iterable

SPLITS = ("train", "eval", "test")

# A window: one user, and parallel lists over its events, oldest first.
USER_ID = "user_id"
HISTORY_ITEM_ID = "history_item_id"
HISTORY_TIMESTAMP = "history_timestamp"
HISTORY_EVENT_TYPE = "history_event_type"
HISTORY_PLAY_RATIO = "history_play_ratio"  # 1.0 = whole item; UNKNOWN where not recorded
HISTORY_IS_ORGANIC = "history_is_organic"  # 1, 0, or UNKNOWN
# When the next track was asked for: the label's time at a query position, else the event's own.
REQUEST_TIMESTAMP = "request_timestamp"
# At a query position of this split: how many events ahead its label is. Elsewhere 0.
LABEL_STEP = "label_step"
# The set of labels of an eval or test window, in the frozen protocol: its query is the window's last listen.
LABEL_ITEM_ID = "label_item_id"
# What the user had before the window, where items that were had are not recommended again.
SEEN_ITEM_ID = "seen_item_id"

# Serving only.
EXCLUDE_ITEM_ID = "exclude_item_id"
ALLOW_ITEM_ID = "allow_item_id"
K = "k"
# Of a query, beside its embedding: the items of the history that have scores of their own, and these.
REPEAT_ITEM_ID = "repeat_item_id"
REPEAT_SCORE = "repeat_score"

# A catalog item.
ITEM_ID = "item_id"
ARTIST_ID = "artist_id"
ALBUM_ID = "album_id"
ITEM_LENGTH = "item_length"

# The label event's name in windows and requests, whatever the data set calls it; in a request "" means it
# too.
LISTEN = "listen"

# Fills places that hold no item, and stands for play ratios and flags that nobody recorded.
PADDING = -1
UNKNOWN = -1

# Transformed, a value per window.
USER = "user"
# Transformed, a value per position.
IS_LISTEN = "is_listen"
# A hash of the event type's name, of so many: three bytes an event, and no vocabulary to look for.
EVENT_TYPE = "event_type"
EVENT_TYPE_HASHES = 2**20
EXAMPLE_AGE = "example_age"
# Seconds since the window's first event. Only differences mean something.
ELAPSED_SECONDS = "elapsed_seconds"
# History aggregates over the last N events at each position, see trainer/model/history_aggregates.py;
# z-scored by train's query positions.
LISTEN_COUNT = "listen_count"
MEAN_PLAY_RATIO = "mean_play_ratio"
ORGANIC_SHARE = "organic_share"
REACTION_SHARE = "reaction_share"
DISTINCT_ITEMS = "distinct_items"
REPEAT_RATE = "repeat_rate"
SECONDS_SINCE_PREVIOUS = "seconds_since_previous"
IDLE_SECONDS = "idle_seconds"
LISTENS_LAST_HOUR = "listens_last_hour"
LISTENS_LAST_DAY = "listens_last_day"
LISTENS_LAST_WEEK = "listens_last_week"
LISTENS_LAST_30_DAYS = "listens_last_30_days"
SESSION_POSITION = "session_position"
SESSION_SECONDS = "session_seconds"
HOUR_OF_DAY = "hour_of_day"
DAY_OF_WEEK = "day_of_week"
# Aggregates of the catalog's columns, computed in the model, where the catalog is.
DISTINCT_ARTISTS = "distinct_artists"
MEAN_ITEM_LENGTH = "mean_item_length"

# Those that need times.
TIME_AGGREGATES = (
    SECONDS_SINCE_PREVIOUS,
    IDLE_SECONDS,
    LISTENS_LAST_HOUR,
    LISTENS_LAST_DAY,
    LISTENS_LAST_WEEK,
    LISTENS_LAST_30_DAYS,
    SESSION_POSITION,
    SESSION_SECONDS,
    HOUR_OF_DAY,
    DAY_OF_WEEK,
)
CATALOG_AGGREGATES = (DISTINCT_ARTISTS, MEAN_ITEM_LENGTH)
# All there are, by the names that settings select them by.
AGGREGATES = (
    LISTEN_COUNT,
    MEAN_PLAY_RATIO,
    ORGANIC_SHARE,
    REACTION_SHARE,
    DISTINCT_ITEMS,
    REPEAT_RATE,
    *TIME_AGGREGATES,
    *CATALOG_AGGREGATES,
)


def available_aggregates(has_timestamps: bool) -> tuple[str, ...]:
    """The history aggregates that data with or without times allows."""
    return tuple(name for name in AGGREGATES if has_timestamps or name not in TIME_AGGREGATES)


def aggregate_columns(names: Iterable[str]) -> tuple[str, ...]:
    """What Transform writes for some aggregates: a column each, a sine and a cosine for what is cyclic.

    Those of the catalog have none, since Transform does not see it.
    """
    columns: list[str] = []
    for name in names:
        if name in (HOUR_OF_DAY, DAY_OF_WEEK):
            columns += [f"{name}_sin", f"{name}_cos"]
        elif name not in CATALOG_AGGREGATES:
            columns.append(name)
    return tuple(columns)


# Columns of the data directory's own, transformed: all numbers in one matrix, every other column by itself.
NUMBERS = "numbers"


def transformed_column(name: str) -> str:
    """What Transform writes for a feature of a named column, and its vocabulary."""
    return f"column_{name}"


def is_transformed_column(name: str) -> bool:
    """Whether this is a column of the data directory's own, which of windows are the user's; what else is
    ragged there has a value an event."""
    return name.startswith(transformed_column(""))


# Transformed, per catalog item.
ARTIST = "artist"
ALBUM = "album"
LENGTH = "length"

# Vocabularies that Transform writes.
USER_VOCABULARY = "user"
ITEM_VOCABULARY = "item"
LABEL_VOCABULARY = "label_item"
ARTIST_VOCABULARY = "artist"
ALBUM_VOCABULARY = "album"
