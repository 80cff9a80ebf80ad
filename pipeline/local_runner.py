"""Local runs of the DAG, for `two-tower run` and for the TFX command line.

`tfx pipeline create --engine=local --pipeline_path=...` and `tfx run create` execute this file without
arguments. TFX stores the path as it is given: an absolute one works from any folder. The environment variable
TWO_TOWER_CONFIG names the YAML file of the settings.
"""

from __future__ import annotations

import contextlib
import datetime
import os
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from two_tower.base import console, foreign_output, pointers, storage
from two_tower.base.errors import UserError, in_words, root_cause
from two_tower.data_directory.feature_columns import resolve
from two_tower.data_directory.manifest import Manifest
from two_tower.data_directory.verification import verify
from two_tower.pipeline.checks.settings_for_data import check_settings, check_verdict, settled_for
from two_tower.pipeline.peak_memory import PeakMemory
from two_tower.pipeline.runs.ownership import owned
from two_tower.pipeline.runs.page import collect_with_page
from two_tower.pipeline.runs.report import log_name, logs_of, newest_log, render
from two_tower.pipeline.runs.stored_runs import (
    ERROR,
    PARTIAL_RUN,
    PEAK_MEMORY,
    pointers_of_earlier_release,
)
from two_tower.pipeline.settings.pipeline_config import PipelineConfig
from two_tower.pipeline.settings.run_file import load, read_run_file, suited_preset
from two_tower.trainer.settings import AGGREGATES

# Nothing above imports Beam, TensorFlow or TFX.
foreign_output.silence()
os.environ.setdefault("TF_USE_LEGACY_KERAS", "1")
# TensorFlow's libraries write to the terminal while they load.
with console.hushed():
    from ml_metadata.proto import metadata_store_pb2
    from tfx.orchestration import metadata
    from tfx.orchestration import pipeline as tfx_pipeline
    from tfx.orchestration.local import local_dag_runner, runner_utils
    from tfx.orchestration.portable import launcher, runtime_parameter_utils
    from tfx.proto.orchestration import pipeline_pb2

    from two_tower.pipeline import beam_options
    from two_tower.pipeline.create_pipeline import (
        AUTO_SETTINGS,
        DESCRIPTIONS,
        PIPELINE_NAME,
        REINDEXING,
        RunInputs,
        create_pipeline,
    )

CONFIG_VARIABLE = "TWO_TOWER_CONFIG"


class ComponentFailed(Exception):
    """Failure of a component, which stops the run; `component` is its id, and the cause is chained."""

    def __init__(self, component: str, cause: BaseException) -> None:
        super().__init__(f"{component} failed: {in_words(cause)}")
        self.component = component


class LocalRunner(local_dag_runner.LocalDagRunner):
    """LocalDagRunner of TFX that shows the current component and can run a part of the DAG."""

    def __init__(
        self,
        progress: console.Progress,
        until: tuple[str, ...],
        name: str,
        told: Mapping[str, Sequence[str]],
    ) -> None:
        """Limits the run to the components `until` and their upstream nodes; empty: all.

        Args:
          progress: display of the components.
          until: last components to run.
          name: name of the run.
          told: lines to show after a component, by its id.
        """
        super().__init__()
        self._told = told
        self._name = name
        self._progress = progress
        self._until = until
        self.launched = False

    def run_with_ir(
        self, pipeline: pipeline_pb2.Pipeline, run_options: pipeline_pb2.RunOptions | None = None
    ) -> None:
        """Launches the nodes in topological order. Raises ComponentFailed, or a component's UserError."""
        self.launched = True
        run = (PARTIAL_RUN if self._until else "") + self._name
        runtime_parameter_utils.substitute_runtime_parameter(pipeline, {"pipeline-run-id": run})
        deployment = runner_utils.extract_local_deployment_config(pipeline)
        connection = deployment.metadata_connection_config
        store = metadata.Metadata(getattr(connection, connection.WhichOneof("connection_config")))
        for node in _needed_for(pipeline, self._until):
            name = node.pipeline_node.node_info.id
            self._progress.start(name, {**DESCRIPTIONS, **REINDEXING}[name])
            began = time.monotonic()
            try:
                with PeakMemory() as memory, _cached_by_values():
                    execution = launcher.Launcher(
                        pipeline_node=node.pipeline_node,
                        mlmd_connection=store,
                        pipeline_info=pipeline.pipeline_info,
                        pipeline_runtime_spec=pipeline.runtime_spec,
                        executor_spec=runner_utils.extract_executor_spec(deployment, name),
                        custom_driver_spec=runner_utils.extract_custom_driver_spec(deployment, name),
                    ).launch()
            except Exception as error:
                self._progress.fail(name, error)
                root = root_cause(error)
                # A full disk takes no record; the cause must be told all the same.
                with contextlib.suppress(Exception):
                    _record_error(store, run, name, root)
                if isinstance(root, UserError):
                    raise root from error
                raise ComponentFailed(name, root) from error
            seconds = time.monotonic() - began
            self._progress.finish(name, seconds, _record(store, execution, memory.bytes))
            for line in self._told.get(name, ()):
                self._progress.conclude(f"  {line}", style="dim")


