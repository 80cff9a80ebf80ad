"""Every component that runs on Beam, on other runners than the DirectRunner: the records are the same."""

from __future__ import annotations

import contextlib
import dataclasses
import glob
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from tests.e2e.runs import ROOT, environment
from two_tower.data_directory.manifest import DAY, DatasetProperties
from two_tower.data_directory.writer import DataDirectoryWriter
from two_tower.pipeline.settings import run_file

# A group of its own, so that the other whole runs go on beside it.
pytestmark = [pytest.mark.e2e, pytest.mark.xdist_group("beam_runners")]

PRISM = ROOT / "build" / "bin" / "prism"
ON_BEAM = ("StatisticsGen", "CatalogStatisticsGen", "Transform", "CatalogTransform")
USERS, ITEMS, DAYS, EVERY = 30, 50, 6, 7_200
EVENTS_PER_SHARD = 500


@dataclasses.dataclass(frozen=True)
class Outputs:
    """Outputs of the components; Examples are parsed and in a canonical order."""

    shards: int
    examples: dict[str, list[Any]]
    statistics: dict[str, Any]
    transformed: dict[str, list[Any]]
    vocabularies: dict[str, bytes]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Data directory of 30 users with an event every two hours for six days."""
    path = tmp_path_factory.mktemp("beam") / "data"
    random = np.random.default_rng(3)
    size = USERS * DAYS * DAY // EVERY
    user = np.arange(size) % USERS
    events = {
        "user_id": user,
        "item_id": random.integers(0, ITEMS, size),
        "timestamp": np.arange(size) // USERS * EVERY + user,
        "event_type": np.where(random.random(size) < 0.1, "like", "listen"),
        "play_ratio": random.random(size),
    }
    items = {
        "item_id": np.arange(ITEMS),
        "item_length": random.uniform(60, 300, ITEMS),
        "artist_id": [[i % 9] if i % 4 else [i % 9, 100 + i % 3] for i in range(ITEMS)],
        "album_id": [[i // 3] if i % 7 else [] for i in range(ITEMS)],
    }
    with DataDirectoryWriter(str(path), DatasetProperties("small", "listen", True)) as writer:
        writer.write("events", pa.table(events))
        writer.write("items", pa.table(items))
        writer.write("users", pa.table({"user_id": np.arange(USERS), "age": random.uniform(9, 90, USERS)}))
    return path


def run(data: Path, output: Path, beam_args: Sequence[str] = ()) -> Outputs:
    """Runs the project's DAG from an empty output directory up to both Transforms."""
    from two_tower.components.interaction_example_gen import shards
    from two_tower.pipeline.local_runner import run_local
    from two_tower.pipeline.runs.stored_runs import latest_outputs

    # Windows start at the first events; with so few days train differs from test.
    settings = ["features.users=age", "validation.max_skew=0", f"beam_args={','.join(beam_args)}"]
    config = run_file.load("smoke", None, settings if beam_args else settings[:-1])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(shards, "EVENTS_PER_SHARD", EVENTS_PER_SHARD)
        run_local(str(data), str(output), config, until=ON_BEAM)
    folders = {
        f"{component}.{key}": folder
        for component, outputs in latest_outputs(str(output), ON_BEAM[-1], partial=True).items()
        for key, (folder, *_) in outputs.items()
    }
    windows, catalog = "InteractionExampleGen.examples", "CatalogExampleGen.examples"
    return Outputs(
        shards=len(glob.glob(f"{folders[windows]}/Split-train/*.gz")),
        examples=read(folders[windows]) | read(folders[catalog]),
        statistics=read_statistics(folders["StatisticsGen.statistics"])
        | read_statistics(folders["CatalogStatisticsGen.statistics"]),
        transformed=read(folders["Transform.transformed_examples"])
        | read(folders["CatalogTransform.transformed_examples"]),
        vocabularies={
            file.name: file.read_bytes()
            for name in ("Transform.transform_graph", "CatalogTransform.transform_graph")
            for file in Path(folders[name], "transform_fn", "assets").iterdir()
        },
    )


def read(folder: str) -> dict[str, list[Any]]:
    """Returns the Examples of each split, sorted, as (ids and texts, floats): a runner gives no order."""
    import tensorflow as tf

    def parsed(record: bytes) -> tuple[Any, list[float]]:
        features = sorted(tf.train.Example.FromString(record).features.feature.items())
        kinds = [(name, one.WhichOneof("kind"), one) for name, one in features]
        exact = [
            (
                name,
                kind,
                len(one.float_list.value) if kind == "float_list" else list(getattr(one, kind).value),
            )
            for name, kind, one in kinds
            if kind
        ]
        return exact, [value for *_, one in kinds for value in one.float_list.value]

    splits = {}
    for split in sorted(os.listdir(folder)):
        files = sorted(glob.glob(f"{folder}/{split}/*.gz"))
        splits[split] = sorted(parsed(one.numpy()) for one in tf.data.TFRecordDataset(files, "GZIP"))
    return splits


