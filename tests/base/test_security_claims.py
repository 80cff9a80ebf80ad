"""Claims of SECURITY.md: the versions are the pinned ones, and no room builds objects from a file's text."""

from __future__ import annotations

import ast
import functools
import re
from pathlib import Path

import two_tower

ROOT = Path(two_tower.__file__).parents[1]
# Modules and functions that run what a file names.
UNPICKLERS = ("pickle", "dill", "cloudpickle", "joblib", "shelve", "marshal", "torch")
LOADERS = ("yaml.load", "yaml.unsafe_load", "yaml.full_load", "tf.keras.models.load_model", "eval", "exec")


@functools.cache
def nodes() -> list[tuple[str, ast.AST]]:
    """Returns the nodes of all modules of the rooms, each with its file."""
    return [
        (str(path.relative_to(ROOT)), node)
        for path in sorted(ROOT.glob("two_tower/*/**/*.py"))
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Import | ast.ImportFrom | ast.Call)
    ]


def test_the_versions_named_are_the_pinned_ones() -> None:
    pins = dict(re.findall(r"^([\w.-]+)==(\S+)", (ROOT / "constraints.txt").read_text(), re.MULTILINE))
    text = (ROOT / "SECURITY.md").read_text(encoding="utf-8")
    named = [
        one
        for line in text.splitlines()
        if re.match(r"\| [a-z]", line)
        for one in re.findall(r"\b([a-z][a-z0-9-]+) (\d+(?:\.\d+)+)", line.split("|")[1])
    ]
    assert len(named) > 10
    assert [(name, version) for name, version in named if pins.get(name) != version] == []


def test_no_room_imports_what_unpickles() -> None:
    found = []
    for path, node in nodes():
        names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
        found += [(path, name) for name in names if name.split(".")[0] in UNPICKLERS]
    assert found == []


def test_no_room_runs_what_a_file_names() -> None:
    calls = [(path, node) for path, node in nodes() if isinstance(node, ast.Call)]
    assert len(calls) > 1_000
    assert [(path, ast.unparse(call)) for path, call in calls if ast.unparse(call.func) in LOADERS] == []
    words = [(path, word.arg) for path, call in calls for word in call.keywords]
    assert [(path, word) for path, word in words if word in ("allow_pickle", "shell")] == []
