"""Check and completion of `beam_args` before a run.

Beam drops unknown options with a log line, and ignores options of another runner without one.
"""

from __future__ import annotations

import argparse
import difflib
import re
import socket
from collections.abc import Iterable, Sequence
from typing import NoReturn

from apache_beam.options import pipeline_options
from apache_beam.options.pipeline_options_validator import PipelineOptionsValidator
from apache_beam.transforms.environments import Environment

from two_tower.base import storage
from two_tower.base.errors import UserError

_DIRECT, _DATAFLOW, _ANY_SERVER = "DirectRunner", "DataflowRunner", "PortableRunner"
_FLINK, _SPARK, _PRISM = "FlinkRunner", "SparkRunner", "PrismRunner"
_PORTABLE = (_ANY_SERVER, _FLINK, _SPARK, _PRISM)
_RUNNERS = (_DIRECT, _DATAFLOW, *_PORTABLE)
_DATAFLOW_NEEDS = ("project", "region", "temp_location")

# Runners that read a class of options; any runner reads the other classes. A job server gets all options that
# its PortableRunner got, so that one of Flink or Spark reads theirs.
_READERS = {
    pipeline_options.DirectOptions: (_DIRECT,),
    pipeline_options.GoogleCloudOptions: (_DATAFLOW,),
    pipeline_options.WorkerOptions: (_DATAFLOW,),
    pipeline_options.PortableOptions: _PORTABLE,
    pipeline_options.JobServerOptions: (_FLINK, _SPARK, _PRISM),
    pipeline_options.FlinkRunnerOptions: (_FLINK, _ANY_SERVER),
    pipeline_options.SparkRunnerOptions: (_SPARK, _ANY_SERVER),
    pipeline_options.PrismRunnerOptions: (_PRISM,),
}
# Options among Dataflow's that TFX, the workers or reads of a bucket take with any runner.
_OF_ANY_RUNNER = {
    "--project", "--temp_location", "--job_name", "--label", "--labels", "--no_auth",
    "--impersonate_service_account", "--gcp_oauth_scope", "--gcp_oauth_scopes",
    "--enable_bucket_read_metric_counter", "--enable_bucket_write_metric_counter",
    "--sdk_container_image", "--worker_harness_container_image", "--default_sdk_harness_log_level",
    "--sdk_harness_log_level_overrides", "--max_cache_memory_usage_mb",
}  # fmt: skip
# Lists of names. The Python SDK does not split a value, and Dataflow ignores a name with a comma; only the
# experiment pre_optimize has a value with commas.
_REPEATED = ("--experiment", "--experiments", "--dataflow_service_option", "--dataflow_service_options")

_ENVIRONMENT_TYPES = ("DOCKER", "EXTERNAL", "LOOPBACK", "PROCESS")
_OWN_SERVER = "embed"
# Value of --sdk_container_image where no container starts: it stops TFX from packing itself.
_NO_CONTAINER = "none"
# Options with which TFX leaves out its own package (tfx.utils.dependency_utils).
_WITH_PACKAGE = (
    "sdk_container_image", "worker_harness_container_image", "extra_packages", "setup_file",
    "requirements_file",
)  # fmt: skip
# A day. An endpoint that nobody serves is waited for as long, so that `check` connects to it first.
_JOB_SERVER_TIMEOUT = 86_400
_SECONDS_TO_CONNECT = 10


