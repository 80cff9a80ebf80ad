"""The request that Beam's own client sends to Dataflow; only the network is replaced."""

from __future__ import annotations

import base64
import bz2
import contextlib
import json
import re
from collections.abc import Callable, Iterable
from typing import Any
from urllib.parse import urlsplit

import numpy as np
import pyarrow as pa
import pytest
from fsspec.implementations.memory import MemoryFileSystem

from two_tower.data_directory.feature_columns import resolve
from two_tower.data_directory.manifest import DAY, DatasetProperties, Manifest
from two_tower.data_directory.writer import DataDirectoryWriter
from two_tower.pipeline.settings.pipeline_config import PipelineConfig

pytestmark = pytest.mark.slow

IMAGE = "registry/two-tower:1"
# Those of docs/how-to/scale-out.md. The job's image is completed.
BEAM_ARGS = (
    "--runner=DataflowRunner", "--project=my-project", "--region=europe-west4",
    "--temp_location=gs://bucket/tmp", "--machine_type=n2-standard-4", "--max_num_workers=40",
    "--experiments=use_runner_v2", "--experiments=shuffle_mode=service",
)  # fmt: skip


URL = re.compile(rb"(\w+://|storage\.googleapis\.com/)[\w./-]*")
# The names of source files in pickled functions serve tracebacks alone.
LOCAL_PATH = re.compile(rb"/[\w.-]+/[\w./-]*(?<!\.py)(?![\w./-])")


class Bucket(MemoryFileSystem):
    """Buckets in this process, under gs:// URLs."""

    protocol = "gs"

    @classmethod
    def _strip_protocol(cls, path: str) -> Any:
        return super()._strip_protocol(path.removeprefix("gs://"))


class Submitted(BaseException):
    """End of a submission: Beam's client would retry after an Exception."""


class Network:
    """Network that records what Beam's client sends, and ends the submission with the job."""

    def __init__(self) -> None:
        self.url = ""
        self.job: dict[str, Any] = {}
        self.staged: dict[str, bytes] = {}

    def request(self, uri: str, method: str, body: str, **_: object) -> None:
        """Records the request that creates the job."""
        assert method == "POST"
        self.url, self.job = uri, json.loads(body)
        raise Submitted

    def authorize(self, http: Any) -> Any:
        """Takes the place of the client's credentials."""
        http.request = self.request
        return http

    def stage_file(self, folder: str, name: str, stream: Any, **_: object) -> None:
        """Records an upload to the staging bucket."""
        self.staged[f"{folder}/{name}"] = stream.read()


@pytest.fixture
def network(monkeypatch: pytest.MonkeyPatch) -> Network:
    from apache_beam.options.pipeline_options import GoogleCloudOptions
    from apache_beam.runners.dataflow.internal import apiclient
    from fsspec.registry import _registry as filesystems
    from tfx.dsl.io import fileio

    network = Network()
    monkeypatch.setattr(apiclient, "get_service_credentials", lambda _: network)
    monkeypatch.setattr(apiclient, "create_storage_client", lambda *_: None)
    monkeypatch.setattr(apiclient.DataflowApplicationClient, "stage_file", network.stage_file)
    # Beam asks the bucket about its policy, and goes on without an answer, half a minute later.
    monkeypatch.setattr(GoogleCloudOptions, "_warn_if_soft_delete_policy_enabled", lambda *_: None)
    # TFX asks the bucket for its temporary folder; a bucket has every folder.
    monkeypatch.setattr(fileio, "exists", lambda _: True)
    monkeypatch.setattr(fileio, "makedirs", lambda _: None)
    monkeypatch.setitem(filesystems, "gs", Bucket)
    return network


def interactions(manifest: Manifest) -> tuple[Any, dict[str, Any]]:
    from two_tower.components.interaction_example_gen.executor import Executor

    return Executor, {"split": json.dumps({"protocol": "time"}), "windows": "{}", "features": ""}


def catalog(manifest: Manifest) -> tuple[Any, dict[str, Any]]:
    from two_tower.components.catalog_example_gen.executor import Executor

    return Executor, {"features": resolve(PipelineConfig().features, manifest).to_json()}


