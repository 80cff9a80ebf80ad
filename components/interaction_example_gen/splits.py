"""What is predicted from what: the protocols as two numbers an event, its label's split and who may see it.

The protocols differ in these two alone (`Placement`), and in how eval and test ask: by a query an event, or,
in the frozen protocol, by one a user.
"""

from __future__ import annotations

import dataclasses
from typing import ClassVar, Protocol

import numpy as np

from two_tower.base.errors import UserError
from two_tower.components.interaction_example_gen.settings import SplitConfig
from two_tower.data_directory.manifest import Manifest
from two_tower.schema import features

Array = np.ndarray

# Listens that are labels of the frozen protocol, by the constant of Yambda's authors.
MIN_LABEL_PLAY_RATIO = 0.5
# Yambda's own split, as its authors have it (Ploshkin et al., 2025), in seconds of its clock: test from
# 25,913,600, which is 86,400 before the end, and a gap of 1,800.
YAMBDA = SplitConfig("frozen", holdout_seconds=86_400, gap_seconds=1_800, last_timestamp=26_000_000)
# Protocols that split by time.
BY_TIME = ("next_event", "frozen", "yambda")

# Splits are numbered by their place in features.SPLITS, as bytes: there is one per event.
TRAIN, EVAL, TEST, NONE = (np.int8(number) for number in range(4))


class Histories(Protocol):
    """What a protocol sees of events: columns of one length, by user and time (see windows.Histories)."""

    @property
    def user(self) -> Array:
        """[n] the event's user, numbered from 0 without a gap."""

    @property
    def timestamp(self) -> Array:
        """[n] seconds, or the rank within the user where the data has an order instead of times."""

    @property
    def is_listen(self) -> Array:
        """[n] is it a label event?"""

    @property
    def split(self) -> Array | None:
        """[n] the events' own column `split`, where it is read."""


@dataclasses.dataclass(frozen=True)
class Placement:
    """Where each of n events belongs.

    `label_split` int8 [n]: the split in which it is a label, if it is a label event; NONE: in no split.
    `visible_from` int8 [n]: the first split whose queries may see it; later ones may too; NONE: no split.
    """

    label_split: Array
    visible_from: Array


class EventSplit(Protocol):
    """A protocol."""

    # The splits in which every label event is predicted from what came before it.
    next_event_splits: ClassVar[tuple[str, ...]]

    def place(self, events: Histories) -> Placement:
        """Each event's split."""

    def where(self, split: str) -> str:
        """Where a split's labels lie and which settings say so, for messages."""


@dataclasses.dataclass(frozen=True)
class TimeSplit:
    """One point in time for everybody: train's label times are before `train_end`, others' in [from, to)."""

    train_end: int
    eval: tuple[int, int]
    test: tuple[int, int]

    next_event_splits: ClassVar[tuple[str, ...]] = features.SPLITS

    @classmethod
    def before(cls, newest: int, config: SplitConfig) -> TimeSplit:
        """Counts back from the end of test: train | gap | eval | gap | test.

        Test ends with the newest label event and begins `holdout_seconds` before its end; where
        `config.last_timestamp` is given, it begins `holdout_seconds` before that time. So do Yambda's authors
        count, whose test is [26,000,000 - 86,400, infinity).
        """
        if config.last_timestamp < 0:
            test_from = newest + 1 - config.holdout_seconds
        else:
            test_from = config.last_timestamp - config.holdout_seconds
        eval_to = test_from - config.gap_seconds
        eval_from = eval_to - config.holdout_seconds
        test_to = max(newest, config.last_timestamp) + 1
        return cls(eval_from - config.gap_seconds, (eval_from, eval_to), (test_from, test_to))

    def bounds(self, split: str) -> tuple[int, int]:
        """[from, to) of a split's label times."""
        train = (np.iinfo(np.int64).min, self.train_end)
        return {"train": train, "eval": self.eval, "test": self.test}[split]

    def place(self, events: Histories) -> Placement:
        """By time. Events of a gap are labels nowhere, and visible to all that comes later."""
        edges = (self.train_end, *self.eval, *self.test)
        if list(edges) != sorted(edges):
            raise ValueError(f"The splits overlap: {self}.")
        label_split = np.array([TRAIN, NONE, EVAL, NONE, TEST, NONE])
        visible_from = np.array([TRAIN, EVAL, EVAL, TEST, TEST, NONE])
        # Events are sorted by user and then time: what counts the edges passed is a few comparisons.
        period = np.zeros(len(events.timestamp), np.int8)
        for edge in edges:
            period += events.timestamp >= edge
        return Placement(label_split[period], visible_from[period])

    def where(self, split: str) -> str:
        """The split's time, and the settings of its length."""
        begin, end = self.bounds(split)
        span = f"before {end}" if split == "train" else f"from {begin} to {end}"
        return (
            f"no user has a label event {span} (seconds) with an earlier one to predict it from. Change "
            "split.holdout_seconds, split.gap_seconds or split.last_timestamp, or bring more data"
        )


