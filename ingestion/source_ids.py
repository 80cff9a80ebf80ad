"""Encoding of source ids: whole numbers stay as they are, text ids become the numbers of `schema.text_ids`.

The column `original_id` of items and users keeps the text of each number.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from two_tower.base import storage
from two_tower.base.errors import UserError
from two_tower.data_directory import checked_columns
from two_tower.data_directory.manifest import MANIFEST, Manifest, item_files, user_files
from two_tower.ingestion import notices, source_values
from two_tower.ingestion.mapped_tables import MappedTable, require_one_kind
from two_tower.ingestion.source_values import Place
from two_tower.schema import text_ids

# Ids whose spellings are compared.
_COMPARED = 1_000_000
# Kinds of columns that cannot be ids, in words.
_NO_IDS = {
    "": "another type",
    "number": "numbers with decimal points or exponents or signs (some tools write 1 as 1.0 if a value is "
    "missing)",
}


class PreviousDirectory:
    """Existing data directory to which a span is added, if there is one."""

    def __init__(self, out: str) -> None:
        self.out = out
        self.exists = storage.is_file(storage.join(out, MANIFEST))
        self._columns = Manifest.load(out).columns if self.exists else {}

    def has(self, table: str, column: str) -> bool:
        return column in self._columns.get(table, {})

    def texts(self, table: str, column: str) -> Iterator[tuple[list[str], Place]]:
        """Yields batches of a column's texts; list columns are flattened."""
        if self.has(table, column):
            for path in item_files(self.out) if table == "items" else user_files(self.out):
                for row, batch in checked_columns.read_batches(path, [column]):
                    texts = batch[column]
                    texts = texts.flatten() if source_values.is_list(texts.type) else texts
                    yield texts.drop_null().to_pylist(), Place(path, column, row)


class IdEncoder:
    """Encoder of ids: whole numbers stay as they are, texts become their numbers.

    Memory grows with the number of distinct texts.
    """

    def __init__(self, is_text: bool) -> None:
        self.is_text = is_text
        self._text: dict[int, str] = {}
        # Numbers known already: a look-up is twice as fast as a hash.
        self._number: dict[str, int] = {}

    def add(self, texts: list[str], place: Place) -> None:
        """Adds texts that an existing data directory has, or a file.

        Raises:
          UserError: two texts have one number.
        """
        new = [text for text in dict.fromkeys(texts) if text not in self._number]
        for text, number in zip(new, text_ids.numbers_of(new).tolist(), strict=True):
            if (other := self._text.setdefault(number, text)) != text:
                raise UserError(
                    f"{place.path}: column '{place.column}': the ids {other!r} and {text!r} have the same "
                    f"number, {number}. Rename one of them, as by a letter before all ids."
                )
            self._number[text] = number

    def encode(self, values: pa.Array, place: Place) -> np.ndarray:
        """Encodes ids as int64[n].

        Raises:
          UserError: a value is null, negative, or not a number if ids are numbers.
        """
        if not self.is_text:
            numbers = source_values.integers(values, place)
            return checked_columns.ids(numbers, place.path, place.column, place.first_row)
        source_values.refuse_rounded(values, place)
        texts = source_values.plain_text(values, place)
        lacking = pc.or_kleene(pc.is_null(texts), pc.equal(texts, ""))
        place.refuse_first(lacking, texts, "is no id; drop or repair the row.")
        encoded = texts.dictionary_encode()
        distinct = encoded.dictionary.to_pylist()
        self.add(distinct, place)
        numbers = np.fromiter(map(self._number.__getitem__, distinct), np.int64, len(distinct))
        return numbers[encoded.indices.to_numpy()]

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
    has_texts = previous is not None and previous.has(table, text_ids.ORIGINAL_ID)
    kind = "text" if declared is None and has_texts else declared
    if kind is None:
        found: list[tuple[str, str | None]] = []
        if previous is not None and previous.exists:
            found.append((previous.out, "integer"))
        names = {path: column for path, _ in found}
        for source in (source for source in tables.values() if source.has(column)):
            name = source.map.columns[column]
            for path, kind in source.kinds([name])[name]:
                if kind not in ("integer", "text", None):
                    remedy = f"Convert them, or set '{column}_type: text' in the column map if they are text."
                    if kind == "" or kind.startswith(("list", "vector")):
                        remedy = "Name another column, or convert this one."
                    raise UserError(
                        f"{path}: column '{name}' holds {_NO_IDS.get(kind, kind)}, but ids must be whole "
                        f"numbers or text. {remedy}"
                    )
                found.append((path, kind))
                names[path] = name
        remedy = (
            f"convert them to one type, or set '{column}_type: text' in the column map if they are text, by "
            "which '007' and '7' are two ids"
        )
        if previous is not None and previous.exists:
            remedy = (
                f"convert them to integers, or ingest all spans into another place with '{column}_type: text'"
            )
        kind = require_one_kind(names, found, remedy)
    ids = IdEncoder(kind == "text")
    if ids.is_text and previous is not None:
        for texts, place in previous.texts(table, text_ids.ORIGINAL_ID):
            ids.add(texts, place)
    return ids


def tell_other_spellings(table: str, ids: IdEncoder, unlisted: np.ndarray, listed: np.ndarray) -> None:
    """Tells of ids of events that a table lists in another spelling, by which they do not join.

    Spellings differ in capitals, blanks, leading zeros, or a decimal point with zeros.

    Args:
      table: name of the table, for the notice.
      ids: encoder of its ids.
      unlisted, listed: int64, ids of the events without a row in the table, and ids of its rows. At most
        `_COMPARED` of each are compared.
    """
    if not ids.is_text or not len(unlisted) or not len(listed):
        return
    wanted = {_spelt(text): text for text in ids.decode(unlisted[:_COMPARED]).to_pylist()}
    texts = (text for text in ids.decode(listed[:_COMPARED]).to_pylist() if _spelt(text) in wanted)
    first = next(texts, None)
    if first is None:
        return
    count = 1 + sum(1 for _ in texts)
    notices.tell(
        f"The events spell {count:,} of the ids of {table} otherwise, such as {wanted[_spelt(first)]!r} for "
        f"{first!r}. Ids are compared letter by letter, so these do not join: spell them alike."
    )


def _spelt(text: str) -> str:
    return re.sub(r"^0+|\.0*$", "", text.strip().casefold())