@contextlib.contextmanager
def _cached_by_values() -> Iterator[None]:
    """Limits TFX's cache keys to the values that AutoSettings hands on, without the artifacts that hold them.

    TFX keys on both. The artifacts are new whenever any setting changes; then all nodes would run again.
    """
    of_tfx = launcher.cache_utils.get_cache_context

    def by_values(*given: Any, input_artifacts: Any = None, **named: Any) -> Any:
        # TFX's key of an artifact that is read as a parameter: _<component>.<output>.
        kept = {
            key: artifacts
            for key, artifacts in (input_artifacts or {}).items()
            if not key.startswith(f"_{AUTO_SETTINGS}.")
        }
        return of_tfx(*given, input_artifacts=kept, **named)

    launcher.cache_utils.get_cache_context = by_values
    try:
        yield
    finally:
        launcher.cache_utils.get_cache_context = of_tfx


def _needed_for(
    pipeline: pipeline_pb2.Pipeline, until: tuple[str, ...]
) -> list[pipeline_pb2.Pipeline.PipelineOrNode]:
    """Returns nodes in topological order: those of `until` with their upstream nodes, or all."""
    if not until:
        return list(pipeline.nodes)
    needed = set(until)
    for node in reversed(pipeline.nodes):
        if node.pipeline_node.node_info.id in needed:
            needed.update(node.pipeline_node.upstream_nodes)
    return [node for node in pipeline.nodes if node.pipeline_node.node_info.id in needed]


def _record(store: metadata.Metadata, execution_info: object, peak_memory: int) -> bool:
    """Records an execution's peak memory in the metadata store; returns True for a cached execution."""
    if execution_info is None:
        return False
    with store as handle:
        (execution,) = handle.store.get_executions_by_id([execution_info.execution_id])  # type: ignore[attr-defined]
        cached = bool(execution.last_known_state == execution.CACHED)
        if not cached:
            execution.custom_properties[PEAK_MEMORY].int_value = peak_memory
            handle.store.put_executions([execution])
    return cached


def _record_error(store: metadata.Metadata, run: str, node: str, error: BaseException) -> None:
    """Records a component's error in the metadata store, for the report."""
    with store as handle:
        contexts = [
            handle.store.get_context_by_type_and_name("pipeline_run", run),
            handle.store.get_context_by_type_and_name("node", f"{PIPELINE_NAME}.{node}"),
        ]
        if None in contexts:
            return  # the component failed before its registration
        of_run, of_node = (
            {one.id: one for one in handle.store.get_executions_by_context(context.id)}
            for context in contexts
        )
        for execution in (of_run[key] for key in of_run.keys() & of_node.keys()):
            execution.custom_properties[ERROR].string_value = in_words(error)
            handle.store.put_executions([execution])


