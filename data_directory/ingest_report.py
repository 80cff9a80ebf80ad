"""Report of an ingest as text: counts, time range, and all that was dropped, repaired or noted."""

from __future__ import annotations

import datetime
import re

from two_tower.data_directory.manifest import DAY, Manifest

_SHOWN_SPANS = 3
# Data sets such as Yambda count from an origin of their own; a time after 1990 counts from 1970.
_OLDEST_DATE = 631_152_000
# Python's dates reach from the year 1 to 9999.
_FIRST_DAY, _LAST_DAY = -719_162, 2_932_896


def render(manifest: Manifest) -> str:
    """Renders a manifest in a few lines for the terminal."""
    counts = manifest.counts
    content = (
        f"content embeddings of width {manifest.has_embedding}"
        if manifest.has_embedding
        else "no content embeddings"
    )
    lines = [
        f"Data set   {manifest.dataset} ({manifest.digest[7:19]})",
        f"Events     {counts['events']:,}, {counts['label_events']:,} of type '{manifest.label_event}'",
        f"Users      {counts['users']:,}",
        f"Items      {counts['items']:,}, {content}; an item may be recommended to a user "
        + ("again" if manifest.repeats_recommendable else "only once"),
        "Time       "
        + (time_range(*manifest.time_range) if manifest.has_timestamps else order_in_words(manifest)),
    ]
    if counts["user_rows"]:
        columns = ", ".join(name for name in manifest.columns["users"] if name != "user_id")
        lines.insert(3, f"           {counts['user_rows']:,} in users/ ({columns or 'no columns'})")
    if manifest.has_splits:
        lines.append("Splits     the events' own (column split)")
    if manifest.spans:
        shown = manifest.spans[-_SHOWN_SPANS:]
        told = ", ".join(
            f"{span_name(span)} with {manifest.span_counts[str(span)]['events']:,} events" for span in shown
        )
        earlier = f"; {len(manifest.spans) - len(shown)} earlier" if len(manifest.spans) > len(shown) else ""
        lines.append(f"Spans      {told}{earlier}")
    for heading, found in (
        ("Dropped", manifest.dropped),
        ("Repaired", manifest.repaired),
        ("Noted", manifest.noted),
    ):
        told = ", ".join(f"{count:,} {_in_words(name)}" for name, count in found.items())
        lines.append(f"{heading:<10} {told or 'nothing'}")
    return "\n".join(lines)


def order_in_words(manifest: Manifest) -> str:
    """Describes the order of events without times."""
    if manifest.has_order:
        return "none: the events have an order within their user"
    return "none, and no order: each row is a pair of user and item"


def _in_words(name: str) -> str:
    """Returns a count's name with blanks for underscores, but for those of a column's name in quotes."""
    return re.sub(r"'[^']*'|_", lambda found: " " if found[0] == "_" else found[0], name)


def protocol_settings(manifest: Manifest) -> list[str]:
    """Returns the settings that the data needs for a run; [] if it can be split by time."""
    if manifest.has_splits:
        return ["split.protocol=split_column"]
    if manifest.has_timestamps:
        return []
    return [f"split.protocol={'leave_one_out' if manifest.has_order else 'hold_out'}"]


def time_range(first: int, last: int) -> str:
    """Formats a time range, given in seconds."""
    days = f"{(last - first) / DAY:,.1f} days"
    if not tells_dates(first):
        return f"{days} (from day {first / DAY:,.1f} to day {last / DAY:,.1f} of the data set's own clock)"
    return f"{days} ({day_name(first // DAY)} to {day_name(last // DAY)})"


def span_name(span: int) -> str:
    """Formats a span's number, with its date if the clock tells dates."""
    return f"{span} ({day_name(span)})" if tells_dates(span * DAY) else str(span)


def tells_dates(time: int) -> bool:
    """Tells whether a time is of a clock that counts from 1970; other clocks have an origin of their own."""
    return time >= _OLDEST_DATE


def day_name(day: int, dated: bool | None = None) -> str:
    """Formats a day as its date, or as its number if the clock does not tell dates.

    Args:
      day: days since the clock's origin.
      dated: the clock tells dates; None decides by `day`.
    """
    dated = tells_dates(day * DAY) if dated is None else dated
    if not (dated and _FIRST_DAY <= day <= _LAST_DAY):
        return f"day {day:,}"
    return str(datetime.date(1970, 1, 1) + datetime.timedelta(days=int(day)))
