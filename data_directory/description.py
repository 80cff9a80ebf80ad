"""What a data directory holds, for whoever is about to train on it: `two-tower ingest --describe DIR`.

The events are streamed once, and once more for every 16 million label events, whose repeats are counted for
some of the users at a time. Memory grows with users and items, not with events.
"""

from __future__ import annotations

import dataclasses
import textwrap
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from two_tower.base.errors import UserError
from two_tower.data_directory import checked_columns
from two_tower.data_directory.column_kinds import KINDS, ColumnKind
from two_tower.data_directory.feature_columns import resolve
from two_tower.data_directory.ingest_report import (
    day_name,
    protocol_settings,
    span_name,
    tells_dates,
    time_range,
)
from two_tower.data_directory.key_counts import KeyCounts
from two_tower.data_directory.manifest import DAY, SPLIT_NAMES, Manifest, event_files, item_files, user_files
from two_tower.data_directory.merged_tables import is_known
from two_tower.data_directory.settings import FeaturesConfig

PERCENTILES = (1, 5, 25, 50, 75, 95, 99)

_HOUR = 3_600
_WIDTH = 80
# Bars of the plot, and the hours that a bar may stand for, so that it begins where a day or an hour does.
_MOST_BARS = 24
_BAR_HOURS = (1, 3, 6, 12, 24, 48, 7 * 24, 14 * 24, 28 * 24, 91 * 24, 182 * 24, 365 * 24)
# Pairs of user and item sorted at a time, about 0.4 GB, and how many such parts are gone through at most:
# where there are more, repeats are counted for the users of these, which are drawn by a hash.
_PAIRS = 16_000_000
_MOST_PARTS = 16
# Different values of a column that are told apart.
_MOST_VALUES = 100_000
_ITEM_ROWS = 50_000
_SHOWN_SPANS = 5


@dataclasses.dataclass(frozen=True)
class Distribution:
    """How a number of events is distributed over users, or items, that have any.

    `percentiles` are those of PERCENTILES: p percent have at most so many.
    """

    count: int
    mean: float
    percentiles: tuple[int, ...]
    most: int

    @classmethod
    def of(cls, counts: np.ndarray) -> Distribution:
        """From int64[n], one value a user or item."""
        if not len(counts):
            return cls(0, 0.0, (0,) * len(PERCENTILES), 0)
        found = np.percentile(counts, PERCENTILES, method="inverted_cdf")
        return cls(len(counts), float(counts.mean()), tuple(map(int, found)), int(counts.max()))


@dataclasses.dataclass(frozen=True)
class Column:
    """A column of users/ or items/; its `kind` as a feature is one of `column_kinds.KINDS`."""

    name: str
    kind: str
    width: int
    # Share of the rows that have a value.
    known: float
    # How many different values there are (of a list, members); None beyond 100,000, and for vectors.
    distinct: int | None
    # Least and greatest of numbers.
    bounds: tuple[float, float] | None


@dataclasses.dataclass(frozen=True)
class Description:
    """See `describe`. Shares are from 0 to 1."""

    directory: str
    manifest: Manifest
    # By type, the most frequent first; "" where events have none.
    event_types: dict[str, int]
    # Events by split; {} where they do not say it.
    splits: dict[str, int]
    events_per_user: Distribution
    labels_per_user: Distribution
    labels_per_item: Distribution
    users_with_one_event: float
    # Of all items in the catalog.
    items_without_event: int
    # Items whose first event is less than a day older than the newest, and the share of that day's label
    # events that are theirs; users likewise. None without times, and where all events lie within a day.
    new_items: int | None
    label_events_of_new_items: float | None
    new_users: int | None
    # Share of label events whose item the user had had a label event of before.
    repeats: float
    # Share of the users' label events that `repeats` was counted over.
    repeats_counted_over: float
    # Mean of what is known, and the share of events in which it is; None where the column is missing.
    play_ratio: tuple[float, float] | None
    is_organic: tuple[float, float] | None
    # Hours since 1970-01-01, and the events in each that has any: int64[n] twice.
    hours: np.ndarray
    events_of_hour: np.ndarray
    # Of the tables "users" and "items": columns that can become features.
    columns: dict[str, tuple[Column, ...]]