def run_local(data: str, output: str, config: PipelineConfig, until: tuple[str, ...] = ()) -> bool:
    """Runs the pipeline; returns False if nothing was launched, as when `tfx pipeline create` draws it.

    Args:
      data: a data directory, a path or URL.
      output: directory for `metadata.sqlite`, `artifacts/`, `pushed/` and `logs/`. A run continues where an
        earlier one in the same directory stopped.
      config: the settings.
      until: last components to run; empty: all.

    Raises:
      UserError: the data or the settings are wrong.
      ComponentFailed: a component failed.
    """
    data, output = storage.absolute(data), os.path.abspath(output)
    beam_options.check(config.beam_args, places=(data, output))
    manifest = verify(data)
    inputs = inputs_here(data, output, manifest.digest)
    settled, choices = settled_for(data, config, manifest, inputs.latest_blessed)
    check_settings(data, settled, manifest)
    if not until:
        check_verdict(data, settled, manifest)
    resolved = resolve(config.features, manifest, AGGREGATES in config.trainer.parts)
    return launch(
        output,
        lambda connection: create_pipeline(
            inputs,
            os.path.join(output, "artifacts"),
            config,
            resolved,
            connection,
        ),
        until,
        {AUTO_SETTINGS: choices},
    )


def inputs_here(data: str, output: str, data_digest: str) -> RunInputs:
    """Returns what a run on this machine begins from, with the pointers in its output directory.

    An output directory of an earlier release has a metadata store and no pointers. Its store then gives them.
    """
    for name, pointer in pointers_of_earlier_release(output).items():
        pointers.point(output, name, pointer)
    return RunInputs(
        data,
        output,
        data_digest,
        pointers.latest(output, pointers.BLESSED),
        pointers.latest(output, pointers.APPROVED),
    )


def launch(
    output: str,
    draw: Callable[[metadata_store_pb2.ConnectionConfig], tfx_pipeline.Pipeline],
    until: tuple[str, ...] = (),
    told: Mapping[str, Sequence[str]] | None = None,
) -> bool:
    """Runs a DAG in an output directory, with a log there; see `run_local`.

    Args:
      output: absolute path of the output directory, see `run_local`.
      draw: builds the DAG for the metadata store in `output`.
      until: see `run_local`.
      told: lines to show after a component, by its id.
    """
    began = datetime.datetime.now()
    log = Path(output, "logs", log_name(began))
    log.parent.mkdir(parents=True, exist_ok=True)
    with console.quiet(str(log)) as progress:
        store = metadata.sqlite_metadata_connection_config(os.path.join(output, "metadata.sqlite"))
        runner = LocalRunner(progress, until, began.isoformat(), told or {})
        runner.run(draw(store))
    if not runner.launched:
        log.unlink()
    return runner.launched


def main() -> None:
    """Runs the pipeline of TWO_TOWER_CONFIG, for the TFX command line."""
    path = os.environ.get(CONFIG_VARIABLE)
    if not path:
        sys.exit(
            f"Set {CONFIG_VARIABLE} to a YAML file with the keys data and output. The file may also have "
            "preset and any setting, such as trainer: {learning_rate: 0.001}."
        )
    run_file, logs_before = None, set[str]()
    try:
        run_file = read_run_file(path)
        if run_file.data is None or run_file.output is None:
            missing = "data" if run_file.data is None else "output"
            raise UserError(f"{path}: the key {missing} is missing. A run needs data and output: add it.")
        logs_before = logs_of(run_file.output)
        load(None, path)  # checks the settings before the data is read
        manifest = Manifest.load(run_file.data)
        config = load(None, path, fallback=suited_preset(manifest))
        with owned(run_file.output):
            if run_local(run_file.data, run_file.output, config):
                print(f"\n{render(collect_with_page(run_file.output))}", end="")
    except (UserError, ComponentFailed) as error:
        log = newest_log(run_file.output, logs_before) if run_file and run_file.output else None
        sys.exit(f"{error}\nThe log is {log}." if log else str(error))


if __name__ == "__main__":
    main()
