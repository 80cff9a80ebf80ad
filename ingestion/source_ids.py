"""Encoding of source ids: whole numbers stay as they are, text ids are numbered.

The column `original_id` of items and users keeps the text of each number. The ingest of a later span reads it
and continues the numbering.
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
from two_tower.ingestion.mapped_tables import MappedTable, require_one_kind
from two_tower.ingestion.source_values import Place

# Kinds of columns that cannot be ids, in words.
_NO_IDS = {
    "": "another type",
    "number": "numbers with decimal points (some tools write 1 as 1.0 if a value is missing)",
}


class PreviousDirectory:
    """Existing data directory to which a span is added, if there is one."""

    def __init__(self, out: str) -> None:
        self.out = out
        self.exists = storage.is_file(storage.join(out, MANIFEST))
        self._columns = Manifest.load(out).columns if self.exists else {}

    def has(self, table: str, column: str) -> bool:
        return column in self._columns.get(table, {})

    def pairs(self, table: str, column: str, original: str) -> Iterator[tuple[pa.Array, pa.Array]]:
        """Yields batches of numbers and their texts; list columns are flattened."""
        if self.has(table, column) and self.has(table, original):
            for path in item_files(self.out) if table == "items" else user_files(self.out):
                for _, batch in checked_columns.read_batches(path, [column, original]):
                    ids, texts = batch[column], batch[original]
                    yield (
                        (ids.flatten(), texts.flatten()) if source_values.is_list(ids.type) else (ids, texts)
                    )


class IdEncoder:
    """Encoder of ids: whole numbers stay as they are, texts are numbered by first appearance.

    Memory grows with the number of distinct texts.
    """

    def __init__(self, is_text: bool) -> None:
        self.is_text = is_text
        self._number: dict[str, int] = {}
        self._text: dict[int, str] = {}
        self._next = 0

    def continue_with(self, pairs: Iterator[tuple[pa.Array, pa.Array]]) -> None:
        """Adds the numbers and texts of an existing data directory; numbering continues after them."""
        for numbers, texts in pairs:
            for number, text in zip(numbers.to_pylist(), texts.to_pylist(), strict=True):
                if text is not None:
                    self._number[text], self._text[number] = number, text
                    self._next = max(self._next, number + 1)

    def encode(self, values: pa.Array, place: Place) -> np.ndarray:
        """Encodes ids as int64[n].

        Raises:
          UserError: a value is null, negative, or not a number if ids are numbers.
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

    def decode(self, ids: np.ndarray) -> pa.Array:
        """Returns the texts of encoded ids, string[n]."""
        return pa.array([self._text[number] for number in ids.tolist()], pa.string())


def id_encoder(
    column: str, declared: str | None, tables: Mapping[str, MappedTable], previous: PreviousDirectory | None
) -> IdEncoder:
    """Returns the encoder for the ids of users or items.

    Args:
      column: "user_id" or "item_id".
      declared: "integer" or "text" from the column map; None detects the type from all files with the column.

    Raises:
      UserError: files hold ids of different types, or of a type that ids cannot have.
    """
    table = "users" if column == "user_id" else "items"
    has_texts = previous is not None and previous.has(table, "original_id")
    kind = declared
    if kind is None:
        found: list[tuple[str, str | None]] = []
        if previous is not None and previous.exists:
            found.append((previous.out, "text" if has_texts else "integer"))
        names = {path: column for path, _ in found}
        for source in (source for source in tables.values() if source.has(column)):
            name = source.map.columns[column]
            for path, kind in source.kinds([name])[name]:
                if kind not in ("integer", "text", None):
                    raise UserError(
                        f"{path}: column '{name}' holds {_NO_IDS.get(kind, kind)}, but ids must be whole "
                        "numbers or text. Convert them, or set "
                        f"'{column}_type: text' in the column map if they are text."
                    )
                found.append((path, kind))
                names[path] = name
        remedy = f"convert them to one type, or set '{column}_type: text' in the column map if they are text"
        kind = require_one_kind(names, found, remedy)
    ids = IdEncoder(kind == "text")
    if ids.is_text and previous is not None:
        ids.continue_with(previous.pairs(table, column, "original_id"))
    return ids
