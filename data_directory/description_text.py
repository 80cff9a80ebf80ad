"""Text of a description for a terminal: some fifty lines of at most 80 columns."""

from __future__ import annotations

import textwrap

import numpy as np

from two_tower.data_directory.column_kinds import KINDS
from two_tower.data_directory.column_values import MOST_VALUES, Column
from two_tower.data_directory.description import PERCENTILES, Description
from two_tower.data_directory.ingest_report import (
    day_name,
    order_in_words,
    protocol_settings,
    span_name,
    tells_dates,
    time_range,
)
from two_tower.data_directory.manifest import DAY, Manifest

_WIDTH = 80
# Bars of the plot at most, and the hours of a bar: it begins with a day or an hour.
_MOST_BARS = 24
_BAR_HOURS = (1, 3, 6, 12, 24, 48, 7 * 24, 14 * 24, 28 * 24, 91 * 24, 182 * 24, 365 * 24)
_SHOWN_SPANS = 5


def render(description: Description) -> str:
    """Renders a description."""
    blocks = [_overview(description), _distributions(description)]
    if description.manifest.has_timestamps:
        blocks.append(_plot(description.hours, description.events_of_hour))
    if description.manifest.spans:
        blocks.append(_spans(description.manifest))
    blocks += [_table_of_columns(table, description) for table in ("items", "users")]
    blocks.append(_advice(description))
    return "\n\n".join("\n".join(block) for block in blocks)


def _line(heading: str, text: str) -> list[str]:
    return textwrap.wrap(
        text, _WIDTH, initial_indent=f"{heading:<12}", subsequent_indent=" " * 12, break_long_words=False
    )


def _share(share: float) -> str:
    """Formats a share in percent; only exact values become 0% and 100%."""
    if 0 < share < 0.0005:
        return "under 0.1%"
    if 0.9995 <= share < 1:
        return "over 99.9%"
    return f"{share:.0%}" if share in (0, 1) else f"{share:.1%}"


def _overview(description: Description) -> list[str]:
    manifest, counts = description.manifest, description.manifest.counts
    label = manifest.label_event
    lines = _line("Data set", f"{manifest.dataset} ({manifest.digest[7:19]}) in {description.directory}")
    types = ", ".join(
        f"{number:,} {name or 'without a type'}{' (predicted)' if name == label else ''}"
        for name, number in description.event_types.items()
    )
    lines += _line("Events", f"{counts['events']:,}: {types}")
    if description.splits:
        splits = ", ".join(f"{number:,} {name}" for name, number in description.splits.items())
        lines += _line("Splits", f"by the events' own column: {splits}")
    for name, column, of in (
        ("play ratio", description.play_ratio, "{mean:.2f} on average"),
        ("organic", description.is_organic, "{mean:.1%} the user's own choice"),
    ):
        if column is not None:
            lines += _line("", f"{name} known for {_share(column[1])}, {of.format(mean=column[0])}")
    rows = f"; {counts['user_rows']:,} in users/" if counts["user_rows"] else ""
    one = (
        f"{counts['users']:,}, of which {_share(description.users_with_one_event)} have a single event{rows}"
    )
    lines += _line("Users", one)
    cold, items = description.items_without_event, counts["items"]
    text = f"{items:,} in the catalog, of which {cold:,} ({_share(cold / max(1, items))}) have no event"
    lines += _line("Items", text)
    if manifest.has_timestamps:
        lines += _line("Time", time_range(*manifest.time_range))
    else:
        lines += _line("Time", order_in_words(manifest))
    if description.new_items is not None and description.new_users is not None:
        share = _share(description.new_users / max(1, description.events_per_user.count))
        of_new = _share(description.label_events_of_new_items or 0)
        lines += _line(
            "Last day",
            f"{description.new_users:,} users ({share}) and {description.new_items:,} items first occur in "
            f"it; {of_new} of its {label} events are of such items",
        )
    over = _share(description.repeats_counted_over)
    over = f" (counted over users with {over} of the events)" if description.repeats_counted_over < 1 else ""
    lines += _line(
        "Repeats",
        f"{_share(description.repeats)} of {label} events are of an item that the user had before{over}; it "
        f"{'may' if manifest.repeats_recommendable else 'may not'} be recommended again",
    )
    return lines


