"""Check of `beam_args` before a run; Beam itself drops unknown options with a log line."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence
from typing import NoReturn

from apache_beam.options import pipeline_options

from two_tower.base import storage
from two_tower.base.errors import UserError

_DATAFLOW = "DataflowRunner"
_DATAFLOW_NEEDS = ("project", "region", "temp_location")


def check(beam_args: Sequence[str], places: Iterable[str] = (), is_compiled: bool = False) -> None:
    """Raises UserError for an unknown option or runner, or for one that cannot work.

    Args:
      beam_args: options of Beam, `--name=value` each.
      places: directories that workers read and write. Dataflow's workers do not see local ones.
      is_compiled: True for a compiled job, False for a run, which always writes on this machine.
    """
    parser = _Parser(allow_abbrev=False)
    for options in pipeline_options.PipelineOptions.__subclasses__():
        options._add_argparse_args(parser)
    known = sorted(name for action in parser._actions for name in action.option_strings if name[:2] == "--")
    for arg in beam_args:
        if not arg.startswith("--"):
            raise UserError(
                f"beam_args: {arg!r} is no option: write each one as --name=value, as in "
                '--set \'beam_args=["--runner=DataflowRunner", "--experiments=a,b"]\'.'
            )
        name = arg.partition("=")[0]
        if name not in known:
            nearest = difflib.get_close_matches(name, known, n=1, cutoff=0)[0]
            raise UserError(f"beam_args: Beam has no option {name}; the nearest is {nearest}.")
    given = parser.parse_args(list(beam_args))
    runner = _known_runner(given.runner)
    if runner == _DATAFLOW:
        for needed in _DATAFLOW_NEEDS:
            if not getattr(given, needed):
                raise UserError(f"beam_args: {_DATAFLOW} needs --{needed}=...: add it.")
        if storage.is_local(given.temp_location):
            raise UserError(
                f"beam_args: --temp_location={given.temp_location} is on this machine, which Dataflow's "
                "workers do not see. Give a gs://... URL."
            )
        for place in places:
            if storage.is_local(place):
                remedy = (
                    "Give a gs://... URL."
                    if is_compiled
                    else "Compile the pipeline instead (two-tower compile --data gs://... --root gs://...) "
                    "and submit the job."
                )
                raise UserError(f"{place} is on this machine, which Dataflow's workers do not see. {remedy}")


def _known_runner(name: str | None) -> str | None:
    """Returns the runner's name in Beam's spelling; the path of a custom class stays unchanged."""
    if name is None or "." in name:
        return name
    known = pipeline_options.StandardOptions.KNOWN_RUNNER_NAMES
    for runner in known:
        if name.lower() in (runner.lower(), runner.lower().removesuffix("runner")):
            return str(runner)
    nearest = difflib.get_close_matches(name, known, n=1, cutoff=0)[0]
    raise UserError(f"beam_args: Beam has no runner {name}; the nearest is {nearest}.")


class _Parser(pipeline_options._BeamArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise UserError(f"beam_args: {message}.")
