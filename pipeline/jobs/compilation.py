"""The DAG as a job: JSON for Vertex AI Pipelines, YAML for Kubeflow Pipelines, both of schema 2.1.0.

TFX draws the job. What it leaves out or gets wrong is mended here: see `_mend`.
"""

from __future__ import annotations

import dataclasses
import io
import json
import os
from collections.abc import Mapping
from typing import Any

os.environ.setdefault("TF_USE_LEGACY_KERAS", "1")

import yaml
from tfx.orchestration.data_types import RuntimeParameter
from tfx.orchestration.kubeflow.decorators import FinalStatusStr
from tfx.orchestration.kubeflow.v2 import kubeflow_v2_dag_runner

from two_tower.base import storage
from two_tower.base.errors import UserError
from two_tower.base.import_closure import import_digest
from two_tower.components.input_verifier.component import InputVerifier
from two_tower.components.job_folder import KUBEFLOW, VERTEX
from two_tower.components.latest_pointers.component import LatestPointers
from two_tower.components.outcome_reporter.component import OutcomeReporter
from two_tower.components.per_run_settings import (
    PER_RUN,
    parameter_name,
    parameter_type,
    parameter_value,
)
from two_tower.data_directory.feature_columns import ResolvedFeatures, resolve
from two_tower.data_directory.manifest import Manifest
from two_tower.pipeline import beam_options
from two_tower.pipeline.create_pipeline import (
    PIPELINE_NAME,
    RunInputs,
    create_pipeline,
    executor_digest,
)
from two_tower.pipeline.jobs import rules
from two_tower.pipeline.settings.pipeline_config import PipelineConfig, settings
from two_tower.trainer.settings import AGGREGATES

# Runtime parameters beside those of settings.
DATA, ROOT = "data", "root"
# Steps that no backend may cache: each run has to look at its data and its outcome.
NEVER_CACHED = ("InputVerifier", "OutcomeReporter")
# Both backends put the run's id here. A submission may turn the cache on for all steps alike; so it misses.
_JOB_ID = "{{$.pipeline_job_uuid}}"
_SUFFIXES = {VERTEX: (".json",), KUBEFLOW: (".yaml", ".yml")}
# Name that TFX gives the DAG of all steps but the exit handler.
_STEPS = "tfx-dag"


@dataclasses.dataclass(frozen=True)
class Compiled:
    """A job file.

    Attributes:
        content: the job, as JSON holds it: a PipelineJob for Vertex, a PipelineSpec for Kubeflow.
        text: the file's text.
        required: runtime parameters without a default, which the submission must give.
    """

    content: dict[str, Any]
    text: str
    required: tuple[str, ...]


def write_job(
    output_file: str,
    image: str,
    config: PipelineConfig,
    target: str,
    data: str | None = None,
    root: str | None = None,
    manifest: Manifest | None = None,
) -> Compiled:
    """Writes the job of `compile_job` to a file, which stays as it was if the job is refused.

    Raises:
      UserError: the file's name has another suffix than the target takes, its folder does not exist, or as
        `compile_job` does.
    """
    folder = os.path.dirname(os.path.abspath(output_file))
    if not output_file.endswith(_SUFFIXES[target]):
        form = {VERTEX: "JSON", KUBEFLOW: "YAML"}[target]
        raise UserError(
            f"{output_file}: a job for {target} is {form}. Give the file a name that ends in "
            f"{_SUFFIXES[target][0]}."
        )
    if not os.path.isdir(folder):
        raise UserError(f"{output_file}: the folder {folder} does not exist. Create it first.")
    job = compile_job(image, config, target, data, root, manifest)
    storage.write_whole(output_file, job.text)
    return job


