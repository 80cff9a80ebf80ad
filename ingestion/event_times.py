"""Times of all events, judged as a whole: a log of less than an hour, and events years from all others."""

from __future__ import annotations

import numpy as np

from two_tower.data_directory import ingest_report
from two_tower.data_directory.manifest import DAY
from two_tower.data_directory.writer import DataDirectoryWriter
from two_tower.ingestion import notices

_HOUR, _YEAR = 3_600, 365 * DAY
# Number of oldest and newest events that may be years from all others, and their largest share.
_FEW = 100
_SMALL_SHARE = 0.001


class EventTimes:
    """Summary of the events' times: their number, and the oldest and newest few."""

    def __init__(self) -> None:
        self._count = 0
        self._oldest = self._newest = np.zeros(0, np.int64)

    def add(self, times: np.ndarray) -> None:
        """Adds times in seconds, int64[n]."""
        self._count += len(times)
        old, new = times, times
        if len(self._oldest) > _FEW:
            old, new = times[times < self._oldest.max()], times[times > self._newest.min()]
        for_old, for_new = np.append(self._oldest, old), np.append(self._newest, new)
        if len(for_old) > _FEW + 1:
            for_old = np.partition(for_old, _FEW)[: _FEW + 1]
        if len(for_new) > _FEW + 1:
            for_new = np.partition(for_new, len(for_new) - _FEW - 1)[-_FEW - 1 :]
        self._oldest, self._newest = for_old, for_new

    def tell(self, writer: DataDirectoryWriter) -> None:
        """Notes times that are likely to be wrong, and would make a wrong test period."""
        oldest, newest = np.sort(self._oldest), np.sort(self._newest)
        if self._count < 2:
            return
        length = int(newest[-1] - oldest[0])
        if length < _HOUR:
            writer.noted["events_within_an_hour"] += self._count
            notices.tell(
                f"All events lie within {length / 60:,.1f} minutes: no test period can follow the training. "
                "Check the column of times and its unit."
            )
            return
        few = max(1, int(self._count * _SMALL_SHARE))
        for name, gaps in (("after", np.diff(newest)), ("before", np.diff(oldest)[::-1])):
            wide = np.flatnonzero(gaps >= _YEAR)
            # Events beyond the widest gap.
            beyond = len(gaps) - int(wide[np.argmax(gaps[wide])]) if len(wide) else 0
            if not 0 < beyond <= few:
                continue
            writer.noted[f"events_years_{name}_all_others"] += beyond
            if name == "after":
                first, last = newest[-beyond], newest[-beyond - 1]
                remedy = "Test would hold nothing else: drop or correct what is wrong."
            else:
                first, last = oldest[beyond - 1], oldest[beyond]
                remedy = "Drop or correct what is wrong."
            told = "1 event lies" if beyond == 1 else f"{beyond:,} events lie"
            notices.tell(
                f"{told} {abs(int(first - last)) / _YEAR:,.1f} years {name} all others, on "
                f"{ingest_report.day_name(int(first) // DAY)}. {remedy}"
            )
