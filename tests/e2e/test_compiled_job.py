from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.runs import call

pytestmark = pytest.mark.e2e


def compiled(out: Path, *arguments: str) -> tuple[Any, Any]:
    """Returns the job that `two-tower compile` writes and its PipelineSpec, both parsed strictly."""
    from google.protobuf import json_format
    from kfp.pipeline_spec import pipeline_spec_pb2

    status, _, errors = call(
        ["compile", "--image", "registry/two-tower:1", "-o", str(out / "job.json"), *arguments]
    )
    assert status == 0, errors
    job = json_format.Parse((out / "job.json").read_text(), pipeline_spec_pb2.PipelineJob())
    spec = json_format.ParseDict(
        json_format.MessageToDict(job.pipeline_spec), pipeline_spec_pb2.PipelineSpec()
    )
    return job, spec


def constants(spec: Any, task: str) -> dict[str, str]:
    parameters = spec.root.dag.tasks[task].inputs.parameters
    return {name: value.runtime_value.constant_value.string_value for name, value in parameters.items()}


def test_a_compiled_job_holds_every_component_and_the_settings(tmp_path: Path) -> None:
    from two_tower.pipeline.create_pipeline import DESCRIPTIONS

    _, spec = compiled(tmp_path, "--preset", "smoke", "--set", "trainer.epochs=7")
    # A resolver of two artifacts becomes two tasks.
    resolvers = {f"LatestBlessedModel-{name}-resolver" for name in ("model", "model-blessing")}
    assert set(spec.root.dag.tasks) == set(DESCRIPTIONS) - {"LatestBlessedModel"} | resolvers
    trainer = json.loads(constants(spec, "Trainer")["trainer"])
    assert (trainer["epochs"], trainer["embedding_dim"]) == (7, 16)
    images = {
        one["container"]["image"] for one in spec.deployment_spec["executors"].values() if "container" in one
    }
    assert images == {"registry/two-tower:1"}


def test_options_of_beam_reach_the_steps_that_run_on_it(tmp_path: Path) -> None:
    options = [
        "--runner=DataflowRunner", "--project=p", "--region=europe-west4", "--temp_location=gs://b/tmp",
        "--sdk_container_image=registry/two-tower:1", "--experiments=use_runner_v2,shuffle_mode=service",
    ]  # fmt: skip
    _, spec = compiled(tmp_path, "--set", f"beam_args={','.join(options)}")
    executors = spec.deployment_spec["executors"]
    for name in ("InteractionExampleGen", "CatalogExampleGen", "StatisticsGen", "Transform"):
        arguments = list(executors[f"{name}_executor"]["container"]["args"])
        assert set(options) <= set(arguments), name


def test_what_is_not_known_yet_is_asked_for_when_the_job_is_submitted(tmp_path: Path) -> None:
    _, spec = compiled(tmp_path)
    assert set(spec.root.input_definitions.parameters) == {"data", "data_digest", "push_directory"}
    data = spec.root.dag.tasks["InteractionExampleGen"].inputs.parameters["data"]
    assert data.component_input_parameter == "data"


def test_data_and_root_are_written_into_the_job(tmp_path: Path, whole: Path) -> None:
    from two_tower.data_directory.manifest import Manifest

    job, spec = compiled(tmp_path, "--data", str(whole), "--root", "gs://bucket/root")
    assert set(spec.root.input_definitions.parameters) == set()
    assert constants(spec, "CatalogExampleGen")["data"] == str(whole)
    assert constants(spec, "InteractionExampleGen")["data_digest"] == Manifest.load(str(whole)).digest
    assert constants(spec, "Pusher")["push_directory"] == "gs://bucket/root/pushed"
    assert job.runtime_config.gcs_output_directory == "gs://bucket/root"


def test_the_digest_of_data_that_only_the_steps_can_read_is_asked_for(tmp_path: Path) -> None:
    # The URL stays the same while the data grows: as a cache key it would hide new data.
    _, spec = compiled(tmp_path, "--data", "memory://bucket/data", "--root", "gs://bucket/root")
    assert set(spec.root.input_definitions.parameters) == {"data_digest"}
