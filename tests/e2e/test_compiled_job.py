"""Tests of job files: what they hold, and which the backends' rules refuse. test_walked_job.py runs them."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.e2e.runs import call
from two_tower.base.errors import UserError
from two_tower.pipeline.commands import exit_status
from two_tower.pipeline.jobs import rules

pytestmark = pytest.mark.e2e

IMAGE = "registry/two-tower@sha256:" + "a1" * 32
FILES = {"vertex": "job.json", "kubeflow": "job.yaml"}


def compiled(out: Path, target: str = "vertex", *arguments: str) -> tuple[dict[str, Any], str]:
    """Returns the content of the job file, and what the command printed."""
    file = out / FILES[target]
    status, shown, errors = call(
        ["compile", "--target", target, "--image", IMAGE, "-o", str(file), *arguments]
    )
    assert status == 0, errors
    return dict(yaml.safe_load(file.read_text())), shown


def refused(out: Path, *arguments: str, target: str = "vertex", image: str = IMAGE) -> str:
    """Returns the message of a compilation that writes nothing."""
    file = out / FILES[target]
    status, _, errors = call(["compile", "--target", target, "--image", image, "-o", str(file), *arguments])
    assert status == exit_status.USER_ERROR
    assert not file.exists() and "Traceback" not in errors
    return " ".join(errors.split())


def steps(spec: dict[str, Any]) -> dict[str, Any]:
    return dict(spec["components"]["tfx-dag"]["dag"]["tasks"])


def constants(spec: dict[str, Any], step: str) -> dict[str, Any]:
    """Returns the constant parameters of a step."""
    return {
        name: value["runtimeValue"]["constant"]
        for name, value in steps(spec)[step]["inputs"]["parameters"].items()
        if "runtimeValue" in value
    }


def containers(spec: dict[str, Any]) -> dict[str, dict[str, Any]]:
    executors = spec["deploymentSpec"]["executors"]
    return {name.removesuffix("_executor"): one["container"] for name, one in executors.items()}


@pytest.fixture(scope="module")
def job(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """A job for Vertex AI Pipelines; a test that changes it takes a copy."""
    settings = ["--set", "trainer.epochs=7", "--set", "gate.slices=cold=0.02,repeat=0.1"]
    return compiled(
        tmp_path_factory.mktemp("job"), "vertex", "--preset", "smoke", "--root", "gs://b/root", *settings
    )[0]


def test_both_targets_hold_the_same_steps_and_the_settings(job: dict[str, Any], tmp_path: Path) -> None:
    from two_tower.pipeline.create_pipeline import DESCRIPTIONS

    arguments = ["--preset", "smoke", "--root", "gs://b/root", "--set", "trainer.epochs=7"]
    other, _ = compiled(tmp_path, "kubeflow", *arguments)
    assert other["defaultPipelineRoot"] == job["runtimeConfig"]["gcsOutputDirectory"] == "gs://b/root"
    for spec in (job["pipelineSpec"], other):
        assert set(steps(spec)) == set(DESCRIPTIONS) | {"InputVerifier", "LatestPointers"}
        assert spec["schemaVersion"] == "2.1.0"
        trainer = json.loads(constants(spec, "AutoSettings")["settings"])["trainer"]
        assert (trainer["epochs"], trainer["embedding_dim"]) == (7, 16)
        # No resolver, importer or driver: every step is an ordinary container.
        assert {one["image"] for one in containers(spec).values()} == {IMAGE}
        assert all("lifecycle" not in one for one in containers(spec).values())
        assert spec["root"]["dag"]["tasks"].keys() == {"tfx-dag", "OutcomeReporter"}


def test_what_changes_from_run_to_run_is_a_parameter_with_its_type_and_default(job: dict[str, Any]) -> None:
    parameters = job["pipelineSpec"]["root"]["inputDefinitions"]["parameters"]
    assert parameters["data"] == {"parameterType": "STRING"}
    assert parameters["root"] == {"parameterType": "STRING", "defaultValue": "gs://b/root"}
    assert parameters["windows_spans"] == {"parameterType": "NUMBER_INTEGER", "defaultValue": 0}
    assert parameters["gate_min_ann_recall"] == {"parameterType": "NUMBER_DOUBLE", "defaultValue": 0.95}
    assert parameters["gate_slices"]["defaultValue"] == "cold=0.02,repeat=0.1"
    found = steps(job["pipelineSpec"])
    for step, name, parameter in (
        ("InteractionExampleGen", "data", "data"),
        ("InteractionExampleGen", "windows_spans", "windows_spans"),
        ("DriftValidator", "limit", "validation_max_drift"),
        ("SkewValidator", "limit", "validation_max_skew"),
        ("AnomalyGate", "validation_max_skew", "validation_max_skew"),
        ("ScannIndexer", "target_recall", "gate_min_ann_recall"),
        ("RetrievalEvaluator", "gate_min_recall", "gate_min_recall"),
        ("Pusher", "root", "root"),
    ):
        assert found[step]["inputs"]["parameters"][name] == {"componentInputParameter": parameter}


def test_automatic_thresholds_are_no_parameters_whose_default_would_overrule_them(tmp_path: Path) -> None:
    given = ["--preset", "auto", "--set", "gate.min_slice_change=-0.1"]
    job, _ = compiled(tmp_path, "vertex", *given)
    parameters = job["pipelineSpec"]["root"]["inputDefinitions"]["parameters"]
    assert "gate_min_lift_over_best_baseline" not in parameters
    assert "gate_min_change_against_blessed" not in parameters
    assert parameters["gate_min_slice_change"]["defaultValue"] == -0.1
    assert parameters["gate_min_recall"]["defaultValue"] == 0.01


def test_only_the_first_step_and_the_exit_handler_are_never_cached(job: dict[str, Any]) -> None:
    spec = job["pipelineSpec"]
    uncached = {name for name, task in steps(spec).items() if not task["cachingOptions"].get("enableCache")}
    assert uncached == {"InputVerifier"}
    # A submission may turn the cache on for all steps; this parameter then differs from run to run.
    assert constants(spec, "InputVerifier")["job_id"] == "{{$.pipeline_job_uuid}}"
    # Nothing begins before the first step has ended.
    began = {name for name, task in steps(spec).items() if not task.get("dependentTasks")}
    assert began == {"InputVerifier"}


def test_options_of_beam_reach_the_steps_that_run_on_it(tmp_path: Path) -> None:
    options = [
        "--runner=DataflowRunner", "--project=p", "--region=europe-west4", "--temp_location=gs://b/tmp",
        "--experiments=use_runner_v2",
        "--experiments=shuffle_mode=service", "--sdk_harness_log_level_overrides={\"a\":1,\"b\":2}",
    ]  # fmt: skip
    job, _ = compiled(tmp_path, "vertex", "--set", f"beam_args={','.join(options)}")
    # The workers get the code and the versions of the steps.
    given = {*options, f"--sdk_container_image={IMAGE}"}
    for name in ("InteractionExampleGen", "CatalogExampleGen", "StatisticsGen", "Transform"):
        assert given <= set(containers(job["pipelineSpec"])[name]["args"]), name


def test_what_has_no_default_is_named_when_the_job_is_compiled(tmp_path: Path) -> None:
    assert "It has no default of data and root: give it at submission." in compiled(tmp_path)[1]
    given = ["--data", "memory://bucket/data", "--root", "gs://bucket/root"]
    assert "no default" not in compiled(tmp_path, "vertex", *given)[1]


@pytest.mark.parametrize(
    ("image", "expected"),
    [
        ("registry/two-tower", "has no tag, so it is registry/two-tower:latest"),
        ("registry:5000/two-tower", "has no tag"),
        ("registry/two-tower:latest", "the tag latest moves with every build"),
        ("registry/two-tower:main", "the tag main moves with every build"),
        ("registry/two-tower@sha256:abc", "is no name of an image"),
        ("registry/two tower:1", "is no name of an image"),
        ("registry/two-tower:", "has no tag"),
        ("registry/two-tower:Latest", "the tag Latest moves with every build"),
        ("registry/two-tower:1.0-latest", "the tag 1.0-latest moves with every build"),
        ("registry/Two-Tower:1", "is no name of an image"),
        ("registry//two-tower:1", "is no name of an image"),
        ("https://registry/two-tower:1", "is no name of an image"),
    ],
)
def test_an_image_that_may_change_is_refused(tmp_path: Path, image: str, expected: str) -> None:
    message = refused(tmp_path, image=image)
    assert f"--image {image}" in message.replace("'", "") and expected in message
    assert "Name it with a digest" in message


def test_each_step_asks_for_what_the_settings_say(tmp_path: Path) -> None:
    settings = [
        "--set", "resources.cpu=all=4,Trainer=16", "--set", "resources.memory=Trainer=64",
        "--set", "resources.accelerator=Trainer=NVIDIA_TESLA_T4:2",
    ]  # fmt: skip
    job, _ = compiled(tmp_path, "vertex", *settings)
    found = {name: one.get("resources") for name, one in containers(job["pipelineSpec"]).items()}
    assert found.pop("Trainer") == {
        "cpuLimit": 16, "cpuRequest": 16, "memoryLimit": 64, "memoryRequest": 64,
        "accelerator": {"type": "NVIDIA_TESLA_T4", "count": "2"},
    }  # fmt: skip
    assert all(one == {"cpuLimit": 4, "cpuRequest": 4} for one in found.values())


def test_a_config_file_gives_data_root_and_resources(tmp_path: Path) -> None:
    config = tmp_path / "job.yaml.config"
    config.write_text(
        "data: memory://bucket/data\noutput: gs://bucket/root\nresources:\n  cpu: {all: 4, Trainer: 16}\n"
    )
    job, shown = compiled(tmp_path, "vertex", "--config", str(config))
    parameters = job["pipelineSpec"]["root"]["inputDefinitions"]["parameters"]
    assert parameters["data"]["defaultValue"] == "memory://bucket/data"
    assert parameters["root"]["defaultValue"] == "gs://bucket/root" and "no default" not in shown
    found = {name: one["resources"]["cpuLimit"] for name, one in containers(job["pipelineSpec"]).items()}
    assert (found["Trainer"], found["Pusher"]) == (16, 4)


@pytest.mark.parametrize(
    ("target", "setting", "expected"),
    [
        (
            "vertex",
            "cpu=Trainer=128",
            "asks for 128 CPUs for Trainer, and vertex has machines with 96 at most",
        ),
        ("vertex", "memory=Trainer=1000", "1000 GB for Trainer, and vertex has machines with 624"),
        ("kubeflow", "cpu=Trainer=5000", "kubeflow has machines with"),
        ("vertex", "cpu=Trainr=4", "the job has no step Trainr; the nearest is Trainer"),
        ("vertex", "cpu=Trainer=some", "takes a number above 0 for Trainer, and was given 'some'"),
        ("vertex", "cpu=Trainer=0", "takes a number above 0"),
        ("vertex", "cpu=8", "takes steps with a value each"),
        ("vertex", "memory=Trainer=1,Trainer=2", "names the step Trainer twice"),
        ("vertex", "accelerator=Trainer=NVIDIA_T4:1", "the nearest is NVIDIA_"),
        ("vertex", "accelerator=Trainer=NVIDIA_TESLA_T4", "takes a type and a count for Trainer"),
        ("vertex", "accelerator=Trainer=NVIDIA_TESLA_T4:99", "machines have 1, 2, 4, 8 or 16"),
        ("vertex", "accelerator=Trainer=NVIDIA_TESLA_T4:3", "machines have 1, 2, 4, 8 or 16"),
        (
            "kubeflow",
            "accelerator=Trainer=NVIDIA_TESLA_T4:1",
            "is no resource of Kubernetes, as nvidia.com/gpu is",
        ),
    ],
)
def test_resources_that_no_machine_has_are_refused(
    tmp_path: Path, target: str, setting: str, expected: str
) -> None:
    assert expected in refused(tmp_path, "--set", f"resources.{setting}", target=target)


def test_a_root_that_the_steps_cannot_write_is_refused(tmp_path: Path) -> None:
    for root in ("s3://b/root", "minio://b/root", "runs/mine", str(tmp_path)):
        assert f"--root {root}: the steps write to a bucket" in refused(tmp_path, "--root", root)


def test_data_at_a_relative_path_is_refused(tmp_path: Path) -> None:
    assert "--data data/mine: the steps run elsewhere" in refused(tmp_path, "--data", "data/mine")


def test_a_file_of_the_other_target_is_refused(tmp_path: Path) -> None:
    for target, name in (("vertex", "job.yaml"), ("kubeflow", "job.json")):
        status, _, errors = call(
            ["compile", "--target", target, "--image", IMAGE, "-o", str(tmp_path / name)]
        )
        assert status == exit_status.USER_ERROR and f"a job for {target} is" in errors


def _set(path: str, value: Any) -> Callable[[dict[str, Any]], None]:
    """Returns a change of the content at a path of keys."""

    def change(content: dict[str, Any]) -> None:
        *parents, last = path.split("/")
        for key in parents:
            content = content[key]
        content[last] = value

    return change


TASK = "components/tfx-dag/dag/tasks/Trainer"


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (
            _set("root/dag/tasks/tfx-dag/inputs/parameters/data/componentInputParameter", "dat"),
            "not handed down",
        ),
        (_set("components/tfx-dag/inputDefinitions", {}), "not handed down to its DAG"),
        (
            _set(f"{TASK}/inputs/parameters/seed/runtimeValue/constant", "17"),
            "is NUMBER_INTEGER, and is given '17'",
        ),
        (
            _set(f"{TASK}/inputs/artifacts/examples/taskOutputArtifact/producerTask", "Transfrm"),
            "which has none",
        ),
        (_set(f"{TASK}/dependentTasks", ["Transfrm"]), "waits for Transfrm, which is no step beside it"),
        (_set(f"{TASK}/nonsense", 1), "has a field that the schema lacks"),
        (
            _set("deploymentSpec/executors/Trainer_executor", {"resolver": {}}),
            "is a resolver; only containers",
        ),
        (
            _set("deploymentSpec/executors/Trainer_executor/container/args", ["x" * 200_000]),
            "more than 131,072 bytes",
        ),
        (_set("schemaVersion", "2.0.0"), "Its schema is 2.0.0, and 2.1.0 is needed"),
        (_set("pipelineInfo/name", "Two Tower"), "name Two Tower has other characters"),
        (_set("root/inputDefinitions/parameters/data/defaultValue", 7), "default of the parameter data is 7"),
        (_set("root/inputDefinitions/parameters/windows_spans/parameterType", "STRING"), "is NUMBER_INTEGER"),
    ],
)
def test_a_job_that_breaks_a_rule_of_its_backend_is_refused(
    job: dict[str, Any], change: Callable[[dict[str, Any]], None], expected: str
) -> None:
    spec = copy.deepcopy(job["pipelineSpec"])
    rules.check(spec, json.dumps(spec), "kubeflow")
    change(spec)
    with pytest.raises(UserError, match=expected):
        rules.check(spec, json.dumps(spec), "kubeflow")


def test_a_job_that_is_too_large_is_refused(job: dict[str, Any]) -> None:
    with pytest.raises(UserError, match="bytes, and 1,048,576 are allowed"):
        rules.check(job, json.dumps(job) + " " * (1 << 20), "vertex")


@pytest.mark.slow
def test_the_clients_of_both_backends_take_the_job(job: dict[str, Any], tmp_path: Path) -> None:
    """Checks up to the network: Vertex's SDK builds its request, Kubeflow's client reads the parameters."""
    from google.auth.credentials import AnonymousCredentials
    from google.cloud import aiplatform
    from kfp import components

    file = tmp_path / "job.json"
    file.write_text(json.dumps(job))
    parameters = {"data": "gs://b/data", "windows_spans": 3, "gate_min_recall": 0.2}
    place: dict[str, Any] = {
        "project": "p",
        "location": "europe-west4",
        "credentials": AnonymousCredentials(),
    }
    submitted = aiplatform.PipelineJob(
        "two-tower", str(file), parameter_values=parameters, enable_caching=True, **place
    )
    config = json.loads(type(submitted._gca_resource).to_json(submitted._gca_resource))["runtimeConfig"]
    assert config["gcsOutputDirectory"] == "gs://b/root"
    assert config["parameterValues"] == parameters
    with pytest.raises(ValueError, match="dat is not found"):
        aiplatform.PipelineJob("two-tower", str(file), parameter_values={"dat": ""}, **place)
    compiled(tmp_path, "kubeflow", "--preset", "smoke")
    inputs = components.load_component_from_file(str(tmp_path / "job.yaml")).component_spec.inputs
    assert {name: one.type for name, one in inputs.items() if name in ("data", *parameters)} == {
        "data": "String", "windows_spans": "Integer", "gate_min_recall": "Float"
    }  # fmt: skip
