"""What ingest wrote, as text: counts, time range, and everything that was dropped, repaired or noted."""

from __future__ import annotations

import datetime

from pipeline.datasets.data_directory import Manifest

_DAY = 86_400
# Times of data sets such as Yambda count from an origin of their own; what lies after 1990 is a date.
_OLDEST_DATE = 631_152_000


def render(manifest: Manifest) -> str:
    """A few lines for the terminal."""
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
        f"Time       {_time_range(*manifest.time_range)}",
    ]
    for heading, found in (
        ("Dropped", manifest.dropped),
        ("Repaired", manifest.repaired),
        ("Noted", manifest.noted),
    ):
        told = ", ".join(f"{count:,} {name.replace('_', ' ')}" for name, count in found.items())
        lines.append(f"{heading:<10} {told or 'nothing'}")
    return "\n".join(lines)


def _time_range(first: int, last: int) -> str:
    days = f"{(last - first) / _DAY:,.1f} days"
    if first < _OLDEST_DATE:
        return f"{days} (from day {first / _DAY:,.1f} to day {last / _DAY:,.1f} of the data set's own clock)"
    dates = (datetime.datetime.fromtimestamp(time, datetime.timezone.utc).date() for time in (first, last))
    return f"{days} ({' to '.join(map(str, dates))})"