def compile_job(
    image: str,
    config: PipelineConfig,
    target: str,
    data: str | None = None,
    root: str | None = None,
    manifest: Manifest | None = None,
) -> Compiled:
    """Returns the job of all steps.

    Args:
      image: container image of the steps, the Dockerfile's `train`, with a digest or a fixed tag.
      config: settings of the job. Those of PER_RUN are the defaults of runtime parameters, unless they are
        automatic.
      target: VERTEX or KUBEFLOW.
      data: the data directory as the steps see it, the default of the parameter `data`. None: the submission
        must give it.
      root: directory of artifacts, pointers and `pushed/`, the default of the parameter `root`. None: the
        submission must give it, and the same as pipeline root.
      manifest: the data's manifest; None if this machine cannot read it, and features must then include
        their kinds.

    Raises:
      UserError: the image may change under the job; the steps cannot write the root, or find the data; a
        feature's kind is missing or does not suit its column; Beam does not know an option; Dataflow's
        workers do not see data or root; the job breaks a rule of the backend.
    """
    rules.check_image(image)
    _check_places(data, root)
    beam_options.check(config.beam_args, [place for place in (data, root) if place], is_compiled=True)
    config = dataclasses.replace(config, beam_args=tuple(beam_options.completed(config.beam_args, image)))
    resolved = resolve(config.features, manifest, AGGREGATES in config.trainer.parts)
    runner = kubeflow_v2_dag_runner.KubeflowV2DagRunner(
        config=kubeflow_v2_dag_runner.KubeflowV2DagRunnerConfig(
            display_name=PIPELINE_NAME,
            default_image=image,
            default_commands=["python", "-m", "two_tower.pipeline.jobs.step", f"--target={target}"],
            use_pipeline_spec_2_1=True,
        )
    )
    runner.set_exit_handler(OutcomeReporter(target=target, final_status=FinalStatusStr()))
    pipeline = create_pipeline(_inputs(config, resolved), root or "", config, resolved)
    job = runner.run(pipeline, write_out=False)
    defaults = {DATA: data, ROOT: root, **_defaults(config)}
    _mend(job, defaults, rules.resources(config.resources, job["pipelineSpec"]["components"], target))
    if target == KUBEFLOW:
        content = job["pipelineSpec"]
        if root:
            content["defaultPipelineRoot"] = root
        text = _yaml(content)
    else:
        content, text = job, json.dumps(job, sort_keys=True)
    rules.check(content, text, target)
    return Compiled(content, text, tuple(name for name, value in defaults.items() if value is None))


def _check_places(data: str | None, root: str | None) -> None:
    """Raises UserError for places that the steps cannot find or write.

    TFX writes by TensorFlow's file systems, of which gs:// alone is no disk of the container's own.
    """
    if root is not None and not root.startswith("gs://"):
        raise UserError(f"--root {root}: the steps write to a bucket. Give a gs://... URL.")
    if data is not None and storage.is_local(data) and not os.path.isabs(data.removeprefix("file://")):
        raise UserError(
            f"--data {data}: the steps run elsewhere, and a relative path leads nowhere there. Give a "
            "gs://... URL, or the absolute path of a folder that the steps have."
        )


def _inputs(config: PipelineConfig, resolved: ResolvedFeatures) -> RunInputs:
    """Returns the job's first steps, and what they hand on."""
    data, root = RuntimeParameter(name=DATA, ptype=str), RuntimeParameter(name=ROOT, ptype=str)
    submitted = {
        parameter_name(name): RuntimeParameter(name=parameter_name(name), ptype=parameter_type(name))
        for name in _per_run(config)
    }
    values = config.to_dict()
    # They decide where a result is computed, not what it is.
    for section in ("beam_args", "resources"):
        del values[section]
    verifier = InputVerifier(
        data,
        root,
        json.dumps(values, sort_keys=True),
        resolved.to_json(),
        _code_digest(),
        _JOB_ID,
        submitted,
    )
    found = {key: channel.future()[0].value for key, channel in verifier.outputs.items()}
    latest = LatestPointers(
        root=root,
        run=found["run"],
        pointers_of_others=found["pointers_of_others"],
        source_digest=executor_digest(LatestPointers),
    )
    return RunInputs(
        data,
        root,
        found["data_digest"],
        latest.outputs["latest_blessed"].future()[0].value,
        latest.outputs["latest_approved"].future()[0].value,
        found["run"],
        submitted,
        (verifier, latest),
    )


