"""Wrong rows of a table: counted, all of them, and either a reason to stop or dropped.

A conversion raises `WrongRows` for the first check that rows fail. Those rows are taken out, and the rest of
the batch is converted again, until it passes.
"""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, TypeVar

from two_tower.base.errors import UserError
from two_tower.data_directory.checked_columns import WrongRows
from two_tower.ingestion import notices

if TYPE_CHECKING:
    from two_tower.ingestion.mapped_tables import Batch

# Values of the key `on_bad_rows` of a column map.
STOP, DROP = POLICIES = ("stop", "drop")
# Number of wrong rows that a message shows.
SHOWN = 5
# A larger share is no matter of single rows: the map is wrong.
_LARGEST_SHARE = 0.5

T = TypeVar("T")


class BadRows:
    """Wrong rows of one table.

    Args:
      table: "events", "items", "users" or "embeddings".
      policy: STOP or DROP.
    """

    def __init__(self, table: str, policy: str) -> None:
        self.table, self.policy = table, policy
        self.count, self.rows = 0, 0
        self._texts: list[str] = []
        self._hints: dict[str, None] = {}

    def add(self, texts: Iterable[str], count: int) -> None:
        """Adds wrong rows; the first few `texts` of all are shown."""
        self.count += count
        for text in texts:
            if len(self._texts) >= SHOWN:
                return
            self._texts.append(text)

    def converted(
        self,
        batches: Iterable[Batch],
        convert: Callable[[Batch], T],
        counters: Sequence[Counter[str]] = (),
    ) -> Iterator[T]:
        """Yields the converted batches without their wrong rows.

        Args:
          convert: function that raises WrongRows; it may be called several times for a batch.
          counters: counts that `convert` changes; a failed call leaves them as they were.

        Raises:
          UserError: at the end, if rows are wrong and the policy is STOP, or if most rows are wrong.
        """
        for batch in batches:
            self.rows += batch.rows.num_rows
            found = self._convert(batch, convert, counters)
            if found is not None and not (self.count and self.policy == STOP):
                yield found
        self.finish()

    def _convert(
        self, batch: Batch, convert: Callable[[Batch], T], counters: Sequence[Counter[str]]
    ) -> T | None:
        while batch.rows.num_rows:
            before = [counter.copy() for counter in counters]
            try:
                return convert(batch)
            except WrongRows as error:
                for counter, old in zip(counters, before, strict=True):
                    counter.clear()
                    counter.update(old)
                numbers = batch.row_numbers(error.rows[:SHOWN])
                texts = (
                    error.text(position, number)
                    for position, number in zip(error.rows.tolist(), numbers, strict=False)
                )
                self.add(texts, len(error.rows))
                self._hints[error.hint] = None
                batch = batch.without(error.rows)
        return None

    def finish(self) -> None:
        """Raises UserError if wrong rows must stop the ingest, or tells those that are dropped."""
        if not self.count:
            return
        told = "\n  ".join(self._texts + (["..."] if self.count > len(self._texts) else []))
        rows = f"{self.count:,} of {self.rows:,} rows of the {self.table}"
        is_wrong = "is wrong" if self.count == 1 else "are wrong"
        if self.policy == STOP:
            hints = "".join(self._hints)
            if self.table != "events":
                hints += "List values that stand for missing ones in 'null_values'. "
            raise UserError(
                f"{told}\n{rows} {is_wrong}. {hints}Correct or remove wrong rows, or set 'on_bad_rows: drop' "
                "in the column map, which leaves them out and counts them."
            )
        if self.count > _LARGEST_SHARE * self.rows:
            raise UserError(
                f"{told}\n{rows} {is_wrong}, too many to drop: correct the files or the column map."
            )
        notices.tell(f"{rows} {is_wrong} and dropped:\n  {told}")


def unchecked(batches: Iterable[Batch], convert: Callable[[Batch], T]) -> Iterator[T]:
    """Yields the converted batches without their wrong rows, which another pass counts."""
    passed = BadRows("", DROP)
    for batch in batches:
        found = passed._convert(dataclasses.replace(batch, missing=Counter()), convert, ())
        if found is not None:
            yield found
