"""Tests of compiled jobs, run step by step as their backends would; see job_walker.py."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow.compute as pc
import pyarrow.dataset as pads
import pytest
import yaml

from tests.e2e.job_walker import HALF_WRITTEN, ForkServer, Walk, Walker, image_environment
from tests.e2e.runs import ROOT, call
from two_tower.base import pointers
from two_tower.components.job_folder import OUTCOME, read_records
from two_tower.data_directory.manifest import DAY, DatasetProperties, Manifest, event_files, item_files
from two_tower.data_directory.writer import DataDirectoryWriter
from two_tower.serving.versions import versions

pytestmark = [pytest.mark.e2e, pytest.mark.xdist_group("walked_job")]

USERS, ITEMS, DAYS, FIRST_DAYS = 160, 1_500, 14, 12
IMAGE = "registry/two-tower:1"
# What takes time and changes nothing here.
QUICK = ["--preset", "smoke", "--set", "trainer.epochs=1", "--set", "evaluation.baselines=most_popular"]
STEPS = {
    "InputVerifier", "LatestPointers", "AutoSettings",
    "InteractionExampleGen", "CatalogExampleGen", "StatisticsGen",
    "CatalogStatisticsGen", "InteractionSchema", "CatalogSchema", "ExampleValidator", "CatalogValidator",
    "ComparableStatistics", "DriftValidator", "SkewValidator", "AnomalyGate", "ApprovedStatistics",
    "Transform", "CatalogTransform", "Trainer", "ScannIndexer", "RetrievalEvaluator", "Pusher",
}  # fmt: skip


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ForkServer]:
    started = ForkServer(tmp_path_factory.mktemp("home"))
    yield started
    started.close()


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Data directory of all days, of which `add_span` takes a part."""
    place = tmp_path_factory.mktemp("world")
    size = ["--users", str(USERS), "--tracks", str(ITEMS), "--days", str(DAYS)]
    assert call(["simulate", str(place / "yambda"), *size])[0] == 0
    assert call(["ingest", "yambda", str(place / "yambda"), str(place / "whole")])[0] == 0
    return place / "whole"


def add_span(whole: Path, out: Path, span: int, first: int, last: int) -> None:
    """Writes the events from the day `first` to before `last` as a span of a data directory."""
    manifest = Manifest.load(str(whole))
    properties = DatasetProperties(manifest.dataset, manifest.label_event, manifest.repeats_recommendable)
    events = pads.dataset(event_files(str(whole)), format="parquet")
    items = pads.dataset(item_files(str(whole)), format="parquet")
    time = pc.field("timestamp")
    with DataDirectoryWriter(str(out), properties, span) as writer:
        writer.write("events", events.to_table(filter=(time >= first * DAY) & (time < last * DAY)))
        writer.write("items", items.to_table())


def compiled(out: Path, target: str, *arguments: str) -> dict[str, Any]:
    """Returns the job that `two-tower compile` writes."""
    file = out / {"vertex": "job.json", "kubeflow": "job.yaml"}[target]
    status, _, errors = call(
        ["compile", "--target", target, "--image", IMAGE, "-o", str(file), *QUICK, *arguments]
    )
    assert status == 0, errors
    return dict(yaml.safe_load(file.read_text()))


class Backend:
    """A backend with a job, its data and its root.

    Attributes:
        data: data directory in spans.
        root: the job's root.
        walker: the backend.
        job: the job.
    """

    def __init__(self, place: Path, target: str, server: ForkServer, world: Path) -> None:
        self.data, self.root, self.place, self.target = place / "data", place / "root", place, target
        add_span(world, self.data, FIRST_DAYS - 1, 0, FIRST_DAYS)
        (place / "logs").mkdir()
        self.walker = Walker(target, server, place / "logs")
        self.job = compiled(place, target, "--data", str(self.data))

    def walk(self, job: dict[str, Any] | None = None, **options: Any) -> Walk:
        """Submits a job, by default that of all tests, with the root as pipeline root and parameter."""
        return self.walker.walk(job or self.job, **{"root": str(self.root), **options})

    def pushed(self) -> list[int]:
        return versions(str(self.root / "pushed"))

    def evaluation(self, walk: Walk) -> dict[str, Any]:
        uri = walk.outputs["RetrievalEvaluator"]["evaluation"]["uri"]
        return dict(json.loads(Path(uri, "evaluation.json").read_text()))


@pytest.fixture(scope="module", params=["vertex", pytest.param("kubeflow", marks=pytest.mark.long)])
def backend(
    request: pytest.FixtureRequest,
    tmp_path_factory: pytest.TempPathFactory,
    server: ForkServer,
    world: Path,
) -> Backend:
    return Backend(tmp_path_factory.mktemp(request.param), request.param, server, world)


