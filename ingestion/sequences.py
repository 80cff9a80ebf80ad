"""Reader of sequences without times, as next-item recommenders publish them: one text file, gzipped or not.

There are two forms. In one, a line is an event, `user item`, and a user's lines are in order (SASRec and its
successors). In the other, a line is a user, `user item item ...` (S3-Rec). No item is recommended twice.
"""

from __future__ import annotations

import gzip
import itertools
import os
import re
import zlib
from collections.abc import Iterator

from two_tower.base import storage, temporary
from two_tower.base.errors import UserError
from two_tower.data_directory.manifest import Manifest
from two_tower.data_directory.writer import Span
from two_tower.ingestion import file_formats, tabular
from two_tower.ingestion.column_map import ColumnMap, TableMap, TextFormat

EVENT_TYPE = "interaction"

_FORM = "`user item` or `user item item ...`, all of them whole numbers of 0 or more"
_LINE = re.compile(r"\d+([ \t,])\d+(\1\d+)*")
# Number of lines that are inspected to detect the form.
_FIRST_LINES = 1_000


def ingest(source: str, out: str, name: str | None = None, span: Span = None) -> Manifest:
    """Writes the data directory `out` from one text file.

    Args:
      name: name of the data set; default: the file's name up to its first dot.

    Raises:
      UserError: the file is missing or cut off, a line has neither form, or a user has two lines of the
        second form.
    """
    if span is not None:
        raise UserError(f"{source}: the events have no times, so no dated span: ingest it without --span.")
    if not storage.is_file(source):
        raise UserError(f"{source}: there is no such file; the format 'sequences' reads a single file.")
    first = list(itertools.islice(_lines(source), _FIRST_LINES))
    if not first:
        raise UserError(f"{source}: the file has no events. A line must be {_FORM}.")
    widths = {len(fields) for _, _, fields in first}
    if len(widths) == 1 and widths != {2}:
        raise UserError(
            f"{source}: each of the first lines has {min(widths)} numbers, as in a table with times or "
            f"ratings. Ingest a table with the format 'table' and a column map. A line here must be {_FORM}."
        )
    name = name or os.path.basename(source).split(".")[0]
    if widths == {2}:
        try:
            return tabular.ingest_mapped(_events(source, first[0][1]), source, out, name)
        except UserError:
            # The reader of tables knows neither lines nor the form, and proposes keys of a column map.
            _check_pairs(source, first[0][1])
            raise
    with temporary.folder() as scratch:
        events = os.path.join(scratch, "events.txt")
        line_of: dict[str, int] = {}
        with storage.writing(scratch, storage.OTHER_SCRATCH), open(events, "w", encoding="ascii") as file:
            for number, _, (user, *items) in _lines(source):
                if line_of.setdefault(user, number) != number:
                    raise UserError(
                        f"{source}:{number}: user {user} has line {line_of[user]} too. Where a line is a "
                        "user, each user has one. Where lines are events, correct those of three numbers."
                    )
                file.writelines(f"{user} {item}\n" for item in items)
        return tabular.ingest_mapped(_events(source, " "), events, out, name)


def _check_pairs(path: str, delimiter: str) -> None:
    """Raises UserError for the first line that is no pair, with the number of such lines."""
    wrong, first = 0, ""
    for number, line_delimiter, fields in _lines(path):
        if len(fields) != 2 or line_delimiter != delimiter:
            wrong += 1
            first = first or f"{path}:{number}: {line_delimiter.join(fields)!r:.80}"
    if wrong:
        raise UserError(
            f"{first} is no `user item` with {delimiter!r} between them, as the first line is. Correct or "
            f"remove such lines, {wrong:,} in all."
        )


def _events(source: str, delimiter: str) -> ColumnMap:
    """Returns the column map of lines `user item`."""
    events = TableMap(
        table="events",
        key="events",
        files=(),
        columns={"user_id": "user", "item_id": "item"},
        constants={},
        units={},
        time_formats={},
        text=TextFormat(delimiter, header=("user", "item")),
        separator=None,
        keep=None,
        play_ratio_whole=1.0,
        order_of_rows=True,
    )
    return ColumnMap(
        source, "sequences", EVENT_TYPE, False, "integer", "integer", (events,), None, None, None
    )


def _lines(path: str) -> Iterator[tuple[int, str, list[str]]]:
    """Yields of each non-blank line its number, its delimiter and its fields.

    Raises:
      UserError: the file is cut off, or a line has neither form.
    """
    try:
        with storage.open_file(path) as file:
            start = file.read(file_formats.FIRST_BYTES)
            file_formats.refuse_others(path, start)
            is_compressed = start.startswith(file_formats.GZIP)
            file.seek(0)
            for number, line in enumerate(gzip.GzipFile(fileobj=file) if is_compressed else file, 1):
                text = line.decode("utf-8", "replace").strip()
                if not text:
                    continue
                form = _LINE.fullmatch(text)
                if form is None:
                    raise UserError(f"{path}:{number}: {text[:200]!r} does not have the form {_FORM}.")
                yield number, form[1], text.split(form[1])
    except (OSError, EOFError, zlib.error) as error:
        raise UserError(f"{path}: cannot be read to its end ({error}). Fetch it again.") from error
