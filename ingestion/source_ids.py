"""Ids of a source as the data directory's: whole numbers as they are, or text that is numbered.

What a number stands for is kept in the column `original_id` of items and users, from which a later span's
ingest goes on numbering.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from two_tower.base import storage
from two_tower.base.errors import UserError
from two_tower.data_directory import checked_columns
from two_tower.data_directory.manifest import MANIFEST, Manifest, item_files, user_files
from two_tower.ingestion import source_values
from two_tower.ingestion.mapped_tables import MappedTable, one_kind
from two_tower.ingestion.source_values import Place

# Kinds of columns that are no ids, in words.
_NO_IDS = {
    "": "neither",
    "number": "numbers that are not written as whole ones (as 1.0, which 1 becomes beside a missing value)",
}


class DirectoryBefore:
    """The data directory that a span is added to, if there is one."""

    def __init__(self, out: str) -> None:
        self.out = out
        self.is_there = storage.is_file(storage.join(out, MANIFEST))
        self._columns = Manifest.load(out).columns if self.is_there else {}

    def has(self, table: str, column: str) -> bool:
        return column in self._columns.get(table, {})

    def pairs(self, table: str, column: str, original: str) -> Iterator[tuple[pa.Array, pa.Array]]:
        """Batches of ids and the texts that they stand for; of lists, their values."""
        if self.has(table, column) and self.has(table, original):
            for path in item_files(self.out) if table == "items" else user_files(self.out):
                for _, batch in checked_columns.read_batches(path, [column, original]):
                    ids, texts = batch[column], batch[original]
                    yield (
                        (ids.flatten(), texts.flatten()) if source_values.is_list(ids.type) else (ids, texts)
                    )


class Ids:
    """Ids of one kind of thing: whole numbers as they are, or text, numbered by first appearance.

    Memory grows with the distinct texts.
    """

    def __init__(self, is_text: bool) -> None:
        self.is_text = is_text
        self._number: dict[str, int] = {}
        self._text: dict[int, str] = {}
        self._next = 0

    def continue_with(self, pairs: Iterator[tuple[pa.Array, pa.Array]]) -> None:
        """Takes over what ids stand for in a data directory that is there."""
        for numbers, texts in pairs:
            for number, text in zip(numbers.to_pylist(), texts.to_pylist(), strict=True):
                if text is not None:
                    self._number[text], self._text[number] = number, text
                    self._next = max(self._next, number + 1)

    def of(self, values: pa.Array, place: Place) -> np.ndarray:
        """int64[n].

        Raises:
          UserError: a value is null, or negative or no number where ids are numbers.
        """
        if not self.is_text:
            numbers = source_values.integers(values, place)
            return checked_columns.ids(numbers, place.path, place.column, place.first_row)
        texts = source_values.plain_text(values, place)
        place.refuse_first(pc.is_null(texts), texts, "is no id; drop or repair the row.")
        encoded = texts.dictionary_encode()
        numbers = []
        for text in encoded.dictionary.to_pylist():
            number = self._number.setdefault(text, self._next)
            if number == self._next:
                self._text[number] = text
                self._next += 1
            numbers.append(number)
        return np.array(numbers, np.int64)[encoded.indices.to_numpy()]

    def texts(self, ids: np.ndarray) -> pa.Array:
        """string[n]: what the ids stand for."""
        return pa.array([self._text[number] for number in ids.tolist()], pa.string())


def ids_of(
    column: str, declared: str | None, tables: Mapping[str, MappedTable], before: DirectoryBefore | None
) -> Ids:
    """How the ids of users or items are read.

    Args:
      column: "user_id" or "item_id".
      declared: "integer" or "text", if the column map says it; None to find out from all files that have
        them.

    Raises:
      UserError: files hold ids of different types, or of one that ids cannot have.
    """
    table = "users" if column == "user_id" else "items"
    has_texts = before is not None and before.has(table, "original_id")
    kind = declared
    if kind is None:
        found: list[tuple[str, str | None]] = []
        if before is not None and before.is_there:
            found.append((before.out, "text" if has_texts else "integer"))
        names = {path: column for path, _ in found}
        for source in (source for source in tables.values() if source.has(column)):
            name = source.map.columns[column]
            for path, kind in source.kinds([name])[name]:
                if kind not in ("integer", "text", None):
                    raise UserError(
                        f"{path}: column '{name}' holds {_NO_IDS.get(kind, kind)}, where ids have to be "
                        "whole numbers or text: write them as one of these, or say "
                        f"'{column}_type: text' in the column map if they are text."
                    )
                found.append((path, kind))
                names[path] = name
        remedy = f"bring them to one type, or say '{column}_type: text' in the column map if they are text"
        kind = one_kind(names, found, remedy)
    ids = Ids(kind == "text")
    if ids.is_text and before is not None:
        ids.continue_with(before.pairs(table, column, "original_id"))
    return ids
