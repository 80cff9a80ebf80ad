"""Split protocols: each event's label split, and the first split whose queries see the event.

The protocols differ in these two numbers (`Placement`), and in the queries of eval and test: one per event,
or in the frozen protocol and for hold-outs one per user (`LabelSets`).
"""

from __future__ import annotations

import dataclasses
from typing import ClassVar, Protocol, TypeGuard

import numpy as np

from two_tower.base.errors import UserError
from two_tower.components.interaction_example_gen.settings import SplitConfig
from two_tower.data_directory.manifest import Manifest
from two_tower.schema import features

Array = np.ndarray

# Least play ratio of a listen that is a label of the frozen protocol: the constant of Yambda's authors.
MIN_LABEL_PLAY_RATIO = 0.5
# Yambda's own split, as its authors have it (Ploshkin et al., 2025), in seconds of its clock: test from
# 25,913,600, which is 86,400 before the end, and a gap of 1,800.
YAMBDA = SplitConfig("frozen", holdout_seconds=86_400, gap_seconds=1_800, last_timestamp=25_999_999)
# Protocols that split by time.
BY_TIME = ("next_event", "frozen", "yambda")

# Split numbers are places in features.SPLITS, stored as one byte per event.
TRAIN, EVAL, TEST, NONE = (np.int8(number) for number in range(4))


class Histories(Protocol):
    """Columns of events that a protocol reads, sorted by user and time (see histories.Histories)."""

    @property
    def user(self) -> Array:
        """User numbers [n], from 0 without gaps."""

    @property
    def timestamp(self) -> Array:
        """Times [n] in seconds, or ranks within the user for data without times."""

    @property
    def play_ratio(self) -> Array:
        """Play ratios [n], -1 where unknown."""

    @property
    def is_listen(self) -> Array:
        """Marks of label events, bool [n]."""

    @property
    def split(self) -> Array | None:
        """Column `split` as split numbers [n]; None unless it is read."""


@dataclasses.dataclass(frozen=True)
class Placement:
    """Label split and visibility of n events.

    Attributes:
        label_split: int8 [n], the split in which a label event is a label; NONE for no split.
        visible_from: int8 [n], the first split whose queries may see the event; NONE for no split. Later
            splits may see it too.
    """

    label_split: Array
    visible_from: Array


class EventSplit(Protocol):
    """Split protocol."""

    # The splits in which each label event is predicted from the events before it.
    next_event_splits: ClassVar[tuple[str, ...]]

    def place(self, events: Histories) -> Placement:
        """Returns the splits of events."""

    def where(self, split: str) -> str:
        """Describes, for messages, why a split may be empty, and the settings that change it."""


class LabelSets(EventSplit, Protocol):
    """Split protocol in which a query of eval or test is a user, with a set of labels."""

    def state(self, events: Histories, placed: Placement, split: str) -> Array:
        """Marks the events that queries of eval or test see, bool [n]: the first ones of each user."""

    def makes_label(self, events: Histories) -> Array:
        """Marks the events whose items can be labels, bool [n]."""

    def request_time(self, split: str) -> int:
        """Returns the time of the queries of eval or test, in seconds; 0 without times."""


@dataclasses.dataclass(frozen=True)
class TimeSplit:
    """Split by time, the same for all users; eval and test are periods [from, to) in seconds."""

    train_end: int
    eval: tuple[int, int]
    test: tuple[int, int]

    next_event_splits: ClassVar[tuple[str, ...]] = features.SPLITS

    @classmethod
    def before(cls, newest: int, config: SplitConfig) -> TimeSplit:
        """Returns the split that ends with the newest label event: train | gap | eval | gap | test.

        Test ends with the newest label event, or with `config.last_timestamp` if that is set. Later events
        belong to no split.

        Args:
            newest: time of the newest label event, in seconds.
            config: lengths of the periods.
        """
        test_to = (newest if config.last_timestamp < 0 else config.last_timestamp) + 1
        test_from = test_to - config.holdout_seconds
        eval_to = test_from - config.gap_seconds
        eval_from = eval_to - config.holdout_seconds
        return cls(eval_from - config.gap_seconds, (eval_from, eval_to), (test_from, test_to))

    def bounds(self, split: str) -> tuple[int, int]:
        """Returns the period [from, to) of a split's label times, in seconds."""
        train = (np.iinfo(np.int64).min, self.train_end)
        return {"train": train, "eval": self.eval, "test": self.test}[split]

    def place(self, events: Histories) -> Placement:
        """Places events by time; events of a gap are no labels, but later splits see them."""
        edges = (self.train_end, *self.eval, *self.test)
        if list(edges) != sorted(edges):
            raise ValueError(f"The splits overlap: {self}.")
        label_split = np.array([TRAIN, NONE, EVAL, NONE, TEST, NONE])
        visible_from = np.array([TRAIN, EVAL, EVAL, TEST, TEST, NONE])
        # Events are sorted by user before time, so counting passed edges beats a search.
        period = np.zeros(len(events.timestamp), np.int8)
        for edge in edges:
            period += events.timestamp >= edge
        return Placement(label_split[period], visible_from[period])

    def where(self, split: str) -> str:
        """Describes the split's period and the settings of its length."""
        begin, end = self.bounds(split)
        span = f"before {end:,}" if split == "train" else f"from {begin:,} to {end:,}"
        return (
            f"no user has a label event {span} (seconds of the data's clock) after an earlier one. "
            f"{'Eval and test may leave train too little time: lower' if split == 'train' else 'Change'} "
            "split.holdout_seconds, change split.gap_seconds or split.last_timestamp, or bring more data"
        )