def unpacked(payloads: Iterable[bytes]) -> bytes:
    """Returns the pickled functions in the payloads, without Beam's compression."""
    found = b""
    for payload in payloads:
        for word in re.findall(rb"[A-Za-z0-9+/=]{60,}", payload):
            with contextlib.suppress(ValueError, OSError):
                found += bz2.decompress(base64.b64decode(word[-(len(word) // 4 * 4) :]))
    return found


@pytest.mark.parametrize(
    ("component", "steps"),
    [
        (interactions, {"ReadByShard", "Shard", "CutWindows"}),
        (catalog, {"RowGroups", "Encode", "Write"}),
    ],
)
def test_dataflow_gets_our_pipeline_our_image_and_the_options(
    component: Callable[[Manifest], tuple[Any, dict[str, Any]]],
    steps: set[str],
    network: Network,
) -> None:
    from apache_beam.portability.api import beam_runner_api_pb2
    from tfx.types import standard_artifacts

    from two_tower.pipeline import beam_options

    data = "gs://bucket/data"
    size = 2_000
    with DataDirectoryWriter(data, DatasetProperties("small", "listen", True)) as writer:
        events = {
            "user_id": np.arange(size) % 9,
            "item_id": np.arange(size) % 50,
            "timestamp": np.arange(size) * DAY // 50,
        }
        writer.write("events", pa.table(events))
        writer.write("items", pa.table({"item_id": np.arange(50)}))
    executor, parameters = component(Manifest.load(data))
    beam_options.check(BEAM_ARGS, places=[data, "gs://bucket/root"], is_compiled=True)
    context = executor.Context(
        tmp_dir="gs://bucket/root/.temp/",
        unique_id="1",
        beam_pipeline_args=beam_options.completed(BEAM_ARGS, IMAGE),
    )
    artifact = standard_artifacts.Examples()
    artifact.uri = "gs://bucket/root/examples/1"
    with pytest.raises(Submitted):
        executor(context).Do({}, {"examples": [artifact]}, {"data": data, **parameters})

    assert urlsplit(network.url).path.endswith("/projects/my-project/locations/europe-west4/jobs")
    job, environment = network.job, network.job["environment"]
    assert re.fullmatch(r"[a-z]([-a-z0-9]{0,61}[a-z0-9])?", job["name"])
    assert job["type"] == "JOB_TYPE_BATCH"
    (pool,) = environment["workerPools"]
    assert pool["workerHarnessContainerImage"] == IMAGE
    assert [one["containerImage"] for one in pool["sdkHarnessContainerImages"]] == [IMAGE]
    assert (pool["machineType"], pool["autoscalingSettings"]["maxNumWorkers"]) == ("n2-standard-4", 40)
    assert {"use_runner_v2", "shuffle_mode=service"} <= set(environment["experiments"])
    assert environment["tempStoragePrefix"].startswith("storage.googleapis.com/bucket/tmp/")
    options = environment["sdkPipelineOptions"]["options"]
    assert options["region"] == "europe-west4"
    assert options["temp_location"].startswith(f"gs://bucket/tmp/{job['name']}.")

    # The request names the pipeline, which lies in the bucket. No package does: the image has all of them.
    folder = options["temp_location"]
    versions = f"{folder}/submission_environment_dependencies.txt"  # for people who look into a job's failure
    assert set(network.staged) == {options["pipelineUrl"], versions}
    pipeline = beam_runner_api_pb2.Pipeline.FromString(network.staged[options["pipelineUrl"]])
    assert steps <= {one.unique_name for one in pipeline.components.transforms.values()}
    docker = [
        beam_runner_api_pb2.DockerPayload.FromString(one.payload).container_image
        for one in pipeline.components.environments.values()
    ]
    assert set(docker) == {IMAGE}
    functions = unpacked(one.spec.payload for one in pipeline.components.transforms.values())
    assert b"gs://bucket/root/examples/1" in functions
    for sent in (json.dumps(job).encode(), functions):
        assert not LOCAL_PATH.findall(URL.sub(b"", sent))