def check(beam_args: Sequence[str], places: Iterable[str] = (), is_compiled: bool = False) -> None:
    """Raises UserError for an unknown option or runner, or for one that cannot work.

    Args:
      beam_args: options of Beam, `--name=value` each.
      places: directories that workers read and write. Dataflow's workers do not see local ones.
      is_compiled: True for a compiled job, False for a run, which always writes on this machine. A run's job
        server must answer now, and a compiled job has an image for workers in containers.
    """
    owners = _owners()
    for arg in beam_args:
        if not arg.startswith("--"):
            raise UserError(
                f"beam_args: {arg!r} is no option: write each one as --name=value, as in "
                '--set \'beam_args=["--runner=DataflowRunner", "--project=p"]\'.'
            )
        name = _name(arg)
        if name not in owners:
            nearest = difflib.get_close_matches(name, owners, n=1, cutoff=0)[0]
            raise UserError(f"beam_args: Beam has no option {name}; the nearest is {nearest}.")
        if name in _REPEATED and "," in arg and not arg.startswith(f"{name}=pre_optimize="):
            each = " and ".join(f"{name}={value}" for value in arg.partition("=")[2].split(","))
            raise UserError(f"beam_args: Beam takes {arg} for one value with a comma. Give {each}.")
    given = _parsed(beam_args)
    runner = _known_runner(given.runner)
    if runner not in _RUNNERS:
        return
    for name in map(_name, beam_args):
        readers = _READERS.get(owners[name], _RUNNERS)
        if runner not in readers and name not in _OF_ANY_RUNNER:
            raise UserError(
                f"beam_args: {name} is an option of {' and '.join(readers)}, and {runner} ignores it. "
                "Remove it, or give another --runner."
            )
    if runner == _DATAFLOW:
        _check_dataflow(given, places, is_compiled)
    elif runner in _PORTABLE:
        _check_environment(beam_args, given, runner, is_compiled)
        _check_job_server(given, runner, is_compiled)


def completed(beam_args: Sequence[str], image: str | None = None) -> list[str]:
    """Returns the options with those that TFX and the runner need besides; an option given is kept.

    Args:
      beam_args: options of Beam that `check` has passed.
      image: container image of a compiled job's steps, which has the code and versions that workers need.
        None: a run on this machine.
    """
    given = _parsed(beam_args)
    runner = _known_runner(given.runner)
    if not beam_args or runner not in _RUNNERS:
        return list(beam_args)
    added = []
    in_containers = runner == _DATAFLOW or (runner in _PORTABLE and _environment(given, runner) == "DOCKER")
    if image and runner in _PORTABLE and in_containers and not _own_image(given):
        # Portable runners start this image. Without it they start Beam's, which has none of our code.
        added.append(f"--environment_config={image}")
    if (
        image
        and runner == _DATAFLOW
        and not (given.sdk_container_image or given.worker_harness_container_image)
    ):
        # Dataflow starts this image, for the same reason.
        added.append(f"--sdk_container_image={image}")
    elif not any(getattr(given, name) for name in _WITH_PACKAGE):
        # With any Beam argument TFX packs its own sources in each component, for about 3 s (CatalogExampleGen
        # on three runners). No worker needs them: it has our code, and so TFX, or fails without our code.
        added.append(f"--sdk_container_image={(in_containers and image) or _NO_CONTAINER}")
    if runner in _PORTABLE and "--job_server_timeout" not in map(_name, beam_args):
        # The client's stream of the job's states ends after this time: by default a component of more than
        # a minute fails, though its job goes on.
        added.append(f"--job_server_timeout={_JOB_SERVER_TIMEOUT}")
    return [*beam_args, *added]


def _owners() -> dict[str, type[pipeline_options.PipelineOptions]]:
    """Returns the class of options by option name."""
    owners = {}
    for options in pipeline_options.PipelineOptions.__subclasses__():
        parser = _Parser(allow_abbrev=False, add_help=False)
        options._add_argparse_args(parser)
        owners.update({_name(name): options for action in parser._actions for name in action.option_strings})
    return dict(sorted(owners.items()))


def _parsed(beam_args: Sequence[str]) -> argparse.Namespace:
    parser = _Parser(allow_abbrev=False, add_help=False)
    for options in pipeline_options.PipelineOptions.__subclasses__():
        options._add_argparse_args(parser)
    return parser.parse_args(list(beam_args))


def _name(arg: str) -> str:
    """Returns the name in `--name=value`; Beam has one option in two spellings, --job-server-timeout."""
    name = arg.partition("=")[0]
    return "--job_server_timeout" if name == "--job-server-timeout" else name


