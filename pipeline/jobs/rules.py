"""Published rules of the backends, which a compiled job must keep.

Vertex AI Pipelines: its SDK's patterns of names and labels, and "Specify the machine configuration for a
pipeline step" for CPU and memory. Kubeflow Pipelines: what its backend's compiler and launcher accept.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from google.protobuf import json_format
from kfp.pipeline_spec import pipeline_spec_pb2

from two_tower.base.errors import UserError
from two_tower.components.job_folder import KUBEFLOW, VERTEX
from two_tower.pipeline.settings.resources import EVERY, ResourcesConfig, accelerators, amounts

# Vertex: "up to 96 CPUs" and "up to 624 GB" a step. Kubeflow knows no limit; no machine on offer has more.
_MOST = {VERTEX: {"cpu": 96.0, "memory": 624.0}, KUBEFLOW: {"cpu": 1_920.0, "memory": 32_768.0}}
# An extended resource of Kubernetes.
_KUBERNETES_RESOURCE = re.compile(r"[a-z0-9]([-a-z0-9.]*[a-z0-9])?/[A-Za-z0-9]([-\w.]*[A-Za-z0-9])?")
# Machines of Vertex have 1, 2, 4, 8 or 16 accelerators of a kind, and few kinds all of these.
_COUNTS = (1, 2, 4, 8, 16)
# Vertex's pattern of pipeline names, and of labels' keys and values.
_PIPELINE_NAME = re.compile(r"[a-z][-a-z0-9]{0,127}")
_LABEL_KEY, _LABEL_VALUE = re.compile(r"[a-z][-_a-z0-9]{0,62}"), re.compile(r"[-_a-z0-9]{0,63}")
_PARAMETER_NAME = re.compile(r"[a-z][-_a-z0-9]{0,127}")
# Argo runs Kubeflow's tasks and limits their names to a label's characters.
_TASK_NAME = re.compile(r"[A-Za-z0-9][-A-Za-z0-9]{0,62}")
# Kubeflow's workflow, in etcd, holds the spec; etcd takes requests of 1.5 MiB. Vertex takes no larger one.
_MOST_BYTES = 1 << 20
# Linux's limit of a single argument.
_MOST_ARGUMENT_BYTES = 128 * 1024
_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")
_TAG = re.compile(r"\w[\w.-]{0,127}")
# Docker's grammar of a repository: an optional registry, and parts in lower case.
_REPOSITORY = re.compile(
    r"(?:(?:[A-Za-z0-9](?:[-A-Za-z0-9.]*[A-Za-z0-9])?(?::\d+)?)/)?"
    r"[a-z0-9]+(?:(?:\.|_{1,2}|-+)[a-z0-9]+)*(?:/[a-z0-9]+(?:(?:\.|_{1,2}|-+)[a-z0-9]+)*)*"
)
# Tags that by custom move to whatever was built last; 1.0-latest does too.
_MOVING_TAGS = ("latest", "main", "master", "dev", "edge", "nightly", "stable")
_PARAMETER_TYPES: dict[str, Any] = {"STRING": str, "NUMBER_INTEGER": int, "NUMBER_DOUBLE": (int, float)}


def check_image(image: str) -> None:
    """Raises UserError for an image without a digest or a fixed tag, which may change under a job."""
    remedy = (
        "Name it with a digest (IMAGE@sha256:...) or with a tag that is never moved, such as a commit's. "
        "Otherwise steps of one run may come from different builds, and the cache does not see a new one."
    )
    repository, _, digest = image.partition("@")
    tag = ""
    if not digest and ":" in repository.rpartition("/")[2]:
        repository, _, tag = repository.rpartition(":")
    if not _REPOSITORY.fullmatch(repository) or ("@" in image and not _DIGEST.fullmatch(digest)):
        raise UserError(f"--image {image!r} is no name of an image. {remedy}")
    if digest:
        return
    if not tag:
        raise UserError(f"--image {image} has no tag, so it is {repository}:latest. {remedy}")
    if not _TAG.fullmatch(tag):
        raise UserError(f"--image {image}: {tag!r} is no tag. {remedy}")
    if tag.lower().rpartition("-")[2] in _MOVING_TAGS:
        raise UserError(f"--image {image}: the tag {tag} moves with every build. {remedy}")


def resources(config: ResourcesConfig, steps: Iterable[str], target: str) -> dict[str, dict[str, Any]]:
    """Returns the container resources of each step that has any.

    Args:
      config: the settings.
      steps: the names of all steps.
      target: the backend.

    Raises:
      UserError: there is no such step, or no machine of the backend has so much.
    """
    names = sorted(name for name in steps if name != "tfx-dag")
    needed: dict[str, dict[str, Any]] = {}
    for setting, field in (("cpu", "cpu"), ("memory", "memory")):
        most = _MOST[target][setting]
        for step, number in _by_step(setting, amounts(config, setting), names):
            if number > most:
                unit = "CPUs" if setting == "cpu" else "GB"
                raise UserError(
                    f"resources.{setting} asks for {number:g} {unit} for {step}, and {target} has machines "
                    f"with {most:g} at most. Ask for less."
                )
            needed.setdefault(step, {})[f"{field}Limit"] = number
            # Kubernetes would place a step without a request on any machine.
            needed[step][f"{field}Request"] = number
    for step, (kind, count) in _by_step("accelerator", accelerators(config), names):
        _check_accelerator(step, kind, count, target)
        needed.setdefault(step, {})["accelerator"] = {"type": kind, "count": str(count)}
    return needed


def _by_step(setting: str, given: Mapping[str, Any], names: list[str]) -> Iterator[tuple[str, Any]]:
    for step in given:
        if step != EVERY and step not in names:
            nearest = difflib.get_close_matches(step, names, n=1, cutoff=0)[0]
            raise UserError(f"resources.{setting}: the job has no step {step}; the nearest is {nearest}.")
    for name in names:
        if name in given or EVERY in given:
            yield name, given.get(name, given.get(EVERY))


def _check_accelerator(step: str, kind: str, count: int, target: str) -> None:
    if target == VERTEX:
        from google.cloud.aiplatform_v1.types import AcceleratorType

        known = [one.name for one in list(AcceleratorType) if one.value]
        if kind not in known:
            nearest = difflib.get_close_matches(kind, known, n=1, cutoff=0)[0]
            raise UserError(
                f"resources.accelerator: {target} has no accelerator {kind} ({step}); the nearest is "
                f"{nearest}."
            )
    elif not _KUBERNETES_RESOURCE.fullmatch(kind):
        raise UserError(
            f"resources.accelerator: {kind} ({step}) is no resource of Kubernetes, as nvidia.com/gpu is. "
            "Take the name that the cluster's machines offer."
        )
    if count not in _COUNTS:
        raise UserError(
            f"resources.accelerator asks for {count} {kind} for {step}, and machines have 1, 2, 4, 8 or 16. "
            "Ask for one of these."
        )


def check(content: Mapping[str, Any], text: str, target: str) -> None:
    """Raises UserError if a job breaks a rule of its backend; the message lists all broken rules.

    Args:
      content: the job, see `compilation.Compiled`.
      text: the file's text.
      target: the backend.
    """
    if broken := list(_broken(content, text, target)):
        raise UserError(f"{target} would not take this job. {' '.join(broken)}")


def _broken(content: Mapping[str, Any], text: str, target: str) -> Iterator[str]:
    spec = content["pipelineSpec"] if target == VERTEX else content
    message = pipeline_spec_pb2.PipelineJob() if target == VERTEX else pipeline_spec_pb2.PipelineSpec()
    try:
        # Strict: an unknown field name is an error.
        json_format.ParseDict(dict(content), message)
        json_format.ParseDict(dict(spec), pipeline_spec_pb2.PipelineSpec())
        json_format.ParseDict(dict(spec["deploymentSpec"]), pipeline_spec_pb2.PipelineDeploymentConfig())
    except json_format.ParseError as error:
        yield f"It has a field that the schema lacks ({error})."
    if spec["schemaVersion"] != "2.1.0":
        yield f"Its schema is {spec['schemaVersion']}, and 2.1.0 is needed."
    if len(text.encode()) > _MOST_BYTES:
        yield f"It has {len(text.encode()):,} bytes, and {_MOST_BYTES:,} are allowed."
    if not _PIPELINE_NAME.fullmatch(spec["pipelineInfo"]["name"]):
        yield f"The pipeline's name {spec['pipelineInfo']['name']} has other characters than a-z, 0-9 and -."
    for key, value in content.get("labels", {}).items() if target == VERTEX else ():
        if not _LABEL_KEY.fullmatch(key) or not _LABEL_VALUE.fullmatch(value):
            yield f"The label {key}={value} has characters that a label does not take."
    yield from _broken_parameters(spec)
    executors = spec["deploymentSpec"]["executors"]
    for label, executor in executors.items():
        if "container" not in executor:
            yield f"{label} is a {', '.join(executor)}; only containers run on both backends."
            continue
        for argument in executor["container"].get("args", ()):
            if len(argument.encode()) > _MOST_ARGUMENT_BYTES:
                yield f"An argument of {label} has more than {_MOST_ARGUMENT_BYTES:,} bytes."
    for dag in _dags(spec):
        yield from _broken_tasks(spec, dag, executors)


def _broken_parameters(spec: Mapping[str, Any]) -> Iterator[str]:
    for name, one in spec["root"].get("inputDefinitions", {}).get("parameters", {}).items():
        kind = one.get("parameterType")
        if not _PARAMETER_NAME.fullmatch(name):
            yield f"The parameter's name {name} has other characters than a-z, 0-9, - and _."
        if kind not in _PARAMETER_TYPES:
            yield f"The parameter {name} has the type {kind}."
        elif "defaultValue" in one and not isinstance(one["defaultValue"], _PARAMETER_TYPES[kind]):
            yield f"The default of the parameter {name} is {one['defaultValue']!r}, which is no {kind}."


def _dags(spec: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    for component in (spec["root"], *spec["components"].values()):
        if "dag" in component:
            yield component


def _broken_tasks(
    spec: Mapping[str, Any], component: Mapping[str, Any], executors: Mapping[str, Any]
) -> Iterator[str]:
    tasks = component["dag"]["tasks"]
    given = component.get("inputDefinitions", {}).get("parameters", {})
    for name, task in tasks.items():
        if not _TASK_NAME.fullmatch(name):
            yield f"The step's name {name} has other characters than letters, digits and -."
        made = spec["components"].get(task["componentRef"]["name"])
        if made is None:
            yield f"The step {name} has no component."
            continue
        if "executorLabel" in made and made["executorLabel"] not in executors:
            yield f"The step {name} has no executor."
        for other in task.get("dependentTasks", ()):
            if other not in tasks:
                yield f"The step {name} waits for {other}, which is no step beside it."
        declared = made.get("inputDefinitions", {}).get("parameters", {})
        values = task.get("inputs", {}).get("parameters", {})
        for parameter in declared.keys() - values.keys():
            if "defaultValue" not in declared[parameter] and not declared[parameter].get("isOptional"):
                yield f"The step {name} is not given its parameter {parameter}."
        for parameter, value in values.items():
            yield from _broken_value(spec, name, parameter, value, declared, given, tasks)
        for key, value in task.get("inputs", {}).get("artifacts", {}).items():
            producer = value["taskOutputArtifact"]
            outputs = _outputs(spec, tasks, producer["producerTask"], "artifacts")
            if producer["outputArtifactKey"] not in outputs:
                yield f"The input {key} of {name} comes from {producer['producerTask']}, which has none."


def _broken_value(
    spec: Mapping[str, Any],
    name: str,
    parameter: str,
    value: Mapping[str, Any],
    declared: Mapping[str, Any],
    given: Mapping[str, Any],
    tasks: Mapping[str, Any],
) -> Iterator[str]:
    """Yields what is wrong with where a step's parameter comes from, or with its type."""
    if parameter not in declared:
        yield f"The step {name} is given {parameter}, which it does not declare."
        return
    kind = declared[parameter]["parameterType"]
    if "componentInputParameter" in value:
        source = given.get(value["componentInputParameter"])
        if source is None:
            yield f"The parameter {parameter} of {name} is not handed down to its DAG."
        elif source["parameterType"] != kind:
            yield f"The parameter {parameter} of {name} is {kind}, and is given {source['parameterType']}."
    elif "taskOutputParameter" in value:
        producer = value["taskOutputParameter"]
        outputs = _outputs(spec, tasks, producer["producerTask"], "parameters")
        source = outputs.get(producer["outputParameterKey"])
        if source is None:
            yield f"The parameter {parameter} of {name} is no output of {producer['producerTask']}."
        elif source["parameterType"] != kind:
            yield f"The parameter {parameter} of {name} is {kind}, and is given {source['parameterType']}."
    elif "runtimeValue" in value:
        constant = value["runtimeValue"].get("constant")
        wanted = _PARAMETER_TYPES.get(kind)
        if wanted is not None and not isinstance(constant, wanted) and not _is_whole(constant, kind):
            yield f"The parameter {parameter} of {name} is {kind}, and is given {constant!r}."


def _is_whole(constant: Any, kind: str) -> bool:
    """Tells if a number of JSON, which has no integers, is a whole one where one is wanted."""
    return kind == "NUMBER_INTEGER" and isinstance(constant, float) and constant.is_integer()


def _outputs(spec: Mapping[str, Any], tasks: Mapping[str, Any], task: str, kind: str) -> Mapping[str, Any]:
    if task not in tasks:
        return {}
    component = spec["components"][tasks[task]["componentRef"]["name"]]
    found: Mapping[str, Any] = component.get("outputDefinitions", {}).get(kind, {})
    return found
