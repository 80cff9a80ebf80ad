"""Property of the data plane: nothing on the train side depends on an event after train's end."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import pytest

from tests.components.test_interaction_example_gen import run_component
from tests.logs_with_a_future import DAYS, EVENTS, write_log
from tests.small_world import transform
from two_tower.components.interaction_example_gen.facts import read_facts
from two_tower.data_directory.feature_columns import ResolvedFeatures
from two_tower.data_directory.manifest import DAY, Manifest, files_of
from two_tower.ingestion import FORMATS
from two_tower.schema import features

SPLIT = {"holdout_seconds": DAY, "gap_seconds": 3_600}


def records(pattern: str) -> list[bytes]:
    """Returns the Examples of gzipped TFRecord files in one form and order: Beam keeps neither."""
    import tensorflow as tf

    files = tf.io.gfile.glob(pattern)
    assert files
    return sorted(
        tf.train.Example.FromString(one.numpy()).SerializeToString(deterministic=True)
        for one in tf.data.TFRecordDataset(sorted(files), "GZIP")
    )


def catalog_examples(data: str, out: Path) -> str:
    from tfx.dsl.components.base.base_beam_executor import BaseBeamExecutor
    from tfx.types import standard_artifacts

    from two_tower.components.catalog_example_gen.executor import Executor

    artifact = standard_artifacts.Examples()
    artifact.uri = str(out)
    context = BaseBeamExecutor.Context(tmp_dir=f"{out}-scratch/", unique_id="1", beam_pipeline_args=[])
    parameters = {"data": data, "features": ResolvedFeatures().to_json()}
    Executor(context).Do({}, {"examples": [artifact]}, parameters)
    return f"{out}/Split-catalog/*"


def train_side(source: str, out: Path) -> tuple[dict[str, Any], Any]:
    """Runs ingest, both ExampleGens and both Transforms; returns what training reads, and the facts."""
    from two_tower.trainer.model.preprocessing import catalog_preprocessing_fn, preprocessing_fn

    data = str(out / "data")
    manifest = FORMATS["yambda"](source, data)
    artifact = run_component(data, out / "windows", split=SPLIT)
    windows = {split: f"{artifact.uri}/Split-{split}/*" for split in ("train", "test")}
    settings = {"history_length": 6, "aggregates": features.AGGREGATES, "users": []}
    graph, transformed = transform(
        out / "interactions",
        "interactions",
        {"train": windows["train"]},
        partial(preprocessing_fn, custom_config=settings),
    )
    catalog = catalog_examples(data, out / "catalog")
    catalog_graph, of_catalog = transform(
        out / "transformed",
        "catalog",
        {"catalog": catalog},
        partial(catalog_preprocessing_fn, custom_config={}),
    )
    found: dict[str, Any] = {
        "items/": [(file.path, file.digest) for file in files_of(manifest, "items")],
        "train windows": records(windows["train"]),
        "catalog": records(catalog),
        "transformed train windows": records(transformed["train"]),
        "transformed catalog": records(of_catalog["catalog"]),
    }
    for name, of in (("interactions", graph), ("catalog", catalog_graph)):
        assets = sorted(Path(of, "transform_fn", "assets").iterdir())
        assert assets
        found[f"vocabularies of {name}"] = {path.name: path.read_bytes() for path in assets}
    return found, (read_facts(artifact), records(windows["test"]))


@pytest.mark.long
def test_other_events_after_trains_end_change_nothing_that_training_reads(tmp_path: Path) -> None:
    """Compares record for record; items/ and vocabularies byte for byte."""
    found, (facts, test) = train_side(write_log(tmp_path / "a"), tmp_path / "of_a")
    assert 0 < facts.train_end < DAYS * DAY
    source = write_log(tmp_path / "b", replaced_from=facts.train_end)
    other, (other_facts, other_test) = train_side(source, tmp_path / "of_b")
    assert other_facts.train_end == facts.train_end
    assert Manifest.load(str(tmp_path / "of_b" / "data")).counts["events"] > EVENTS * 0.9
    # The future did change, so that the comparison can fail.
    assert not set(test) & set(other_test)
    assert len(found["train windows"]) > 10
    for name, content in found.items():
        assert other[name] == content, name