def _known_runner(name: str | None) -> str:
    """Returns the runner's name in Beam's spelling; the path of a custom class stays unchanged."""
    if name is None:
        return _DIRECT
    if "." in name:
        return name
    known = pipeline_options.StandardOptions.KNOWN_RUNNER_NAMES
    for runner in known:
        if name.lower() in (runner.lower(), runner.lower().removesuffix("runner")):
            return str(runner)
    nearest = difflib.get_close_matches(name, known, n=1, cutoff=0)[0]
    raise UserError(f"beam_args: Beam has no runner {name}; the nearest is {nearest}.")


def _check_dataflow(given: argparse.Namespace, places: Iterable[str], is_compiled: bool) -> None:
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


def _environment(given: argparse.Namespace, runner: str) -> str:
    """Returns the type of the workers' environment: the one given, or the runner's default."""
    starts_cluster = {
        _PRISM: True,
        _FLINK: given.flink_master in ("[local]", "[auto]"),
        _SPARK: re.match(r"local(\[.+\])?$", given.spark_master_url),
    }
    return given.environment_type or ("LOOPBACK" if starts_cluster.get(runner) else "DOCKER")


def _own_image(given: argparse.Namespace) -> bool:
    options = given.environment_options or ()
    return bool(given.environment_config) or any(one.startswith("docker_container_image=") for one in options)


def _check_environment(
    beam_args: Sequence[str], given: argparse.Namespace, runner: str, is_compiled: bool
) -> None:
    """Raises UserError for workers that this Beam does not have, or that would lack our code."""
    kind = _environment(given, runner)
    if kind not in (*_ENVIRONMENT_TYPES, *Environment._urn_to_env_cls):
        raise UserError(
            f"beam_args: Beam has no --environment_type={kind}. "
            f"Give one of {', '.join(_ENVIRONMENT_TYPES)}, in capitals."
        )
    if kind == "PROCESS" and given.job_endpoint == _OWN_SERVER:
        raise UserError(
            f"beam_args: --job_endpoint={_OWN_SERVER} is the Python SDK's own job server, which has no "
            "--environment_type=PROCESS. Start workers with scripts/beam_worker_pool.py, and give "
            "--environment_type=EXTERNAL and --environment_config=localhost:50000."
        )
    if kind == "DOCKER" and not is_compiled and not _own_image(given):
        raise UserError(
            f"beam_args: {runner} starts its workers in Beam's image, which lacks this program. Give "
            "--environment_type=DOCKER and --environment_config=IMAGE, with the Dockerfile's image train."
        )
    options = pipeline_options.PipelineOptions(list(beam_args)).view_as(pipeline_options.PortableOptions)
    for error in options.validate(PipelineOptionsValidator(options, None)):
        raise UserError(f"beam_args: {error} Give --environment_config=..., or change --environment_type.")


def _check_job_server(given: argparse.Namespace, runner: str, is_compiled: bool) -> None:
    """Raises UserError for a job server that is missing or does not answer."""
    endpoint = given.job_endpoint
    if not endpoint:
        if runner == _ANY_SERVER:
            raise UserError(
                f"beam_args: {runner} needs --job_endpoint=HOST:PORT: add it, or give --runner={_FLINK} or "
                f"--runner={_SPARK}, which start a job server."
            )
        return
    if endpoint == _OWN_SERVER:
        return
    host, _, port = endpoint.rpartition(":")
    if not host or not port.isdecimal():
        raise UserError(f"beam_args: --job_endpoint={endpoint} is no HOST:PORT. Give one.")
    if is_compiled:
        return  # The steps reach it, and this machine need not.
    try:
        socket.create_connection((host.strip("[]"), int(port)), _SECONDS_TO_CONNECT).close()
    except (OSError, OverflowError) as error:
        raise UserError(
            f"beam_args: no job server answers at --job_endpoint={endpoint} ({error}). Start it, or correct "
            "the option."
        ) from error


class _Parser(pipeline_options._BeamArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise UserError(f"beam_args: {message}.")