@dataclasses.dataclass(frozen=True)
class FrozenSplit:
    """Split by time in which a user's state freezes a gap before eval or test begins.

    Eval and test have one query per user that train knows; its labels are the distinct items of the period.

    Attributes:
        times: the periods.
        gap_seconds: time between the freeze and the period, in seconds.
        min_play_ratio: the least play ratio of a label; an unknown play ratio passes.
    """

    times: TimeSplit
    gap_seconds: int
    min_play_ratio: float = MIN_LABEL_PLAY_RATIO

    next_event_splits: ClassVar[tuple[str, ...]] = ("train",)

    def place(self, events: Histories) -> Placement:
        """Places events by time, see `TimeSplit`."""
        return self.times.place(events)

    def state(self, events: Histories, placed: Placement, split: str) -> Array:
        """Marks the events before the freeze."""
        return events.timestamp < self.frozen_at(split)

    def makes_label(self, events: Histories) -> Array:
        """Marks label events of the least play ratio or an unknown one."""
        unknown = events.play_ratio < 0
        return events.is_listen & (unknown | (events.play_ratio >= np.float32(self.min_play_ratio)))

    def request_time(self, split: str) -> int:
        """Returns the begin of the period."""
        return self.times.bounds(split)[0]

    def frozen_at(self, split: str) -> int:
        """Returns the time before which queries of eval or test see events, in seconds."""
        return self.times.bounds(split)[0] - self.gap_seconds

    def where(self, split: str) -> str:
        """Describes the split's period, its labels, and the settings of the period."""
        if split == "train":
            return self.times.where(split)
        begin, end = self.times.bounds(split)
        return (
            f"no user with a label event before {self.times.train_end} (seconds) has a label from {begin} "
            f"to {end}. A label has a play ratio of {self.min_play_ratio:g} or more, or an unknown one. "
            "Change split.holdout_seconds or split.last_timestamp, or bring more data"
        )


@dataclasses.dataclass(frozen=True)
class LeaveOneOut:
    """Split that gives each user's last label event to test and the one before to eval, from three on."""

    next_event_splits: ClassVar[tuple[str, ...]] = features.SPLITS

    def place(self, events: Histories) -> Placement:
        """Places events by the number of label events after them; reactions join the label event before."""
        counts = np.bincount(events.user[events.is_listen])
        held = (counts >= 3).astype(np.int64)
        return _place_by_rank(events, held, held)

    def where(self, split: str) -> str:
        """Describes the number of label events that a user needs."""
        return "no user has three label events or more. Choose another split.protocol, or bring more data"


@dataclasses.dataclass(frozen=True)
class HoldOut:
    """Split of events without an order: test and eval each hold out a share of a user's items.

    The events come in a random order within their user (`data_directory.shuffled_order`); the last ones are
    held out. Train sees none of them, eval sees train, and test sees train and eval.

    Attributes:
        share: the share that eval, and test, hold out; of three items or more at least one each.
    """

    share: float

    next_event_splits: ClassVar[tuple[str, ...]] = ("train",)

    def place(self, events: Histories) -> Placement:
        """Places events by the number of label events after them; reactions join the label event before."""
        counts = np.bincount(events.user[events.is_listen])
        held = np.where(counts < 3, 0, np.maximum(1, np.floor(counts * self.share + 1e-9).astype(np.int64)))
        return _place_by_rank(events, held, held)

    def state(self, events: Histories, placed: Placement, split: str) -> Array:
        """Marks the events of earlier splits."""
        return placed.visible_from < features.SPLITS.index(split)

    def makes_label(self, events: Histories) -> Array:
        """Marks label events."""
        return events.is_listen

    def request_time(self, split: str) -> int:
        """Returns 0: the events have no times."""
        return 0

    def where(self, split: str) -> str:
        """Describes the number of items that a user needs."""
        if split == "train":
            return "no user has two items or more that are not held out. Lower split.holdout_share"
        return "no user has three items or more. Bring more data"


