from __future__ import annotations

import ast
import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from pipeline import source_digest
from pipeline.configs import PipelineConfig
from pipeline.feature_specs import ResolvedFeatures
from tests.e2e.runs import ROOT

pytestmark = pytest.mark.e2e

SOURCES = ("pipeline", "components", "trainer", "schema")
# Their effect travels by other ways: settings as parameters, what ingest writes in the data's digest, and
# what a check lets through is what it was.
NOT_KEYED = {
    "pipeline/configs.py",
    "pipeline/errors.py",
    "pipeline/datasets/checked_columns.py",
}


@pytest.fixture
def tree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of our sources, which digests are made of."""
    for name in SOURCES:
        shutil.copytree(ROOT / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__"))
    monkeypatch.setattr(source_digest, "_ROOT", tmp_path)
    return tmp_path


def imported(start: str) -> set[str]:
    """The project's modules that one of its files imports, and those that these import, as paths."""

    def files(path: str) -> Iterator[str]:
        for node in ast.walk(ast.parse((ROOT / path).read_text())):
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom) and node.module:
                names = [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
            else:
                continue
            for name in names:
                stem = name.replace(".", "/")
                if name.split(".")[0] in SOURCES and (ROOT / f"{stem}.py").is_file():
                    yield f"{stem}.py"

    found, waiting = {start}, [start]
    while waiting:
        new = set(files(waiting.pop())) - found
        found |= new
        waiting += new
    return found


def keys() -> dict[str, str]:
    """Of each component of the DAG: its parameters, which its cache keys on."""
    from pipeline.create_pipeline import create_pipeline

    dag = create_pipeline("data", "digest", "root", "pushed", PipelineConfig(), ResolvedFeatures())
    return {node.id: json.dumps(node.exec_properties, sort_keys=True, default=str) for node in dag.components}


def our_code() -> dict[str, tuple[str, set[str]]]:
    """Of each component with code of ours: the file that it runs, and the components before it."""
    from pipeline.create_pipeline import create_pipeline

    dag = create_pipeline("data", "digest", "root", "pushed", PipelineConfig(), ResolvedFeatures())
    before: dict[str, set[str]] = {}
    code = {}
    for node in dag.components:
        before[node.id] = {one.id for one in node.upstream_nodes}
        before[node.id] |= {further for one in node.upstream_nodes for further in before[one.id]}
        function = node.exec_properties.get("preprocessing_fn")
        executor = getattr(getattr(node, "executor_spec", None), "executor_class", None)
        module = function.rpartition(".")[0] if function else getattr(executor, "__module__", "")
        if module.split(".")[0] in SOURCES:
            code[node.id] = (module.replace(".", "/") + ".py", before[node.id])
    return code


def test_an_edit_of_any_source_runs_what_imports_it_again(tree: Path) -> None:
    original = keys()
    code = our_code()
    assert {"Transform", "Trainer", "RetrievalEvaluator", "AnomalyGate", "CatalogSchema"} <= set(code)
    imports = {name: imported(file) - NOT_KEYED for name, (file, _) in code.items()}
    missed = []
    for path in sorted(set().union(*imports.values())):
        content = (tree / path).read_text()
        (tree / path).write_text(content + "\n# edited\n")
        edited = keys()
        (tree / path).write_text(content)
        changed = {name for name in original if edited[name] != original[name]}
        missed += [
            f"{name}: {path}"
            for name in imports
            if path in imports[name] and not changed & {name, *code[name][1]}
        ]
    assert missed == []


def test_an_edit_of_the_towers_does_not_cut_windows_again(tree: Path) -> None:
    original = keys()
    (tree / "trainer" / "towers.py").write_text("# edited\n")
    edited = keys()
    assert {name for name in original if edited[name] != original[name]} == {"Trainer", "ScannIndexer"}


def test_an_edited_schema_is_read_again(tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import schema

    original = keys()
    read = schema.read
    monkeypatch.setattr(schema, "read", lambda *named: read(*named) + "# edited\n")
    edited = keys()
    assert {name for name in original if edited[name] != original[name]} == {
        "InteractionSchema",
        "CatalogSchema",
    }


def test_a_source_that_is_not_there_is_an_error(tree: Path) -> None:
    with pytest.raises(FileNotFoundError):
        source_digest.source_digest("components/none")
