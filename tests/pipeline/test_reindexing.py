"""Re-indexing: model, lineage and items are checked before long work starts."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from ml_metadata.metadata_store import MetadataStore
from ml_metadata.proto import metadata_store_pb2 as pb

from two_tower.base.errors import UserError
from two_tower.data_directory.feature_columns import FeatureSpec, ResolvedFeatures
from two_tower.data_directory.manifest import DatasetProperties, item_files
from two_tower.data_directory.verification import verify, verify_items
from two_tower.data_directory.writer import DataDirectoryWriter
from two_tower.evaluation.settings import GateConfig
from two_tower.pipeline.commands import exit_status
from two_tower.pipeline.commands.main import main
from two_tower.pipeline.reindexing import Reindexing, check_features
from two_tower.pipeline.runs.lineage import lineage_of
from two_tower.trainer.loop import warm_start

FEATURES = ResolvedFeatures(items=(FeatureSpec("embedding", "embedding", "vector", 2),))


def items(**columns: Any) -> pa.Table:
    vectors = pa.array([[1.0, 0.0], [0.0, 1.0], [1.0, 1.0]], pa.list_(pa.float32(), 2))
    return pa.table(
        {"item_id": [10, 11, 12], "available": [True, None, False], "embedding": vectors} | columns
    )


def alone(directory: Path, *tables: pa.Table) -> str:
    """Writes a directory of items/ alone, one file per table."""
    (directory / "items").mkdir(parents=True)
    for number, table in enumerate(tables or (items(),)):
        pq.write_table(table, directory / "items" / f"{number}.parquet")
    return str(directory)


# Items.


def test_items_alone_are_as_good_as_those_of_a_data_directory(tmp_path: Path) -> None:
    with DataDirectoryWriter(str(tmp_path / "data"), DatasetProperties("small", "listen", True)) as writer:
        writer.write(
            "events", pa.table({"user_id": [1], "item_id": [10], "timestamp": [5], "event_type": ["listen"]})
        )
        writer.write("items", items())
    whole = verify_items(str(tmp_path / "data"))
    here = alone(tmp_path / "alone")
    of_items = verify_items(here)
    for manifest in (whole, of_items):
        assert (manifest.counts, manifest.has_embedding) == ({"items": 3}, 2)
        assert set(manifest.columns["items"]) == {"item_id", "available", "embedding"}
    assert item_files(here) == [str(tmp_path / "alone" / "items" / "0.parquet")]
    # The cache key follows from the content.
    assert verify_items(here).digest == of_items.digest
    changed = items(available=[True, True, True])
    assert verify_items(alone(tmp_path / "changed", changed)).digest != of_items.digest
    # An edit after ingest is detected.
    (path,) = item_files(str(tmp_path / "data"))
    pq.write_table(changed, path)
    with pytest.raises(UserError, match="content differs from the manifest"):
        verify_items(str(tmp_path / "data"))


def test_a_data_directory_without_an_available_item_is_told_before_a_run(tmp_path: Path) -> None:
    listens = pa.table({"user_id": [1], "item_id": [10], "timestamp": [5], "event_type": ["listen"]})
    for name, available in (("none", [False] * 3), ("one", [False, False, None])):
        data = str(tmp_path / name)
        with DataDirectoryWriter(data, DatasetProperties("small", "listen", True)) as writer:
            writer.write("events", listens)
            writer.write("items", items(available=pa.array(available, pa.bool_())))
    verify(str(tmp_path / "one"))
    with pytest.raises(UserError, match="none: the catalog is empty: items/ holds no available item"):
        verify(str(tmp_path / "none"))


def test_items_that_are_no_catalog_are_told(tmp_path: Path) -> None:
    cases: dict[str, tuple[list[pa.Table], str]] = {
        "twice": ([items(), items()], "column 'item_id': 10 has more than one row"),
        "none": ([items(available=[False] * 3)], "holds no available item"),
        "empty": ([items().slice(0, 0)], "holds no available item"),
        "id": ([items(item_id=["a", "b", "c"])], "column 'item_id' is of type string"),
        "available": ([items(available=["no"] * 3)], "column 'available' is of type string"),
    }
    for name, (tables, message) in cases.items():
        with pytest.raises(UserError, match=message):
            verify_items(alone(tmp_path / name, *tables))
    with pytest.raises(UserError, match="not a data directory"):
        verify_items(str(tmp_path / "nowhere"))


def test_items_must_have_what_the_model_knows_of_items(tmp_path: Path) -> None:
    specs = (*FEATURES.items, FeatureSpec("year", "year", "numeric"))
    year = [1950.5, None, 2000.0]
    manifest = verify_items(alone(tmp_path / "good", items(year=year)))
    check_features("there", manifest, specs)
    check_features("there", manifest, ())
    wide = pa.array([[1.0, 0.0, 0.5]] * 3, pa.list_(pa.float32(), 3))
    for name, table, message in (
        ("none", items(year=year).drop(["embedding"]), "there is no column embedding"),
        ("wide", items(year=year, embedding=wide), "vectors have 3 values, not 2"),
        ("kind", items(year=["1950", "", "2000"]), "year is of type string"),
    ):
        manifest = verify_items(alone(tmp_path / name, table))
        with pytest.raises(UserError, match=f"there: the items do not fit the model.*{message}"):
            check_features("there", manifest, specs)


# Models.


class Run:
    """Metadata store of a run and its served models, in the form that lineage reads."""

    def __init__(self, output: Path) -> None:
        self.output = output
        output.mkdir(parents=True)
        connection = pb.ConnectionConfig()
        connection.sqlite.filename_uri = str(output / "metadata.sqlite")
        connection.sqlite.connection_mode = pb.SqliteMetadataSourceConfig.READWRITE_OPENCREATE
        self._store = MetadataStore(connection)

    def artifact(self, name: str, **properties: str) -> tuple[str, int]:
        uri = self.output / "artifacts" / name
        uri.mkdir(parents=True, exist_ok=True)
        kind = self._store.put_artifact_type(pb.ArtifactType(name="Any"))
        artifact = pb.Artifact(type_id=kind, uri=str(uri))
        for key, value in properties.items():
            artifact.custom_properties[key].string_value = value
        return str(uri), self._store.put_artifacts([artifact])[0]

    def execution(
        self, node: str, inputs: dict[str, int], outputs: dict[str, int], **parameters: str | int
    ) -> None:
        kind = self._store.put_execution_type(pb.ExecutionType(name=node))
        execution = pb.Execution(type_id=kind, last_known_state=pb.Execution.COMPLETE)
        for key, value in parameters.items():
            field = "int_value" if isinstance(value, int) else "string_value"
            setattr(execution.custom_properties[key], field, value)
        (number,) = self._store.put_executions([execution])
        context = pb.Context(
            type_id=self._store.put_context_type(pb.ContextType(name="node")), name=f"two-tower.{node}"
        )
        existing = self._store.get_context_by_type_and_name("node", context.name)
        of_node = existing.id if existing else self._store.put_contexts([context])[0]
        self._store.put_attributions_and_associations(
            [], [pb.Association(execution_id=number, context_id=of_node)]
        )
        for kind_of_event, named in ((pb.Event.INPUT, inputs), (pb.Event.OUTPUT, outputs)):
            for key, artifact in named.items():
                event = pb.Event(artifact_id=artifact, execution_id=number, type=kind_of_event)
                event.path.steps.add().key = key
                self._store.put_events([event])

    def trained(self, trainer: str = "{}") -> tuple[str, int]:
        inputs = {
            name: self.artifact(name)[1] for name in ("interactions", "transform_graph", "catalog_graph")
        }
        uri, towers = self.artifact("Trainer")
        left = Path(uri) / warm_start.DIRECTORY
        left.mkdir(exist_ok=True)
        (left / "state.index").write_text("")
        self.execution(
            "Trainer",
            inputs,
            {"model": towers},
            trainer=trainer,
            features=FEATURES.to_json(),
            history_length=7,
        )
        return uri, towers

    def served(self, name: str, towers: str, content: str, gate: dict[str, Any] | None = None) -> str:
        uri, model = self.artifact(name, towers_uri=towers)
        path = Path(uri) / "Format-Serving"
        (path / "assets.extra").mkdir(parents=True)
        (path / "saved_model.pb").write_text(content)
        (path / "assets.extra" / "provenance.json").write_text("{}")
        self.execution("ScannIndexer", {}, {"model": model}, index='{"max_k": 120, "long_gone": 1}', seed=5)
        if gate is not None:
            self.execution(
                "RetrievalEvaluator",
                {"model": model},
                {},
                evaluation_config="{}",
                gate_config=json.dumps(gate),
            )
        return str(path)


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return Run(tmp_path / "output")


def pushed(run: Run, served: str, version: str) -> str:
    path = run.output / "pushed" / version
    shutil.copytree(served, path)
    return str(path)


def test_a_pushed_model_leads_to_its_training_by_its_content(run: Run) -> None:
    towers, _ = run.trained()
    first = run.served("1", towers, "first", {"min_recall": 0.3})
    run.served("2", towers, "other", {"min_recall": 0.1})
    # Published again under a higher number, as a rollback does.
    for version in ("1", "3"):
        lineage = lineage_of(pushed(run, first, version))
        assert lineage.output == str(run.output)
        assert lineage.towers.uri == towers
        assert lineage.history_length == 7
        assert lineage.settings["gate"] == {"min_recall": 0.3}
        assert lineage.catalog_graph.uri.endswith("catalog_graph")
    with pytest.raises(UserError, match=r"no run in .* made this model"):
        Path(first, "saved_model.pb").write_text("edited")
        lineage_of(str(run.output / "pushed" / "1"))


def test_a_reindexed_model_leads_to_the_training_of_the_first(run: Run, tmp_path: Path) -> None:
    towers, trained = run.trained()
    uri, placed = run.artifact("CatalogPlacer", towers_uri=towers)
    run.execution("CatalogPlacer", {"towers": trained}, {"model": placed})
    assert lineage_of(run.served("1", uri, "again")).towers.uri == towers
    # A separate output directory has a store without the training.
    other = Run(tmp_path / "other")
    uri, _ = other.artifact("CatalogPlacer", towers_uri=towers)
    lineage = lineage_of(other.served("1", uri, "elsewhere"))
    assert (lineage.output, lineage.towers.uri) == (str(other.output), towers)


def test_what_is_missing_is_named(run: Run, tmp_path: Path) -> None:
    strange = tmp_path / "strange"
    strange.mkdir()
    with pytest.raises(UserError, match=r"lies in no output directory.*metadata\.sqlite"):
        lineage_of(str(strange))
    towers, _ = run.trained()
    served = run.served("1", towers, "first")
    shutil.rmtree(run.output / "artifacts" / "catalog_graph")
    with pytest.raises(UserError, match=r"is missing: .*catalog_graph \(catalog_graph\)"):
        lineage_of(served)
    shutil.rmtree(towers)
    with pytest.raises(UserError, match="The trained towers are missing"):
        lineage_of(served)
    with pytest.raises(UserError, match="does not record its training"):
        lineage_of(run.served("2", "", "second"))


def test_a_reindexed_model_is_judged_as_its_model_was_but_for_what_is_set(run: Run, tmp_path: Path) -> None:
    towers, _ = run.trained()
    served = run.served("1", towers, "first", {"min_recall": 0.3, "cutoff": 50})
    there = alone(tmp_path / "items")
    config = Reindexing(served, there, None, ["gate.min_recall=0.2"]).config
    assert (config.gate.min_recall, config.gate.cutoff) == (0.2, 50)
    assert config.gate.min_ann_recall == GateConfig().min_ann_recall
    assert config.seed == 5
    assert config.index.max_k == 120  # a setting that no longer exists is left out
    with pytest.raises(UserError, match=r"--set trainer\.epochs=2: re-indexing takes settings of index"):
        Reindexing(served, there, None, ["trainer.epochs=2"])
    with pytest.raises(UserError, match=r"gate\.min_recal; the nearest is gate\.min_recall"):
        Reindexing(served, there, None, ["gate.min_recal=2"])
    with pytest.raises(UserError, match="do not fit the model"):
        Reindexing(served, alone(tmp_path / "bare", items().drop(["embedding"])), None, [])
    shutil.rmtree(Path(towers) / warm_start.DIRECTORY)
    with pytest.raises(UserError, match=r"warm_start: the training's weights are not there.*Train again"):
        Reindexing(served, there, None, [])


def test_a_model_of_an_earlier_release_is_trained_again_first(run: Run, tmp_path: Path) -> None:
    towers, _ = run.trained('{"embedding_dim": 8, "leave_out": ["seed"], "dropout": 0.1}')
    served = run.served("1", towers, "first", {})
    with pytest.raises(UserError, match=r"earlier release.*trainer\.leave_out.*`two-tower run`"):
        Reindexing(served, alone(tmp_path / "items"), None, [])


def test_a_model_of_the_release_with_initial_gaps_is_re_indexed(run: Run, tmp_path: Path) -> None:
    towers, _ = run.trained('{"embedding_dim": 8, "frequency": {"estimate": "exact", "initial_gap": 100.0}}')
    Reindexing(run.served("1", towers, "first", {}), alone(tmp_path / "items"), None, [])


def test_the_command_tells_what_is_wrong_before_it_loads_anything(
    run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["reindex", "--model", str(tmp_path / "no"), "--items", alone(tmp_path / "items")]
    assert main(arguments) == exit_status.USER_ERROR
    assert "holds no served model" in capsys.readouterr().err