@dataclasses.dataclass(frozen=True)
class FrozenSplit:
    """The same points in time, and a user's state stops where eval or test begins, less the gap before it.

    Eval and test ask one query a user that train knows: the labels are the period's distinct items.

    Attributes:
        times: the periods.
        gap_seconds: what the state lacks before a period begins.
        min_play_ratio: of a label event that is a label. An unknown play ratio counts as enough.
    """

    times: TimeSplit
    gap_seconds: int
    min_play_ratio: float = MIN_LABEL_PLAY_RATIO

    next_event_splits: ClassVar[tuple[str, ...]] = ("train",)

    def place(self, events: Histories) -> Placement:
        """By time, as `TimeSplit` does."""
        return self.times.place(events)

    def frozen_at(self, split: str) -> int:
        """Queries of eval or test see what happened before this time (seconds)."""
        return self.times.bounds(split)[0] - self.gap_seconds

    def where(self, split: str) -> str:
        """The split's time, what makes a label, and the settings of the time."""
        if split == "train":
            return self.times.where(split)
        begin, end = self.times.bounds(split)
        return (
            f"no user with a label event before {self.times.train_end} (seconds) has an event from {begin} "
            f"to {end} that is a label (with a play ratio of {self.min_play_ratio:g} or more). Change "
            "split.holdout_seconds or split.last_timestamp, or bring more data"
        )


@dataclasses.dataclass(frozen=True)
class LeaveOneOut:
    """Each user's last label event is test's, the one before it eval's; fewer than three are all train's."""

    next_event_splits: ClassVar[tuple[str, ...]] = features.SPLITS

    def place(self, events: Histories) -> Placement:
        """By how many of the user's label events follow; reactions go with the label event before them."""
        listens = np.flatnonzero(events.is_listen)
        user = events.user[listens]
        counts = np.bincount(user, minlength=1)
        after = np.cumsum(counts)[user] - np.arange(len(listens)) - 1
        by_listen = np.where(counts[user] < 3, TRAIN, np.choose(np.minimum(after, 2), [TEST, EVAL, TRAIN]))
        # The last listen up to each event; before a user's first there is none, or another user's.
        last = np.cumsum(events.is_listen) - 1
        of_last = np.append(by_listen, TRAIN)[last].astype(np.int8)
        owner = np.append(user, -1)[last]
        visible_from = np.where(owner == events.user, of_last, TRAIN).astype(np.int8)
        return Placement(visible_from, visible_from)

    def where(self, split: str) -> str:
        """What a user needs."""
        return "no user has three label events or more. Choose another split.protocol, or bring more data"


@dataclasses.dataclass(frozen=True)
class SplitColumn:
    """The events' own column `split`."""

    next_event_splits: ClassVar[tuple[str, ...]] = features.SPLITS

    def place(self, events: Histories) -> Placement:
        """As the column says: a query of a split sees the events of its own split and of those before it."""
        if events.split is None:
            raise ValueError("The column split was not read.")
        return Placement(events.split, events.split)

    def where(self, split: str) -> str:
        """What the column lacks."""
        return (
            f"no user has a label event whose column split is '{split}' with an earlier one, of a split no "
            "later, to predict it from. Look at how the column was written, or choose another split.protocol"
        )


def event_split(data: str, manifest: Manifest, config: SplitConfig, spans: int = 0) -> EventSplit:
    """The protocol of the settings, for a data directory.

    Args:
      data: the directory, for messages.
      manifest: its manifest.
      config: the settings.
      spans: how many of the newest spans are read; 0: all there is.

    Raises:
      UserError: the data lacks what the protocol needs: times, or a column `split`.
    """
    if config.protocol in BY_TIME and not manifest.has_timestamps:
        works = "leave_one_out or split_column" if manifest.has_splits else "leave_one_out"
        raise UserError(
            f"split.protocol is {config.protocol}, which splits by time, and the events of {data} have an "
            f"order and no times: choose {works}."
        )
    if config.protocol == "split_column" and not manifest.has_splits:
        raise UserError(
            f"split.protocol is split_column, and the events of {data} have no column 'split' (train, eval "
            "or test): choose another protocol, or ingest the data with that column."
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
    if config.protocol == "next_event":
        return times
    return FrozenSplit(times, config.gap_seconds)


def check_not_empty(counts: dict[str, int], split: EventSplit) -> None:
    """Raises UserError where a split has no label, or test no user that train knows.

    There would be nothing to train, tune or test on; and what a model makes of strangers alone says nothing
    of what it learnt. It is known here, before anything is trained.
    """
    for name in features.SPLITS:
        if not counts.get(f"{name}_labels"):
            raise UserError(f"The {name} split is empty: {split.where(name)}.")
    strangers = counts.get("test_users_unknown_to_train", 0)
    # The frozen protocol does not count them among its users, and says so above where there are no others.
    if strangers >= counts.get("test_users", 0) and strangers and not isinstance(split, FrozenSplit):
        raise UserError(
            f"The test split has no user that train knows: none of its {strangers:,} users has a label event "
            "in train. Are user ids the same throughout the data? Else leave more of it to train, by a "
            "shorter split.holdout_seconds or another split.protocol."
        )
