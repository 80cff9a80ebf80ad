"""Settings of the split and of windows."""

from __future__ import annotations

import dataclasses

from two_tower.base.durations import DAY
from two_tower.base.settings import setting

PROTOCOLS = ("next_event", "frozen", "yambda", "leave_one_out", "split_column")
# Protocols whose points in time follow from the settings.
_BY_TIME = ("next_event", "frozen")


@dataclasses.dataclass(frozen=True)
class SplitConfig:
    """Split into train, eval and test.

    The protocols:

    - next_event: one global point in time, train | gap | eval | gap | test. Every label event of eval and
      test is predicted from all that came before it.
    - frozen: the same points in time, and the user's state stops where eval or test begins (before the gap).
      A user is one query, whose labels are the set of the period's items. Users unknown to train are left
      out. A listen is a label from a play ratio of 0.5 on, or with an unknown one (`splits.FrozenSplit`).
    - yambda: the frozen protocol at the points in time of Yambda's authors (`splits.YAMBDA`).
    - leave_one_out: each user's last label event is test's, the one before it eval's. It needs no times, and
      is no split in time: train knows what other users did later.
    - split_column: the events' own column `split` (train, eval, test).
    """

    protocol: str = setting(
        "next_event",
        help="Protocol: which labels are predicted from which events. next_event and frozen split by time, "
        "yambda at the points in time of its authors, leave_one_out by each user's last events, split_column "
        "by the events' own column.",
        choices=PROTOCOLS,
        shown=True,
    )
    holdout_seconds: int = setting(
        DAY,
        help="Length of eval, and of test.",
        unit="seconds",
        at_least=1,
        applies={"split.protocol": _BY_TIME},
    )
    gap_seconds: int = setting(
        1_800,
        help="Length of the gaps before eval and before test, so that no session straddles two splits. "
        "Listens in a gap are never labels. They are context in the next_event protocol and invisible in the "
        "frozen one.",
        unit="seconds",
        at_least=0,
        applies={"split.protocol": _BY_TIME},
    )
    last_timestamp: int = setting(
        -1,
        help="Time from which the length of test is counted back; -1: that of the newest label event.",
        unit="seconds of the data's clock",
        at_least=-1,
        applies={"split.protocol": _BY_TIME},
    )


@dataclasses.dataclass(frozen=True)
class WindowConfig:
    """Packed windows: the unit of training data."""

    history_length: int = setting(
        200,
        help="History length: a query sees this many events, in training, evaluation and serving alike.",
        at_least=1,
        at_most=10_000,
        shown=True,
    )
    positions: int = setting(
        150,
        help="Query positions a window, at most, after up to history_length - 1 events of context.",
        at_least=1,
        at_most=100_000,
    )
    spans: int = setting(
        0,
        help="Spans of the data (events/span-N/) that are read, the newest first; 0: all. It applies to data "
        "that lie in spans.",
        at_least=0,
    )