@pytest.fixture(scope="module")
def first(backend: Backend) -> Walk:
    """The first run, beside another pipeline's blessed model and approved statistics."""
    foreign = {"uri": "/elsewhere/model", "metadata": {"blessed": 1.0}}
    backend.walker.artifacts.append({"name": "foreign", "type": {"title": "tfx.ModelBlessing"}, **foreign})
    for name in (pointers.BLESSED, pointers.APPROVED):
        other = pointers.Pointer(
            "/elsewhere/model", {"dataset": "other", "made_with": "{}", "towers_uri": ""}
        )
        pointers.point(str(backend.place / "other-root"), name, other)
    return backend.walk()


@pytest.fixture(scope="module")
def again(backend: Backend, first: Walk) -> Walk:
    return backend.walk()


@pytest.fixture(scope="module")
def uncached(backend: Backend, again: Walk) -> Walk:
    return backend.walk(cached=False)


@pytest.fixture(scope="module")
def grown(backend: Backend, uncached: Walk, world: Path) -> Walk:
    """The run after one more span, which begins warm. Its windows are killed half-written, and cut again."""
    add_span(world, backend.data, DAYS - 1, FIRST_DAYS, DAYS)
    warm = ["--set", "trainer.warm_start=true"]
    job = compiled(backend.place, backend.target, "--data", str(backend.data), *warm)
    return backend.walk(job, killed="InteractionExampleGen")


def test_every_step_runs_and_the_model_is_pushed(backend: Backend, first: Walk) -> None:
    assert first.failed is None, first.log
    assert set(first.ran) == STEPS
    assert first.properties("RetrievalEvaluator", "blessing")["blessed"] == 1
    assert first.properties("Pusher", "pushed_model")["pushed_destination"] == f"{backend.root}/pushed/1"
    assert f"the model was blessed and is pushed as {backend.root}/pushed/1" in first.told
    # Neither model nor statistics of another pipeline were found, though both are in the store.
    assert backend.evaluation(first)["blessed_model"] is None
    assert backend.evaluation(first)["notes"][0].endswith("No model has been blessed yet.")
    assert first.properties("ComparableStatistics", "comparable")["no_drift_reason"] == (
        "no earlier run has passed"
    )


def test_the_records_of_a_run_hold_each_step(first: Walk) -> None:
    records = read_records(str(first.folder))
    assert set(records) == STEPS | {"OutcomeReporter"}
    assert {one["state"] for one in records.values()} == {"COMPLETE"}
    assert records["Trainer"]["inputs"]["examples"] == [
        first.outputs["Transform"]["transformed_examples"]["uri"]
    ]
    outcome = json.loads((first.folder / OUTCOME).read_text())
    assert outcome["failed"] == {} and "is pushed as" in outcome["sentence"]


def test_the_same_job_again_comes_from_the_cache(backend: Backend, first: Walk, again: Walk) -> None:
    assert again.ran == ["InputVerifier"]
    assert set(again.cached) == STEPS - {"InputVerifier"}
    assert backend.pushed() == [1]
    assert "Pusher came from the cache" in again.told


def test_without_the_cache_the_baseline_is_found_and_an_equal_model_is_not_pushed(
    backend: Backend, first: Walk, uncached: Walk
) -> None:
    assert set(uncached.ran) == STEPS
    blessed = backend.evaluation(uncached)["blessed_model"]
    assert blessed["uri"] == first.outputs["ScannIndexer"]["model"]["uri"]
    assert backend.evaluation(uncached)["unchanged"]
    pushed = uncached.properties("Pusher", "pushed_model")
    assert "the same model is in service already" in pushed["not_pushed_because"]
    assert backend.pushed() == [1]
    # The statistics of the run before are compared with.
    assert uncached.properties("ComparableStatistics", "comparable")["no_drift_reason"] == ""