def describe(directory: str, tell: Callable[[str], None] = lambda line: None) -> Description:
    """Goes through a data directory.

    Args:
      directory: path or URL.
      tell: gets a line now and then about how far it is.

    Raises:
      UserError: it is not a data directory, or a file of it is missing or damaged.
    """
    manifest = Manifest.load(directory)
    files = event_files(directory)
    counts = _EventCounts(manifest)
    for done, path in enumerate(files):
        tell(f"Reading events, file {done + 1} of {len(files)}")
        for _, batch in checked_columns.read_batches(path, counts.columns):
            counts.add(batch)
    catalog = np.sort(
        np.concatenate(
            [
                np.zeros(0, np.int64),
                *(
                    batch["item_id"].to_numpy()
                    for path in item_files(directory)
                    for _, batch in checked_columns.read_batches(path, ["item_id"])
                ),
            ]
        )
    )
    users, events_of_user = _result(counts.users)
    items, events_of_item = _result(counts.items)
    labels_of_user, labels_of_item = (_result(found)[1] for found in (counts.label_users, counts.label_items))
    new_items = new_users = label_share = None
    if manifest.has_timestamps and counts.oldest is not None and counts.oldest <= counts.last_day_from:
        recent_items = _first_seen(counts.recent_items, items, events_of_item)
        recent_users = _first_seen(counts.recent_users, users, events_of_user)
        recent, labels = _result(counts.recent_label_items)
        of_new = int(labels[np.isin(recent, recent_items)].sum())
        new_items, new_users = len(recent_items), len(recent_users)
        label_share = of_new / max(1, int(labels.sum()))
    tell("Counting repeats")
    repeats, counted = _repeats(files, manifest, users, items)
    hours, events_of_hour = _result(counts.hours)
    return Description(
        directory=directory,
        manifest=manifest,
        event_types=dict(counts.types.most_common()),
        splits={name: counts.splits[name] for name in SPLIT_NAMES if manifest.has_splits},
        events_per_user=Distribution.of(events_of_user),
        labels_per_user=Distribution.of(labels_of_user),
        labels_per_item=Distribution.of(labels_of_item),
        users_with_one_event=float((events_of_user == 1).mean()) if len(users) else 0.0,
        items_without_event=int((~np.isin(catalog, items, assume_unique=True)).sum()),
        new_items=new_items,
        label_events_of_new_items=label_share,
        new_users=new_users,
        repeats=repeats,
        repeats_counted_over=counted,
        play_ratio=counts.mean("play_ratio"),
        is_organic=counts.mean("is_organic"),
        hours=hours,
        events_of_hour=events_of_hour,
        columns={
            "users": _columns("users", user_files(directory), manifest),
            "items": _columns("items", item_files(directory), manifest),
        },
    )


# ── Events ──────────────────────────────────────────────────────────────────────────────────────────────