def _distributions(description: Description) -> list[str]:
    label = textwrap.shorten(description.manifest.label_event, 10, placeholder="…")
    wanted = {
        "all events per user": description.events_per_user,
        f"{label} per user": description.labels_per_user,
        f"{label} per item": description.labels_per_item,
    }
    if len(description.event_types) == 1:
        del wanted["all events per user"]
    cells = [["", "mean", *(f"p{percentile}" for percentile in PERCENTILES), "most"]]
    for name, one in wanted.items():
        mean = f"{one.mean:,.1f}" if one.mean < 1_000_000 else _rounded(int(one.mean))
        cells.append([name, mean, *map(_rounded, one.percentiles), _rounded(one.most)])
    widths = [max(len(row[column]) for row in cells) for column in range(len(cells[0]))]
    between = "  " if sum(widths) + 2 * len(widths) <= _WIDTH else " "
    return [
        "Events per user and item, of those with any; p5: 5% of them have at most so many",
        *(
            between.join([row[0].ljust(widths[0]), *map(str.rjust, row[1:], widths[1:])]).rstrip()
            for row in cells
        ),
    ]


def _rounded(number: int) -> str:
    if number < 1_000_000:
        return f"{number:,}"
    return f"{number / 1e6:.1f}M" if number < 100_000_000 else f"{number / 1e6:,.0f}M"


def _plot(hours: np.ndarray, events: np.ndarray) -> list[str]:
    """Plots events over time as bars of equal length in time."""
    if not len(hours):
        return ["No events."]
    begin = int(hours[0])
    # Bars of a day or more begin at midnight.
    from_midnight = begin - begin % 24
    most = int(hours[-1])
    width = next(
        (width for width in _BAR_HOURS if (most - from_midnight) // width < _MOST_BARS),
        -(-(most - from_midnight + 1) // (_MOST_BARS * 24)) * 24,
    )
    begin -= begin % min(width, 24)
    bars = np.bincount((hours - begin) // width, events).astype(np.int64)
    counts = [f"{number:,}" for number in bars.tolist()]
    starts = [begin + place * width for place in range(len(bars))]
    names = [day_name(hour // 24) + (f" {hour % 24:02d}:00" if width < 24 else "") for hour in starts]
    name_width, count_width = max(map(len, names)), max(map(len, counts))
    room = _WIDTH - name_width - count_width - 4
    lengths = np.ceil(bars / bars.max() * room).astype(int).tolist()
    every = f"{width} hours" if width < 24 else f"{width // 24} days"
    every = {"1 hours": "an hour", "1 days": "a day", "7 days": "a week"}.get(every, every)
    return [
        f"Events over time; a bar is {every}",
        *(
            f"{name:<{name_width}}  {'█' * length:<{room}}  {count:>{count_width}}"
            for name, length, count in zip(names, lengths, counts, strict=True)
        ),
    ]


def _spans(manifest: Manifest) -> list[str]:
    shown = manifest.spans[-_SHOWN_SPANS:]
    earlier = len(manifest.spans) - len(shown)
    lines = [f"Spans: {len(manifest.spans):,}{', the newest of them' if earlier else ''}"]
    for span in shown:
        facts = manifest.span_counts[str(span)]
        lines.append(f"  {span_name(span)}: {facts['events']:,} events, {facts['label_events']:,} predicted")
    return lines


def _table_of_columns(table: str, description: Description) -> list[str]:
    columns = description.columns[table]
    if not columns:
        return [f"No column of {table}/ can become a feature (features.{table})."]
    dated = tells_dates(description.manifest.time_range[1])
    cells = [
        [column.name, column.kind, _content(column, dated), f"known for {_share(column.known)}"]
        for column in columns
    ]
    widths = [max(len(row[place]) for row in cells) for place in range(4)]
    return [
        f"Columns of {table}/ that can become features (features.{table})",
        *(
            "  " + "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
            for row in cells
        ),
    ]


def _content(column: Column, dated: bool) -> str:
    """Describes a column's values; `dated`: the data's clock tells dates."""
    if KINDS[column.kind].has_width:
        return f"of width {column.width}"
    if column.bounds is not None:
        return " to ".join(
            day_name(int(bound // DAY), dated) if column.name == "release_timestamp" else f"{bound:,.6g}"
            for bound in column.bounds
        )
    number = f"over {MOST_VALUES:,}" if column.distinct is None else f"{column.distinct:,}"
    return f"{number} value{'' if column.distinct == 1 else 's'}"


def _advice(description: Description) -> list[str]:
    """Returns the next command, with the settings that the data needs."""
    manifest = description.manifest
    settings = protocol_settings(manifest)
    for table, columns in description.columns.items():
        # Useful columns tell users or items apart: more than one value, and fewer than one per row.
        rows = manifest.counts["user_rows" if table == "users" else "items"]
        useful = [
            column.name
            for column in columns
            if KINDS[column.kind].is_category
            and column.distinct is not None
            and 1 < column.distinct < max(3, rows // 2)
        ]
        if useful:
            settings.append(f"features.{table}={','.join(useful[:4])}")
    command = [f"two-tower run --data {description.directory} --output DIR"]
    command += [f"--set {setting}" for setting in settings]
    return [f"Next: {command[0]}" + "".join(f" \\\n        {part}" for part in command[1:])]
