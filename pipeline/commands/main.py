"""The console script `two-tower`.

`--help` answers at once: only the named command's options are built, and commands import what is heavy when
they run.
"""

from __future__ import annotations

import argparse
import io
import os
import sys
import textwrap
from collections.abc import Sequence

from two_tower.base import foreign_output
from two_tower.base.errors import UserError
from two_tower.pipeline.commands import exit_status
from two_tower.pipeline.commands.registry import COMMANDS

_HELP_WIDTH = 79

_OVERVIEW = """\
Trains, checks and serves a recommender from a log of who listened to (or watched, or rated) what, when.

From nothing to recommendations, with simulated listeners:

  two-tower simulate runs/music                            simulates a listening history
  two-tower ingest yambda runs/music runs/data             converts it to this project's own form
  two-tower run --data runs/data --output runs/first       trains, evaluates, and publishes if good enough
  two-tower query --model runs/first --user 17             recommends what user 17 would like next

`two-tower COMMAND --help` explains a command.
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command and returns its exit status: 0, or one of `exit_status`.

    Args:
      arguments: the words after `two-tower`; None takes those of this process.
    """
    # A terminal shows a question mark for what it cannot show.
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")
    foreign_output.silence()
    given = sys.argv[1:] if arguments is None else arguments
    options = _parser(given).parse_args(given)
    try:
        status: int = options.run(options)
        return status
    except UserError as error:
        print(f"two-tower: {error}", file=sys.stderr)
        return exit_status.USER_ERROR
    except KeyboardInterrupt:
        print("two-tower: interrupted. A run that is started again continues here.", file=sys.stderr)
        return exit_status.INTERRUPTED
    except BrokenPipeError:
        # The reader has left, as `head` does; Python would complain at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0


def _parser(arguments: Sequence[str]) -> argparse.ArgumentParser:
    """Returns a parser that knows all commands, and the options of those that the arguments name."""
    parser = argparse.ArgumentParser(
        prog="two-tower", description=_OVERVIEW, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    for command in COMMANDS:
        added = commands.add_parser(
            command.name,
            help=command.summary,
            description=textwrap.fill(command.description, _HELP_WIDTH),
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        added.set_defaults(run=command.run)
        if command.name in arguments:
            command.add_arguments(added)
    return parser


if __name__ == "__main__":
    sys.exit(main())
