from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.runs import ROOT, call
from two_tower.base import import_closure
from two_tower.base.import_closure import import_digest
from two_tower.data_directory.feature_columns import ResolvedFeatures
from two_tower.pipeline.settings.pipeline_config import PipelineConfig

pytestmark = pytest.mark.e2e


@pytest.fixture
def tree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Copy of the project's sources, from which digests are computed."""
    tree = tmp_path / "sources"
    shutil.copytree(ROOT / "two_tower", tree, ignore=shutil.ignore_patterns("__pycache__"))
    monkeypatch.setattr(import_closure, "_ROOT", tree)
    return tree


def edit(path: Path) -> Callable[[], None]:
    """Adds code to a module and returns a function that removes it again."""
    content = path.read_text()
    path.write_text(content + "\nEDITED = True\n")

    def undo() -> None:
        path.write_text(content)

    return undo


def keys() -> dict[str, str]:
    """Returns each component's parameters, which are its cache key, but for values of AutoSettings."""
    from two_tower.pipeline.create_pipeline import RunInputs, create_pipeline

    dag = create_pipeline(RunInputs("data", "root", "digest"), "root", PipelineConfig(), ResolvedFeatures())

    def later(_: object) -> str:
        return "handed on"

    return {
        node.id: json.dumps(node.exec_properties, sort_keys=True, default=later) for node in dag.components
    }


def changed(before: dict[str, str]) -> set[str]:
    after = keys()
    return {name for name in before if after[name] != before[name]}


def _of_preprocessing(transform: Any, components: list[Any]) -> str:
    """Returns the digest of a Transform's preprocessing, which AutoSettings hands on for the windows."""
    if transform.id == "CatalogTransform":
        return str(json.loads(transform.exec_properties["custom_config"])["source_digest"])
    (auto,) = (one for one in components if one.id == "AutoSettings")
    return str(auto.exec_properties["preprocessing_digest"])


def test_every_component_is_keyed_by_what_its_executor_imports(tree: Path) -> None:
    from two_tower.pipeline.create_pipeline import RunInputs, create_pipeline

    dag = create_pipeline(RunInputs("data", "root", "digest"), "root", PipelineConfig(), ResolvedFeatures())
    ours = set()
    for node in dag.components:
        properties = node.exec_properties
        function = properties.get("preprocessing_fn")
        executor = getattr(getattr(node, "executor_spec", None), "executor_class", None)
        module = function.rpartition(".")[0] if function else getattr(executor, "__module__", "")
        if module.startswith("two_tower."):
            given = properties["source_digest"] if not function else _of_preprocessing(node, dag.components)
            assert given == import_digest(module), node.id
            ours.add(node.id)
    assert {"Transform", "Trainer", "RetrievalEvaluator", "AnomalyGate", "CatalogSchema"} <= ours


def test_a_clamp_and_a_check_of_columns_are_keyed(tree: Path) -> None:
    original = keys()
    undo = edit(tree / "trainer" / "settings.py")
    assert {"AutoSettings", "Trainer", "ScannIndexer"} >= changed(original)
    undo()
    edit(tree / "data_directory" / "checked_columns.py")
    assert {"InteractionExampleGen", "CatalogExampleGen", "RetrievalEvaluator"} <= changed(original)


def test_an_edit_of_the_towers_does_not_cut_windows_again(tree: Path) -> None:
    original = keys()
    edit(tree / "trainer" / "model" / "towers.py")
    # AutoSettings reads the weights of a warm start. The values that it hands on are the same.
    assert changed(original) == {"AutoSettings", "Trainer", "ScannIndexer"}


def test_an_edited_schema_is_read_again(tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from two_tower.components.curated_schema import schemas

    original = keys()
    read = schemas.read
    monkeypatch.setattr(schemas, "read", lambda *named: read(*named) + "# edited\n")
    assert changed(original) == {"InteractionSchema", "CatalogSchema"}


def test_an_edit_deep_in_the_closure_runs_the_component_again_and_one_outside_does_not(
    tree: Path, whole: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "output"

    def ran() -> set[str]:
        """Returns the components that a check of the data runs, without cached ones."""
        arguments = ["validate", "--data", str(whole), "--output", str(output), "--preset", "smoke"]
        status, _, errors = call(arguments)
        assert status == 0, errors
        # The progress display bypasses the redirection of `call`.
        shown = capfd.readouterr().out.splitlines()
        ended = [line.split() for line in shown if line.endswith((" s", " cached"))]
        return {words[0] for words in ended if words[-1] != "cached"}

    assert {"InteractionExampleGen", "CatalogExampleGen"} <= ran()
    edit(tree / "trainer" / "model" / "towers.py")
    assert not {"InteractionExampleGen", "CatalogExampleGen"} & ran()
    edit(tree / "components" / "interaction_example_gen" / "windows.py")
    again = ran()
    assert "InteractionExampleGen" in again
    assert "CatalogExampleGen" not in again
