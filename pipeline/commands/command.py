"""The shape that every command has."""

from __future__ import annotations

import argparse
import dataclasses
from collections.abc import Callable


@dataclasses.dataclass(frozen=True)
class Command:
    """A command of `two-tower`.

    A command's module is imported for every `--help`. TFX, pyarrow and the settings are therefore imported
    inside `add_arguments` and `run`.

    Attributes:
      name: the word after `two-tower`.
      summary: its line in `two-tower --help`.
      description: the text above its options in `two-tower NAME --help`, one paragraph.
      add_arguments: adds the options to the command's parser, and may set the parser's usage and epilog.
      run: does the work and returns an exit status (see `exit_status`). It raises UserError for wrong input.
    """

    name: str
    summary: str
    description: str
    add_arguments: Callable[[argparse.ArgumentParser], None]
    run: Callable[[argparse.Namespace], int]
