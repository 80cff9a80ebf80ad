"""`two-tower query`: asks a model for recommendations."""

from __future__ import annotations

import argparse
import json

from two_tower.base.errors import UserError
from two_tower.pipeline.commands.command import Command


def _add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--model",
        metavar="DIR",
        required=True,
        help="--output of `two-tower run` or a job's root, for its newest model; or a model's directory",
    )
    who = parser.add_mutually_exclusive_group(required=True)
    who.add_argument("--user", metavar="ID", help="user of the data; a new one gets an answer too")
    who.add_argument(
        "--history",
        metavar="ID,ID,...",
        help='item ids instead, oldest first; "" for none. Ids with commas need a JSON list, as in ["a,b"].',
    )
    parser.add_argument(
        "--exclude", metavar="ITEMS", default="", help="items that must not be recommended, as in 4,5"
    )
    parser.add_argument(
        "--allow", metavar="ITEMS", default="", help="the only items that may be recommended (default: all)"
    )
    parser.add_argument(
        "-k", type=int, default=10, metavar="N", help="number of recommendations (default: 10)"
    )
    parser.add_argument("--data", metavar="DIR", help="data directory with users and titles, if it was moved")
    parser.add_argument("--json", action="store_true", help="print it as JSON")


def _run(options: argparse.Namespace) -> int:
    from two_tower.base import staged_folder, storage
    from two_tower.serving.query import recommend, render

    if options.data:
        staged_folder.recover(options.data)
    if options.data and not storage.is_directory(options.data):
        raise UserError(f"--data {options.data}: there is no such directory.")
    history = None if options.history is None else _ids("--history", options.history)
    answer = recommend(
        options.model,
        options.user,
        history,
        options.k,
        options.data,
        exclude=_ids("--exclude", options.exclude),
        allow=_ids("--allow", options.allow),
    )
    print(answer.to_json() if options.json else render(answer).rstrip("\n"))
    return 0


def _ids(option: str, text: str) -> list[str]:
    """Returns ids separated by commas, or of a JSON list."""
    if not text.startswith("["):
        return [part.strip() for part in text.split(",") if part.strip()]
    try:
        return [str(one) for one in json.loads(text)]
    except ValueError as error:
        raise UserError(f"{option} {text!r} is no JSON list of ids ({error}).") from error


COMMAND = Command(
    name="query",
    summary="ask a model for recommendations",
    description=(
        "Asks a published model what a user would like next, and shows the user's last listens beside it."
    ),
    add_arguments=_add_arguments,
    run=_run,
)
