"""Settings of the split and of windows."""

from __future__ import annotations

import dataclasses

from two_tower.base.durations import DAY

PROTOCOLS = ("next_event", "frozen", "leave_one_out", "split_column")


@dataclasses.dataclass(frozen=True)
class SplitConfig:
    """What is predicted from what. The protocols (`PROTOCOLS`):

    - next_event: one global point in time, train | gap | eval | gap | test; every label event of eval and
      test is predicted from all that came before it.
    - frozen: the same points in time, and the user's state stops where eval or test begins (before the gap);
      one query a user, whose labels are the set of the period's items. Users unknown to train are left out.
    - leave_one_out: each user's last label event is test's, the one before it eval's. Needs no times, and is
      no split in time: what other users did later is known to train.
    - split_column: the events' own column `split` (train, eval, test).
    """

    protocol: str = "next_event"
    # All lengths in seconds.
    eval_seconds: int = DAY
    test_seconds: int = DAY
    # Listens in a gap are never labels, so that no session straddles two splits. They are context in the
    # next_event protocol and invisible in the frozen one.
    gap_seconds: int = 1_800
    # The time that test's length is counted back from; -1: the newest label event's.
    last_timestamp: int = -1
    # frozen: which events make labels. "listen": label events with a play ratio of at least
    # `min_label_play_ratio`, or an unknown one; any other name: events of that type, such as "like".
    frozen_labels: str = "listen"
    min_label_play_ratio: float = 0.5


@dataclasses.dataclass(frozen=True)
class WindowConfig:
    """Packed windows: the unit of training data."""

    # A query sees its last `history_length` events, in training, evaluation and serving alike.
    history_length: int = 200
    # At most this many query positions a window, after up to `history_length - 1` events of context.
    positions: int = 150
    # Events a shard holds in memory while its windows are cut (about 100 bytes an event).
    events_per_shard: int = 1_000_000
    # Where the events lie in spans (`events/span-<number>/`): how many of the newest are read; 0: all.
    spans: int = 0