def test_one_more_span_gives_new_windows_and_a_judged_model(
    backend: Backend, first: Walk, uncached: Walk, grown: Walk
) -> None:
    assert grown.failed is None, grown.log
    assert {"InteractionExampleGen", "Trainer", "RetrievalEvaluator", "Pusher"} <= set(grown.ran)
    # Its first attempt was killed, and left files.
    assert not list(Path(grown.outputs["InteractionExampleGen"]["examples"]["uri"]).rglob(HALF_WRITTEN))
    # Neither schema depends on the data.
    assert {"InteractionSchema", "CatalogSchema"} <= set(grown.cached)
    windows = [walk.properties("InteractionExampleGen", "examples") for walk in (first, grown)]
    assert windows[1]["test_to"] > windows[0]["test_to"]
    # The uncached job made the same model again, which was not pushed: the first one is in service.
    model = first.outputs["ScannIndexer"]["model"]["uri"]
    assert grown.properties("Trainer", "model")["warm_start"] == f"from {model}"
    evaluation = backend.evaluation(grown)
    assert evaluation["blessed_model"]["uri"] == model
    assert evaluation["blessed_model"]["eligible"]
    if evaluation["verdict"] == "blessed":
        assert backend.pushed() == [1, 2]
    else:
        assert evaluation["refusal"] and backend.pushed() == [1]
        assert "refused and is not pushed" in grown.told


def test_commands_read_the_job_s_root(backend: Backend, first: Walk, grown: Walk) -> None:
    """Checks that report, history and query need no metadata store."""
    root = str(backend.root)
    status, shown, errors = call(["history", "--output", root, "--json"])
    assert status == 0, errors
    runs = {one["run"]: one for one in json.loads(shown)}
    newest, oldest = runs[grown.folder.name], runs[first.folder.name]
    assert (oldest["status"], oldest["verdict"], oldest["pushed_version"]) == ("complete", "blessed", "1")
    assert newest["recall"] == backend.evaluation(grown)["metrics"]["test"]["recall@100"]
    status, shown, errors = call(["report", "--output", root, "--json"])
    assert status == 0, errors
    report = json.loads(shown)
    assert set(STEPS) == {one["name"] for one in report["components"]}
    assert report["settings"]["gate.min_ann_recall"] == 0.95 and report["settings"]["trainer.warm_start"]
    assert Path(report["page"]).is_file()
    status, shown, errors = call(["report", "--output", root])
    assert status == 0 and "RetrievalEvaluator" in shown, errors
    assert str(grown.folder) in shown and "metadata.sqlite" not in shown
    status, shown, errors = call(["query", "--model", root, "--history", "1,2", "--json"])
    assert status == 0, errors
    answer = json.loads(shown)
    assert len(answer["recommendations"]) == 10
    assert answer["model"] == f"{root}/pushed/{backend.pushed()[-1]}"


@pytest.mark.long
def test_a_job_settles_what_its_data_says_and_keeps_the_shapes_of_a_warm_start(
    backend: Backend, grown: Walk
) -> None:
    settings = ["--preset", "auto", "--set", "trainer.warm_start=true"]
    walk = backend.walk(compiled(backend.place, backend.target, "--data", str(backend.data), *settings))
    assert walk.failed is None, walk.log
    settled = walk.parameters["AutoSettings"]
    told = Path(walk.outputs["AutoSettings"]["choices"]["uri"])
    choices = {one["name"]: one for one in json.loads(told.read_text())}
    # The model before is that of the preset smoke.
    kept = {name: one["value"] for name, one in choices.items() if one["subject"] == "warm start"}
    assert (kept["trainer.embedding_dim"], kept["windows.history_length"]) == (16, 20)
    assert kept["trainer.query_hidden_units"] == [32] and kept["trainer.encoder"] == "mean"
    assert settled["history_length"] == 20
    assert walk.properties("Trainer", "model")["warm_start_afresh"] == 0
    # The others follow from the data, but for what was given; the gate judges by them.
    assert "trainer.epochs" not in choices and json.loads(settled["trainer"])["epochs"] == 1
    period = choices["split.holdout_seconds"]["value"]
    assert 0 < period < DAYS * DAY // 5
    windows = walk.properties("InteractionExampleGen", "examples")
    assert windows["test_to"] - windows["test_from"] == period
    limits = {one["name"]: one["limit"] for one in backend.evaluation(walk)["thresholds"]}
    assert limits["min_lift_over_best_baseline"] == choices["gate.min_lift_over_best_baseline"]["value"] < 0


def test_edited_data_is_refused_by_name_before_anything_is_computed(backend: Backend, grown: Walk) -> None:
    copy = backend.place / "edited"
    shutil.copytree(backend.data, copy)
    events = sorted(copy.glob("events/*/*.parquet"))[0]
    events.write_bytes(events.read_bytes()[:-1])
    before = backend.pushed()
    walk = backend.walk(data=str(copy))
    assert (walk.failed, walk.ran, walk.cached) == ("InputVerifier", [], [])
    sentence = f"{events}: its content differs from the manifest: edited or cut off after ingest."
    _assert_told(walk, sentence)
    assert backend.pushed() == before