class _EventCounts:
    """What is counted in one pass over the events."""

    def __init__(self, manifest: Manifest) -> None:
        wanted = ("user_id", "item_id", "timestamp", "event_type", "play_ratio", "is_organic", "split")
        self.columns = [name for name in wanted if name in manifest.columns["events"]]
        self.types: Counter[str] = Counter()
        self.splits: Counter[str] = Counter()
        self.users, self.items, self.hours = KeyCounts(), KeyCounts(), KeyCounts()
        self.has_types = "event_type" in self.columns
        # Without types every event is a label event: counted once for both.
        self.label_users, self.label_items = (
            (KeyCounts(), KeyCounts()) if self.has_types else (self.users, self.items)
        )
        self.recent_users, self.recent_items, self.recent_label_items = KeyCounts(), KeyCounts(), KeyCounts()
        self.oldest: int | None = None
        self.last_day_from = manifest.time_range[1] - DAY
        self._label_event = manifest.label_event
        self._events = 0
        self._known: Counter[str] = Counter()
        self._sums: Counter[str] = Counter()

    def add(self, batch: pa.RecordBatch) -> None:
        user, item = batch["user_id"].to_numpy(), batch["item_id"].to_numpy()
        self._events += len(user)
        self.users.add(user)
        self.items.add(item)
        is_label = np.ones(len(user), bool)
        if self.has_types:
            kind = batch["event_type"].dictionary_encode()
            codes = kind.indices.fill_null(len(kind.dictionary)).to_numpy()
            names = [*kind.dictionary.to_pylist(), ""]
            for code, number in enumerate(np.bincount(codes, minlength=len(names)).tolist()):
                self.types[names[code]] += number
            self.types += Counter()  # drops what is 0
            is_label = np.array([name == self._label_event for name in names])[codes]
            self.label_users.add(user[is_label])
            self.label_items.add(item[is_label])
        else:
            self.types[self._label_event] += len(user)
        if "timestamp" in self.columns and len(user):
            time = batch["timestamp"].to_numpy()
            self.hours.add(time // _HOUR)
            self.oldest = int(min(time.min(), self.oldest if self.oldest is not None else time.min()))
            recent = time > self.last_day_from
            self.recent_users.add(user[recent])
            self.recent_items.add(item[recent])
            self.recent_label_items.add(item[recent & is_label])
        if "split" in self.columns:
            for found in pc.value_counts(batch["split"]).to_pylist():
                self.splits[found["values"]] += found["counts"]
        for name in ("play_ratio", "is_organic"):
            if name in self.columns:
                self._known[name] += batch.num_rows - batch[name].null_count
                self._sums[name] += pc.sum(batch[name].cast(pa.float64())).as_py() or 0

    def mean(self, column: str) -> tuple[float, float] | None:
        """Mean of the known values of a column, and the share of events that have one."""
        known = self._known[column]
        return (self._sums[column] / known, known / self._events) if known else None


def _result(counts: KeyCounts) -> tuple[np.ndarray, np.ndarray]:
    """Keys and their counts, int64[n] each; n is 0 where nothing was added."""
    found = counts.result()
    return (found[0], found[1]) if found else (np.zeros(0, np.int64), np.zeros(0, np.int64))


def _first_seen(recent: KeyCounts, keys: np.ndarray, events: np.ndarray) -> np.ndarray:
    """The keys all of whose events are recent."""
    found, recent_events = _result(recent)
    return found[events[np.searchsorted(keys, found)] == recent_events]


def _repeats(
    files: Sequence[str], manifest: Manifest, users: np.ndarray, items: np.ndarray
) -> tuple[float, float]:
    """Share of label events of an item that the user had had one of, and the share of them looked at.

    Of n label events of one user and one item all but the first are repeats: counting pairs needs no order,
    only all events of a user at once.
    """
    total = manifest.counts["label_events"]
    parts = -(-total // _PAIRS)
    looked_at = pairs = 0
    for part in range(min(parts, _MOST_PARTS)):
        keys = [np.zeros(0, np.int64)]
        for user, item in _label_events(files, manifest):
            if parts > 1:
                # Ids that count up, even in steps, are spread by Knuth's multiplicative hash.
                of_part = (user.astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15)) >> np.uint64(40)
                mine = of_part % np.uint64(parts) == part
                user, item = user[mine], item[mine]
            keys.append(_pair_keys(user, item, users, items))
        key = np.concatenate(keys)
        key.sort()
        looked_at += len(key)
        pairs += int((np.diff(key) != 0).sum()) + min(1, len(key))
    return (looked_at - pairs) / max(1, looked_at), looked_at / max(1, total)


def _label_events(files: Iterable[str], manifest: Manifest) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    has_types = "event_type" in manifest.columns["events"]
    columns = ["user_id", "item_id", *(["event_type"] if has_types else [])]
    for path in files:
        for _, batch in checked_columns.read_batches(path, columns):
            user, item = batch["user_id"].to_numpy(), batch["item_id"].to_numpy()
            if has_types:
                is_label = pc.fill_null(pc.equal(batch["event_type"], manifest.label_event), False)
                wanted = is_label.to_numpy(zero_copy_only=False)
                user, item = user[wanted], item[wanted]
            yield user, item


def _pair_keys(user: np.ndarray, item: np.ndarray, users: np.ndarray, items: np.ndarray) -> np.ndarray:
    """int64[n], equal where user and item are. `users` and `items` are all ids there are, sorted."""
    if (int(users[-1]) + 1) * (int(items[-1]) + 1) <= np.iinfo(np.int64).max:
        return user * (items[-1] + 1) + item
    return np.searchsorted(users, user) * len(items) + np.searchsorted(items, item)


# ── Columns ─────────────────────────────────────────────────────────────────────────────────────────────


def _columns(table: str, files: Sequence[str], manifest: Manifest) -> tuple[Column, ...]:
    """The columns that `features.users` or `features.items` can name, with their kinds."""
    kinds: dict[str, tuple[str, int]] = {}
    for name in manifest.columns.get(table, {}):
        try:
            resolved = resolve(FeaturesConfig(**{table: (name,)}), manifest)
        except UserError:
            continue  # an id, what every model uses anyway, or what cannot be a feature
        (spec,) = resolved.users or resolved.items
        kinds[name] = spec.kind, spec.width
    if not kinds:
        return ()
    values = {name: _Values() for name in kinds}
    for path in files:
        for _, batch in checked_columns.read_batches(path, list(kinds), _ITEM_ROWS):
            for name, (kind, _) in kinds.items():
                values[name].add(batch[name], KINDS[kind])
    return tuple(values[name].column(name, KINDS[kind], width) for name, (kind, width) in kinds.items())


class _Values:
    """The values of one column."""

    def __init__(self) -> None:
        self._rows = self._known = 0
        self._distinct: pa.Array | None = None
        self._too_many = False
        self._bounds: tuple[float, float] | None = None

    def add(self, column: pa.Array, kind: ColumnKind) -> None:
        self._rows += len(column)
        known = is_known(column)
        self._known += int(known.sum())
        if kind.has_width or pa.types.is_null(column.type):
            return
        column = column.filter(pa.array(known))
        values = column.flatten() if kind.is_list else column
        values = values.drop_null()
        if kind.is_number and len(values):
            bounds = pc.min_max(values.cast(pa.float64())).as_py()
            low, high = self._bounds or (bounds["min"], bounds["max"])
            self._bounds = (min(low, bounds["min"]), max(high, bounds["max"]))
        if not self._too_many:
            values = values.unique()
            if self._distinct is not None:
                values = pa.concat_arrays([self._distinct, values]).unique()
            self._distinct, self._too_many = values, len(values) > _MOST_VALUES

    def column(self, name: str, kind: ColumnKind, width: int) -> Column:
        distinct = None
        if not kind.has_width and not self._too_many:
            distinct = 0 if self._distinct is None else len(self._distinct)
        return Column(name, kind.name, width, self._known / max(1, self._rows), distinct, self._bounds)


# ── As text ─────────────────────────────────────────────────────────────────────────────────────────────


def render(description: Description) -> str:
    """Some fifty lines of at most 80 columns."""
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
    """A share in percent: 0% and 100% only where they are meant."""
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
        lines += _line("Time", "none: the events have an order within their user")
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
    """Bars of events over time, each for the same time."""
    if not len(hours):
        return ["No events."]
    begin = int(hours[0])
    # A whole day's bars begin at midnight.
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
    cells = []
    for column in columns:
        if KINDS[column.kind].has_width:
            content = f"of width {column.width}"
        elif column.bounds is not None:
            dated = tells_dates(description.manifest.time_range[1])
            content = " to ".join(
                day_name(int(bound // DAY), dated) if column.name == "release_timestamp" else f"{bound:,.6g}"
                for bound in column.bounds
            )
        else:
            number = f"over {_MOST_VALUES:,}" if column.distinct is None else f"{column.distinct:,}"
            content = f"{number} value{'' if column.distinct == 1 else 's'}"
        cells.append([column.name, column.kind, content, f"known for {_share(column.known)}"])
    widths = [max(len(row[place]) for row in cells) for place in range(4)]
    return [
        f"Columns of {table}/ that can become features (features.{table})",
        *(
            "  " + "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
            for row in cells
        ),
    ]


def _advice(description: Description) -> list[str]:
    """The command that comes next, with what the data asks for."""
    manifest = description.manifest
    settings = protocol_settings(manifest)
    for table, columns in description.columns.items():
        # What tells users or items apart: not one value for all, nor another for each.
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
