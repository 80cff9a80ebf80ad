"""Digests of import closures: cache keys that change, and so rerun a component, after edits of its imports.

The import closure of a module contains the project's modules that it imports, directly or indirectly, also
inside functions. It contains the modules named in strings, as for `python -m` and `run_fn`. Comments,
docstrings and help texts do not count. Data files of a package in the closure do. So do the versions in
constraints.txt of each imported package and of its requirements.
"""

from __future__ import annotations

import ast
import functools
import hashlib
import importlib.metadata
import re
import sys
from collections.abc import Iterator
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

_PROJECT = __name__.split(".")[0]
_ROOT = Path(__file__).parent.parent
# Keyword argument of explanatory texts that change no result.
_EXPLANATION = "help"
# Suffixes of data files that a package reads; setup.py installs the same. An editor's files have others.
DATA_SUFFIXES = frozenset({".pbtxt", ".j2", ".css"})
_PIN = re.compile(r"^([\w.-]+)==([^\s;\\]+)", re.MULTILINE)


def import_digest(*modules: str) -> str:
    """Returns the sha256 over the import closure of modules.

    Args:
      modules: dotted names, such as an executor's `__module__`.

    Raises:
      ModuleNotFoundError: the project has no such module.
    """
    digest = hashlib.sha256()
    packages: set[str] = set()
    for module in sorted(import_closure(*modules)):
        file = _module_file(module)
        code = file.read_bytes()
        packages |= {name for name in _imported(code, module) if not _is_ours(name)}
        digest.update(f"{module}\0{_without_explanations(code)}\0".encode())
        for data in _package_data(file):
            digest.update(f"{module}/{data.name}\0".encode() + data.read_bytes())
    for name, version in sorted(_pinned_versions(packages).items()):
        digest.update(f"{name}=={version}\0".encode())
    return digest.hexdigest()


def import_closure(*modules: str) -> set[str]:
    """Returns the dotted names of the project's modules that `modules` import, including `modules`.

    Raises:
      ModuleNotFoundError: the project has no such module.
    """
    for module in modules:
        if not _is_module(module):
            raise ModuleNotFoundError(f"There is no module {module} below {_ROOT}.")
    found: set[str] = set()
    waiting = [parent for module in modules for parent in _with_packages(module)]
    while waiting:
        module = waiting.pop()
        if module not in found:
            found.add(module)
            names = filter(_is_ours, _imported(_module_file(module).read_bytes(), module))
            waiting += [parent for name in names for parent in _with_packages(name)]
    return found


def _with_packages(module: str) -> list[str]:
    """Returns the module and its enclosing packages, whose `__init__` runs first."""
    parts = module.split(".")
    names = [".".join(parts[: end + 1]) for end in range(len(parts))]
    return [name for name in names if _is_module(name)]


def _imported(code: bytes, module: str) -> set[str]:
    """Returns the modules that code imports or names in a string; other packages by their top-level name."""
    is_package = _module_file(module).name == "__init__.py"
    around = module.split(".") if is_package else module.split(".")[:-1]
    return {
        known
        for name, level, is_text in _names_in_code(code)
        if not is_text or _is_module(_longest_module(name))
        for known in [
            _longest_module(".".join([*around[: len(around) + 1 - level], name]) if level else name)
        ]
    }