def _assert_told(walk: Walk, sentence: str) -> None:
    """Asserts that the step's log has the sentence before the trace, and the exit handler repeats it."""
    assert sentence in walk.log, walk.log
    assert walk.log.index(sentence) < walk.log.index("Traceback")
    assert f"FAILED at {walk.failed}: " in walk.told and sentence in walk.told


@pytest.fixture(scope="module")
def kubeflow(tmp_path_factory: pytest.TempPathFactory, server: ForkServer, world: Path) -> Backend:
    return Backend(tmp_path_factory.mktemp("bad"), "kubeflow", server, world)


@pytest.mark.parametrize(
    ("parameters", "expected"),
    [
        ({"data": "{place}/nowhere"}, "{place}/nowhere"),
        ({"gate_min_recall": "high"}, "parameter gate_min_recall takes a number, and was given 'high'"),
        ({"windows_spans": 1.5}, "parameter windows_spans takes a whole number, and was given 1.5"),
        ({"data": 7}, "parameter data takes a text, and was given 7"),
        ({"gate_min_recall": 1.5}, "gate_min_recall takes a value from 0 to 0.99, and was given 1.5"),
        ({"gate_slices": "cold"}, "gate.slices takes slices with their least recall"),
        ({"gate_slices": "cald=0.1"}, "gate.slices limits the slice 'cald', which no evaluation has"),
        ({"root": "{place}/elsewhere"}, "its pipeline root is another"),
        ({"root": ""}, "parameter root is empty"),
    ],
)  # fmt: skip
def test_bad_input_is_named_by_the_first_step(
    kubeflow: Backend, parameters: dict[str, Any], expected: str
) -> None:
    given: dict[str, Any] = {
        name: value.format(place=kubeflow.place) if isinstance(value, str) else value
        for name, value in parameters.items()
    }
    walk = kubeflow.walk(pipeline_root=str(kubeflow.root), **given)
    assert (walk.failed, walk.ran) == ("InputVerifier", [])
    _assert_told(walk, expected.format(place=kubeflow.place))
    assert not (kubeflow.root / "pushed").exists()


def test_a_root_that_cannot_be_written_is_named_by_the_first_step(kubeflow: Backend) -> None:
    (kubeflow.place / "file").write_text("")
    root = f"{kubeflow.place}/file/root"
    walk = kubeflow.walk(root=root)
    assert walk.failed == "InputVerifier"
    assert f"{root}/two-tower" in walk.log and "the job's root cannot be written" in walk.log


def test_spans_of_data_without_spans_are_refused(kubeflow: Backend, world: Path) -> None:
    walk = kubeflow.walk(data=str(world), windows_spans=2)
    assert walk.failed == "InputVerifier"
    _assert_told(walk, "the job's parameter windows_spans is 2, and the events have no spans")


def test_what_is_cleaned_is_asked_for_no_more(backend: Backend, uncached: Walk, grown: Walk) -> None:
    # Last of all: what other tests read is removed.
    in_service = backend.pushed()[-1]
    status, shown, errors = call(["clean", "--output", str(backend.root), "--keep", "1"])
    assert status == 0, errors
    assert "folders and" in shown
    assert backend.pushed() == [in_service]
    blessed = pointers.from_text(pointers.latest(str(backend.root), pointers.BLESSED))
    assert blessed is not None and Path(blessed.uri).is_dir()
    assert Path(grown.outputs["Trainer"]["model"]["uri"]).is_dir()
    digest = grown.parameters["InputVerifier"]["data_digest"]
    walk = backend.walk(until="InputVerifier")
    assert walk.parameters["InputVerifier"]["data_digest"].startswith(f"{digest} after ")


@pytest.mark.long
def test_each_executor_is_imported_by_a_bare_interpreter(kubeflow: Backend, tmp_path: Path) -> None:
    """Checks that no executor relies on what the fork server has imported."""
    containers = [one["container"] for one in kubeflow.job["deploymentSpec"]["executors"].values()]
    paths = {one["args"][one["args"].index("--executor_class_path") + 1] for one in containers}
    ours = sorted(path for path in paths if path.startswith("two_tower."))
    assert len(ours) >= 12
    environment = {**image_environment(tmp_path), "PYTHONPATH": str(ROOT)}
    for path in [*ours, "two_tower.pipeline.jobs.step.main"]:
        module, _, name = path.rpartition(".")
        code = f"import {module}; {module}.{name}"
        done = subprocess.run(
            [sys.executable, "-c", code],
            cwd=tmp_path,
            env=environment,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, f"{path}: {done.stderr}"