def read_statistics(folder: str) -> dict[str, Any]:
    """Returns the statistics of each split by feature, as plain values."""
    from google.protobuf import json_format
    from tensorflow_metadata.proto.v0 import statistics_pb2

    found = {}
    for split in sorted(os.listdir(folder)):
        text = Path(folder, split, "FeatureStats.pb").read_bytes()
        (dataset,) = statistics_pb2.DatasetFeatureStatisticsList.FromString(text).datasets
        for feature in dataset.features:
            name = ".".join(feature.path.step) or feature.name
            found[f"{split}: {name}"] = json_format.MessageToDict(feature)
        found[split] = dataset.num_examples
    return found


def flat(value: Any, name: str = "") -> Iterator[tuple[str, Any]]:
    """Yields the members of nested dicts and lists with their places."""
    if isinstance(value, dict | list):
        for key, one in value.items() if isinstance(value, dict) else enumerate(value):
            yield from flat(one, f"{name}.{key}")
    else:
        yield name, value


@pytest.fixture(scope="module")
def direct(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Outputs:
    """Outputs of the DirectRunner."""
    return run(data, tmp_path_factory.mktemp("direct"))


@contextlib.contextmanager
def served(command: Sequence[str], log: Path, port: int) -> Iterator[str]:
    """Runs a server in a process of its own, and yields its address once it answers."""
    with (
        open(log, "wb") as file,
        subprocess.Popen(command, stdout=file, stderr=subprocess.STDOUT, env=environment()) as process,
    ):
        try:
            for _ in range(600):
                assert process.poll() is None, log.read_text()
                with contextlib.suppress(OSError):
                    socket.create_connection(("localhost", port), 1).close()
                    break
                time.sleep(0.2)
            else:
                raise AssertionError(f"{command[0]} does not answer: {log.read_text()}")
            yield f"localhost:{port}"
        finally:
            process.terminate()


def free_port() -> int:
    with socket.create_server(("localhost", 0)) as server:
        return int(server.getsockname()[1])


@pytest.fixture(scope="module")
def workers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Address of a pool of workers in another process; the runners share its imports."""
    port = free_port()
    command = [sys.executable, str(ROOT / "scripts" / "beam_worker_pool.py"), "--port", str(port)]
    with served(command, tmp_path_factory.mktemp("workers") / "log", port) as address:
        yield address


def job_server(runner: str, port: int) -> list[str]:
    """Returns the command of a job server in another process."""
    if runner == "portable":
        module = "apache_beam.runners.portability.local_job_service_main"
        return [sys.executable, "-m", module, "--port", str(port)]
    if not PRISM.exists():
        missing = "Prism is missing: build it with `make prism`, which needs Go."
        if os.environ.get("CI"):
            pytest.fail(missing)
        pytest.skip(missing)
    return [str(PRISM), f"-job_port={port}", "-serve_http=false"]


@pytest.mark.parametrize("runner", ["portable", pytest.param("prism", marks=pytest.mark.long)])
def test_another_runner_gives_the_records_of_the_direct_runner(
    runner: str, data: Path, direct: Outputs, workers: str, tmp_path: Path
) -> None:
    port = free_port()
    with served(job_server(runner, port), tmp_path / "log", port) as endpoint:
        beam_args = [
            "--runner=PortableRunner", f"--job_endpoint={endpoint}",
            "--environment_type=EXTERNAL", f"--environment_config={workers}",
        ]  # fmt: skip
        found = run(data, tmp_path / "output", beam_args)
    assert direct.shards == found.shards > 3
    assert found.examples == direct.examples
    assert {"item", "user", "artist", "album"} <= set(direct.vocabularies)
    assert found.vocabularies == direct.vocabularies
    # Sums of floats depend on the order of bundles.
    statistics = dict(flat(found.statistics))
    assert statistics == pytest.approx(dict(flat(direct.statistics)), rel=1e-6)
    assert (
        found.transformed.keys()
        == direct.transformed.keys()
        == {"Split-train", "Split-eval", "Split-catalog"}
    )
    for split, expected in direct.transformed.items():
        records = found.transformed[split]
        assert [exact for exact, _ in records] == [exact for exact, _ in expected]
        np.testing.assert_allclose(
            np.concatenate([floats for _, floats in records]),
            np.concatenate([floats for _, floats in expected]),
            rtol=0,
            atol=1e-3,
        )
