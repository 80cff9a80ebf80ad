"""The list of all commands, in the order of `two-tower --help`."""

from __future__ import annotations

from two_tower.pipeline.commands import (
    clean,
    compile,
    demo,
    export,
    gate,
    history,
    ingest,
    query,
    reindex,
    report,
    rollback,
    run,
    simulate,
    tune,
    validate,
)
from two_tower.pipeline.commands.command import Command

COMMANDS: tuple[Command, ...] = (
    simulate.COMMAND,
    ingest.COMMAND,
    run.COMMAND,
    validate.COMMAND,
    tune.COMMAND,
    report.COMMAND,
    history.COMMAND,
    reindex.COMMAND,
    export.COMMAND,
    gate.COMMAND,
    rollback.COMMAND,
    clean.COMMAND,
    query.COMMAND,
    compile.COMMAND,
    demo.COMMAND,
)
