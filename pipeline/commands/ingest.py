"""`two-tower ingest`: converts a data set's own files to a data directory, or describes one."""

from __future__ import annotations

import argparse
import contextlib
import datetime
import difflib
from typing import Any

from two_tower.base.errors import UserError
from two_tower.ingestion import FORMAT_HELP, FORMATS, notices
from two_tower.pipeline.commands.command import Command
from two_tower.pipeline.commands.messages import tell_progress

# The one format whose columns the user names.
_TABLE = "table"


def _add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.epilog = _formats()
    parser.usage = (
        "two-tower ingest FORMAT SRC OUT [--name NAME] [--span N]\n"
        "                                       [--columns FILE]\n"
        "       two-tower ingest --describe DIR"
    )
    parser.add_argument("format", metavar="FORMAT", nargs="?", help="one of those listed below")
    parser.add_argument("source", metavar="SRC", nargs="?", help="directory with the data set's files")
    parser.add_argument(
        "out",
        metavar="OUT",
        nargs="?",
        help="data directory to write, a path or URL (gs://...); an earlier one is replaced, or its span",
    )
    parser.add_argument(
        "--name",
        help="identity of the data set, kept while it grows (default: the format's name, or the "
        "simulation's). Models of different data sets are not compared.",
    )
    parser.add_argument(
        "--span",
        metavar="N",
        help="span of OUT that SRC becomes, beside its other spans. It is a number of days since 1970-01-01 "
        "on the data's own clock, a date (2024-05-31), or auto. auto takes the day of the newest event.",
    )
    parser.add_argument(
        "--columns",
        metavar="FILE",
        help=f"for the format {_TABLE}: YAML file that names the source's columns (default: columns.yaml in "
        "SRC)",
    )
    parser.add_argument(
        "--describe",
        metavar="DIR",
        help="data directory to show: its counts, times, users, items, repeats and columns",
    )


def _formats() -> str:
    width = max(map(len, FORMAT_HELP))
    return "formats:\n" + "\n".join(f"  {name:<{width}}  {text}" for name, text in FORMAT_HELP.items())


def _run(options: argparse.Namespace) -> int:
    positions = {"FORMAT": options.format, "SRC": options.source, "OUT": options.out}
    if options.describe is not None:
        others = {**positions, "--name": options.name, "--span": options.span, "--columns": options.columns}
        if extra := [name for name, value in others.items() if value is not None]:
            raise UserError(
                f"--describe DIR shows a data directory and ingests nothing: leave out {extra[0]}."
            )
        from two_tower.data_directory import description, description_text

        print(description_text.render(description.describe(options.describe, tell_progress)))
        return 0
    if missing := [name for name, value in positions.items() if value is None]:
        raise UserError(f"ingest needs FORMAT SRC OUT, or --describe DIR; {missing[0]} is missing.")

    from two_tower.base import staged_folder, storage
    from two_tower.data_directory import ingest_report

    if options.format not in FORMATS:
        nearest = difflib.get_close_matches(options.format, FORMATS, n=1, cutoff=0)[0]
        known = ", ".join(sorted(FORMATS))
        raise UserError(f"there is no format '{options.format}'; the nearest is '{nearest}' of {known}.")
    given: dict[str, Any] = {"span": span_day(options.span)}
    if options.columns is not None:
        if options.format != _TABLE:
            raise UserError(
                f"--columns is for the format '{_TABLE}'; the columns of '{options.format}' are known."
            )
        given["columns"] = options.columns
    staged_folder.recover(options.source)
    if not storage.exists(options.source):
        raise UserError(f"SRC does not exist: there is no file or directory {options.source}.")
    with notices.collected() as told:
        manifest = FORMATS[options.format](options.source, options.out, options.name, **given)
    print(ingest_report.render(manifest))
    for notice in told:
        print(f"Notice     {notice}")
    needed = "".join(f" --set {setting}" for setting in ingest_report.protocol_settings(manifest))
    print(f"Next: two-tower run --data {options.out} --output DIR{needed}")
    return 0


def span_day(text: str | None) -> int | str | None:
    """Returns --span as a day since 1970-01-01, as "auto", or as None if it was not given.

    Raises:
      UserError: the text is neither a number, a date nor "auto".
    """
    if text is None or text == "auto":
        return text
    with contextlib.suppress(ValueError):
        return int(text)
    with contextlib.suppress(ValueError):
        return (datetime.date.fromisoformat(text) - datetime.date(1970, 1, 1)).days
    raise UserError(
        f"--span {text}: a span is a number of days since 1970-01-01 on the data's own clock. Give that "
        "number, a date such as 2024-05-31, or auto for the day of the newest event."
    )


COMMAND = Command(
    name="ingest",
    summary="convert a data set's own files to a data directory",
    description=(
        "Reads a data set in its own file format and writes a data directory. Its Parquet tables of events, "
        "items and users look the same for every data set. The command counts and prints what it drops or "
        "repairs. With --describe it shows what a data directory holds."
    ),
    add_arguments=_add_arguments,
    run=_run,
)
