"""Feature names.

Raw names are those of a window's Example and of a serving request, which has no label. Transform writes
transformed names, and the towers read them.
"""

from __future__ import annotations

from collections.abc import Iterable

SPLITS = ("train", "eval", "test")

# Window: one user, and parallel lists over the events, oldest first.
USER_ID = "user_id"
HISTORY_ITEM_ID = "history_item_id"
HISTORY_TIMESTAMP = "history_timestamp"
HISTORY_EVENT_TYPE = "history_event_type"
HISTORY_PLAY_RATIO = "history_play_ratio"  # 1.0 = whole item; UNKNOWN if not recorded
HISTORY_IS_ORGANIC = "history_is_organic"  # 1, 0, or UNKNOWN
# Time of the request for the next item: the label's time at a query position, else the event's own time.
REQUEST_TIMESTAMP = "request_timestamp"
# Number of events from a query position of this split to its label; 0 at other positions.
LABEL_STEP = "label_step"
# Labels of an eval or test window in the frozen protocol, a set. The query is the window's last listen.
LABEL_ITEM_ID = "label_item_id"
# Items of the user's events before the window, if the data set has no repeat recommendations.
SEEN_ITEM_ID = "seen_item_id"

# Serving only.
EXCLUDE_ITEM_ID = "exclude_item_id"
ALLOW_ITEM_ID = "allow_item_id"
K = "k"
# Outputs of the repeat head: items of the history, and their scores.
REPEAT_ITEM_ID = "repeat_item_id"
REPEAT_SCORE = "repeat_score"

# Catalog item.
ITEM_ID = "item_id"
# Text of the item's id; absent where ids are integers. The index reads it, Transform does not.
ITEM_TEXT = "item_text"
ARTIST_ID = "artist_id"
ALBUM_ID = "album_id"
ITEM_LENGTH = "item_length"

# Name of the label event in windows and requests; "" stands for it in a request too.
LISTEN = "listen"

# PADDING fills places without an item. UNKNOWN stands for play ratios and flags without a record.
PADDING = -1
UNKNOWN = -1

# Transformed, one value per window.
USER = "user"
# Transformed, one value per position.
IS_LISTEN = "is_listen"
# Hash of the event type's name, which needs no vocabulary, and the number of hashes (three bytes an event).
EVENT_TYPE = "event_type"
EVENT_TYPE_HASHES = 2**20
EXAMPLE_AGE = "example_age"
# Seconds since the window's first event; only differences carry meaning.
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
# Aggregates of catalog columns, computed in the model, which holds the catalog.
DISTINCT_ARTISTS = "distinct_artists"
MEAN_ITEM_LENGTH = "mean_item_length"

# Aggregates that need times.
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
# All aggregates.
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
    """Returns the history aggregates available with or without times."""
    return tuple(name for name in AGGREGATES if has_timestamps or name not in TIME_AGGREGATES)


def aggregate_columns(names: Iterable[str]) -> tuple[str, ...]:
    """Returns Transform's columns of some aggregates: one each, a sine and a cosine for cyclic ones.

    Catalog aggregates have no columns, because Transform does not see the catalog.
    """
    columns: list[str] = []
    for name in names:
        if name in (HOUR_OF_DAY, DAY_OF_WEEK):
            columns += [f"{name}_sin", f"{name}_cos"]
        elif name not in CATALOG_AGGREGATES:
            columns.append(name)
    return tuple(columns)


# Transformed columns of users/ and items/: one matrix for all numbers; other columns are separate.
NUMBERS = "numbers"


def transformed_column(name: str) -> str:
    """Returns the name of a column's transformed feature and of its vocabulary."""
    return f"column_{name}"


def is_transformed_column(name: str) -> bool:
    """Tells a transformed column of users/ or items/ from other features.

    In windows these are the user's columns. All other ragged features have one value per event.
    """
    return name.startswith(transformed_column(""))


# Transformed, per catalog item.
ARTIST = "artist"
ALBUM = "album"
LENGTH = "length"

# Vocabularies, written by Transform.
USER_VOCABULARY = "user"
ITEM_VOCABULARY = "item"
LABEL_VOCABULARY = "label_item"
ARTIST_VOCABULARY = "artist"
ALBUM_VOCABULARY = "album"
