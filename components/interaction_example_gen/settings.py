"""Settings of the split and of windows."""

from __future__ import annotations

import dataclasses

from two_tower.base.durations import DAY
from two_tower.base.settings import setting

PROTOCOLS = ("next_event", "frozen", "yambda", "leave_one_out", "split_column", "hold_out")
# Longest period, some 300 years.
_LONGEST = 10**10
# Protocols that take their points in time from the settings.
_BY_TIME = ("next_event", "frozen")


@dataclasses.dataclass(frozen=True)
class SplitConfig:
    """Split into train, eval and test.

    The protocols:

    - next_event: global points in time, train | gap | eval | gap | test. All earlier events of the user
      predict a label event of eval or test.
    - frozen: the same points in time. The user's state freezes where eval or test begins, before the gap. A
      user is one query, and the labels are the set of the period's items. Users unknown to train are left
      out. A listen is a label with a play ratio of at least 0.5 or an unknown one (`splits.FrozenSplit`).
    - yambda: the frozen protocol at the points in time of Yambda's authors (`splits.YAMBDA`).
    - leave_one_out: a user's last label event belongs to test, the one before it to eval. The protocol needs
      no times and does not split by time, so train has later events of other users.
    - split_column: the events' column `split` (train, eval, test).
    - hold_out: for events without an order, such as play counts. Test and eval each hold out a share of a
      user's items, drawn by a seed. A user is one query, and the held-out items are its set of labels.
    """

    protocol: str = setting(
        "next_event",
        help="Protocol of the split. next_event and frozen split by time, yambda at its authors' points in "
        "time. leave_one_out splits by each user's last events, split_column by the events' column. hold_out "
        "draws items of each user, for events without an order.",
        choices=PROTOCOLS,
        shown=True,
    )
    holdout_seconds: int = setting(
        DAY,
        help="Length of eval and of test.",
        unit="seconds",
        at_least=1,
        at_most=_LONGEST,
        applies={"split.protocol": _BY_TIME},
    )
    gap_seconds: int = setting(
        1_800,
        help="Length of the gaps before eval and before test, which keep a session within one split. "
        "Listens in a gap are never labels. They are context in the next_event protocol and invisible in the "
        "frozen one.",
        unit="seconds",
        at_least=0,
        at_most=_LONGEST,
        applies={"split.protocol": _BY_TIME},
    )
    last_timestamp: int = setting(
        -1,
        help="Time of the last event of test; later events are left out. -1: the newest label event.",
        unit="seconds of the data's clock",
        at_least=-1,
        at_most=10**12,
        applies={"split.protocol": _BY_TIME},
    )

    holdout_share: float = setting(
        0.1,
        help="Share of a user's items that test holds out, and eval likewise. Of three items or more each "
        "holds out at least one.",
        at_least=0.001,
        at_most=0.45,
        applies={"split.protocol": ("hold_out",)},
    )
    seed: int = setting(
        0,
        help="Seed of the draw. It is not the run's seed, so trainings of several seeds share test's labels.",
        at_least=0,
        at_most=2**31 - 1,
        applies={"split.protocol": ("hold_out",)},
    )


@dataclasses.dataclass(frozen=True)
class WindowConfig:
    """Packed windows, the unit of training data."""

    history_length: int = setting(
        200,
        help="History length: number of events that a query sees in training, evaluation and serving.",
        at_least=1,
        at_most=10_000,
        shown=True,
    )
    positions: int = setting(
        150,
        help="Largest number of query positions in a window, after up to history_length - 1 events of "
        "context.",
        at_least=1,
        at_most=100_000,
    )
    spans: int = setting(
        0,
        help="Number of newest spans (events/span-N/) that the run reads; 0: all. Data without spans is read "
        "whole.",
        at_least=0,
        at_most=1_000_000,
    )