def _code_digest() -> str:
    """Returns the digest of what all components import."""
    return import_digest("two_tower.pipeline.create_pipeline")


def _defaults(config: PipelineConfig) -> dict[str, int | float | str]:
    values = settings(config)
    return {parameter_name(name): parameter_value(name, values[name]) for name in _per_run(config)}


def _per_run(config: PipelineConfig) -> list[str]:
    """Returns the settings that become runtime parameters: a default would overrule an automatic one."""
    return [name for name in PER_RUN if name not in config.automatic]


def _mend(
    job: dict[str, Any], defaults: Mapping[str, Any], resources: Mapping[str, Mapping[str, Any]]
) -> None:
    """Completes the job that TFX 1.16 draws.

    TFX appends "_task" to the producer of an output parameter, and no task has such a name. It moves all
    steps into a DAG below the exit handler, and does not hand the job's parameters down to it. It knows no
    defaults of runtime parameters. It caches all steps or none. It takes for texts the final status, and
    numbers that a step hands on.
    """
    spec = job["pipelineSpec"]
    parameters = spec["root"]["inputDefinitions"]["parameters"]
    for name, default in defaults.items():
        if default is not None:
            parameters[name]["defaultValue"] = default
    spec["components"][_STEPS]["inputDefinitions"] = {
        "parameters": {name: {"parameterType": one["parameterType"]} for name, one in parameters.items()}
    }
    spec["root"]["dag"]["tasks"][_STEPS]["inputs"] = {
        "parameters": {name: {"componentInputParameter": name} for name in parameters}
    }
    steps = spec["components"][_STEPS]["dag"]["tasks"]
    for name, task in {**spec["root"]["dag"]["tasks"], **steps}.items():
        for given in task.get("inputs", {}).get("parameters", {}).values():
            if output := given.get("taskOutputParameter"):
                output["producerTask"] = output["producerTask"].removesuffix("_task")
        _type_numbers(spec, name, task)
        if name in NEVER_CACHED:
            task["cachingOptions"] = {}
    handler = spec["components"]["OutcomeReporter"]["inputDefinitions"]
    handler["parameters"]["final_status"] = {"parameterType": "TASK_FINAL_STATUS", "isOptional": True}
    _tell_inputs(spec, "OutcomeReporter")
    for name, needed in resources.items():
        spec["deploymentSpec"]["executors"][f"{name}_executor"]["container"]["resources"] = dict(needed)


def _type_numbers(spec: dict[str, Any], name: str, task: Mapping[str, Any]) -> None:
    """Gives a step's parameters the types of the outputs that they take; TFX takes all of them for texts."""
    changed = False
    for parameter, given in task.get("inputs", {}).get("parameters", {}).items():
        if output := given.get("taskOutputParameter"):
            producer = spec["components"][output["producerTask"]]["outputDefinitions"]["parameters"]
            kind = producer[output["outputParameterKey"]]["parameterType"]
            declared = spec["components"][name]["inputDefinitions"]["parameters"][parameter]
            changed |= declared["parameterType"] != kind
            declared["parameterType"] = kind
    if changed:
        _tell_inputs(spec, name)


def _tell_inputs(spec: dict[str, Any], name: str) -> None:
    """Writes a step's inputs into its container's arguments, by which TFX reads the parameters."""
    arguments = spec["deploymentSpec"]["executors"][f"{name}_executor"]["container"]["args"]
    inputs = spec["components"][name]["inputDefinitions"]
    arguments[arguments.index("--json_serialized_inputs_spec_args") + 1] = json.dumps(inputs, sort_keys=True)


def _yaml(spec: Mapping[str, Any]) -> str:
    written = io.StringIO()
    yaml.safe_dump(dict(spec), written, sort_keys=True, width=110)
    return written.getvalue()