@dataclasses.dataclass(frozen=True)
class SplitColumn:
    """Split by the events' own column `split`."""

    next_event_splits: ClassVar[tuple[str, ...]] = features.SPLITS

    def place(self, events: Histories) -> Placement:
        """Places events by the column; queries see the events of their own split and of earlier ones."""
        if events.split is None:
            raise ValueError("The column split was not read.")
        return Placement(events.split, events.split)

    def where(self, split: str) -> str:
        """Describes the rows that the column lacks."""
        return (
            f"no label event whose column split is '{split}' has a query. The query is an earlier label "
            "event of the user, of the same or an earlier split. Check the column, or choose another "
            "split.protocol"
        )


def _place_by_rank(events: Histories, in_eval: Array, in_test: Array) -> Placement:
    """Gives each user's last label events to test and those before to eval.

    Args:
        events: the events.
        in_eval, in_test: int64 [users], numbers of label events.
    """
    listens = np.flatnonzero(events.is_listen)
    user = events.user[listens]
    counts = np.bincount(user)
    after = np.cumsum(counts)[user] - np.arange(len(listens)) - 1
    by_listen = np.where(after < (in_test + in_eval)[user], EVAL, TRAIN)
    by_listen = np.where(after < in_test[user], TEST, by_listen)
    # The last listen up to each event; before a user's first listen it is missing or another user's.
    last = np.cumsum(events.is_listen) - 1
    of_last = np.append(by_listen, TRAIN)[last]
    owner = np.append(user, -1)[last]
    visible_from = np.where(owner == events.user, of_last, TRAIN)
    return Placement(visible_from, visible_from)


def event_split(data: str, manifest: Manifest, config: SplitConfig, spans: int = 0) -> EventSplit:
    """Returns the split protocol of the settings for a data directory.

    Args:
      data: the directory, for messages.
      manifest: its manifest.
      config: the settings.
      spans: the number of newest spans that are read; 0 for all events.

    Raises:
      UserError: the protocol needs times, an order or a column `split`, and the data has none; or it is for
        data without an order, and the data has one.
    """
    if (config.protocol == "hold_out") == manifest.has_order:
        if manifest.has_order:
            raise UserError(
                f"split.protocol is hold_out, for events without an order, and the events of {data} have "
                f"{'times' if manifest.has_timestamps else 'an order'}: a draw would test on the past. "
                f"Choose {'next_event' if manifest.has_timestamps else 'leave_one_out'}."
            )
        raise UserError(
            f"split.protocol is {config.protocol}, which needs an order of each user's events, and the "
            f"events of {data} have none: choose hold_out."
        )
    if config.protocol == "hold_out":
        return HoldOut(config.holdout_share)
    if config.protocol in BY_TIME and not manifest.has_timestamps:
        works = "leave_one_out or split_column" if manifest.has_splits else "leave_one_out"
        raise UserError(
            f"split.protocol is {config.protocol}, which splits by time, and the events of {data} have no "
            f"times: choose {works}."
        )
    if config.protocol == "split_column" and not manifest.has_splits:
        raise UserError(
            f"split.protocol is split_column, and the events of {data} have no column 'split'. Choose "
            "another protocol, or ingest the data with that column (train, eval or test)."
        )
    if config.protocol == "leave_one_out":
        return LeaveOneOut()
    if config.protocol == "split_column":
        return SplitColumn()
    read = [manifest.span_counts[str(span)] for span in manifest.spans[-spans:]] if spans else []
    newest = max((span["last"] for span in read if span["label_events"]), default=manifest.time_range[1])
    if config.protocol == "yambda":
        config = YAMBDA
    times = TimeSplit.before(newest, config)
    if config is YAMBDA:
        # Its authors define test as [26,000,000 - 86,400, infinity).
        times = dataclasses.replace(times, test=(times.test[0], max(times.test[1], newest + 1)))
    if config.protocol == "next_event":
        return times
    return FrozenSplit(times, config.gap_seconds)


def asks_for_sets(split: EventSplit) -> TypeGuard[LabelSets]:
    """Tells whether queries of eval and test are users with sets of labels."""
    return isinstance(split, FrozenSplit | HoldOut)


def check_not_empty(counts: dict[str, int], split: EventSplit) -> None:
    """Raises UserError if a split has no label: a run needs labels to train, tune and test on.

    Args:
      counts: totals of `WindowCutter.slices`.
      split: the protocol, for messages.
    """
    for name in features.SPLITS:
        if counts.get(f"{name}_labels"):
            continue
        strangers = counts.get(f"{name}_users_unknown_to_train", 0)
        leaves_them_out = isinstance(split, FrozenSplit) and strangers > 0
        hint = (
            f". {strangers:,} users have labels there and no label event in train. Where users never return, "
            "as in data of sessions, choose split.protocol=next_event"
        )
        raise UserError(f"The {name} split is empty: {split.where(name)}{hint if leaves_them_out else ''}.")


def users_are_new(counts: dict[str, int]) -> bool:
    """Tells if train knows no user of the test split, as where each user is one session.

    Args:
      counts: totals of `WindowCutter.slices`.
    """
    users = counts.get("test_users", 0)
    return users > 0 and counts.get("test_users_unknown_to_train", 0) == users