@functools.cache
def _names_in_code(code: bytes) -> frozenset[tuple[str, int, bool]]:
    """Returns dotted names in code, each with its relative import level and whether it stands in a string."""
    found: set[tuple[str, int, bool]] = set()
    for node in _executed_nodes(ast.parse(code)):
        if isinstance(node, ast.Import):
            found |= {(alias.name, 0, False) for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = f"{node.module}." if node.module else ""
            found |= {(f"{base}{alias.name}", node.level, False) for alias in node.names}
        elif isinstance(node, ast.Constant) and str(node.value).startswith(f"{_PROJECT}."):
            found.add((str(node.value), 0, True))
    return frozenset(found)


def _executed_nodes(node: ast.AST) -> Iterator[ast.AST]:
    """Walks the code that is executed: all except docstrings and bodies of `if TYPE_CHECKING`."""
    yield node
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.If) and ast.unparse(child.test) in ("TYPE_CHECKING", "typing.TYPE_CHECKING"):
            for alternative in child.orelse:
                yield from _executed_nodes(alternative)
        elif not (isinstance(child, ast.Expr) and isinstance(child.value, ast.Constant)):
            yield from _executed_nodes(child)


def _longest_module(name: str) -> str:
    """Returns the longest prefix of a dotted name that is a module of the project, or else its first part."""
    parts = name.split(".")
    for end in range(len(parts), 0, -1):
        if _is_module(".".join(parts[:end])):
            return ".".join(parts[:end])
    return parts[0]


def _is_ours(name: str) -> bool:
    return name.split(".")[0] == _PROJECT


def _is_module(name: str) -> bool:
    return bool(re.fullmatch(r"\w+(\.\w+)*", name)) and _is_ours(name) and _module_file(name).is_file()


def _module_file(module: str) -> Path:
    path = _ROOT.joinpath(*module.split(".")[1:])
    return path / "__init__.py" if path.is_dir() else path.with_suffix(".py")


def _package_data(file: Path) -> list[Path]:
    """Returns the data files of a room's package, such as schemas and templates; a plain module has none."""
    if file.name != "__init__.py" or file.parent == _ROOT:
        return []
    return sorted(path for path in file.parent.iterdir() if path.suffix in DATA_SUFFIXES)


@functools.cache
def _without_explanations(code: bytes) -> str:
    """Returns code as text, without comments, docstrings and help texts."""
    tree = ast.parse(code)
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            node.body = [
                statement
                for statement in node.body
                if not (
                    isinstance(statement, ast.Expr)
                    and isinstance(statement.value, ast.Constant)
                    and isinstance(statement.value.value, str)
                )
            ]
        elif isinstance(node, ast.Call):
            node.keywords = [one for one in node.keywords if one.arg != _EXPLANATION]
    return ast.dump(tree)


def _pinned_versions(packages: set[str]) -> dict[str, str]:
    """Returns the versions of the distributions that provide packages, and of their requirements."""
    pins = _pins()
    versions: dict[str, str] = {}
    waiting = [
        distribution
        for package in packages - set(sys.stdlib_module_names)
        for distribution in _distributions().get(package, ())
    ]
    while waiting:
        name = canonicalize_name(waiting.pop())
        if name not in versions and name in pins:
            versions[name] = pins[name]
            waiting += _requirements(name)
    return versions


def _pins() -> dict[str, str]:
    text = (_ROOT / "constraints.txt").read_text(encoding="utf-8")
    return {canonicalize_name(name): version for name, version in _PIN.findall(text)}


@functools.cache
def _distributions() -> dict[str, list[str]]:
    """Returns the distributions that provide each top-level package."""
    found: dict[str, list[str]] = {}
    for distribution in importlib.metadata.distributions():
        # Wheels of newer build tools have only a list of files.
        listed = distribution.read_text("top_level.txt") or distribution.read_text("RECORD") or ""
        for package in {re.split(r"[/.,]", line, maxsplit=1)[0] for line in listed.split()}:
            found.setdefault(package, []).append(distribution.metadata["Name"])
    return found


@functools.cache
def _requirements(distribution: str) -> tuple[str, ...]:
    """Returns the names of a distribution's requirements without extras."""
    try:
        listed = importlib.metadata.requires(distribution) or []
    except importlib.metadata.PackageNotFoundError:
        return ()
    required = [Requirement(text) for text in listed]
    return tuple(one.name for one in required if one.marker is None or one.marker.evaluate({"extra": ""}))
