"""Properties of YAML files: no key is lost, and every fault is a sentence that names file and line."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from two_tower.base import yaml_files
from two_tower.base.errors import UserError


def read(path: Path, text: str) -> Any:
    path.write_text(text)
    return yaml_files.read(str(path), "column map")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: 1\nb: 2\na: 3\n", "3: key 'a' is a duplicate of line 1"),
        ("a:\n  b: {c: 1, c: 2}\n", "2: key 'c' is a duplicate of line 2"),
        ("- x: 1\n- y: 1\n  z: 2\n  y: 3\n", "4: key 'y' is a duplicate of line 2"),
        # A merge takes keys over without building the mapping itself.
        ("<<: {a: 1,\n a: 2}\n", "2: key 'a' is a duplicate of line 1"),
        ("x: &x {a: 1}\ny:\n  <<: *x\n  <<: {b: 1}\n", "4: key '<<' is a duplicate of line 3"),
        ('{"a": 1,\n "a": 2}', "2: key 'a' is a duplicate of line 1"),
        ("yes: 1\n", "1: key yes is no text: write 'yes'"),
        ("a: 1\n5: 2\n", "2: key 5 is no text: write '5'"),
        ("? [a, b]\n: 1\n", "1: a key is no text, but a list"),
        ("a: 1\nb: 2021-13-45\n", "2: '2021-13-45' is no timestamp"),
        ("a: !!int abc\n", "1: 'abc' is no int"),
        ("a: !!bool maybe\n", "1: 'maybe' is no bool"),
        ("a: !!timestamp soon\n", "1: 'soon' is no timestamp"),
        ("a: 0x_\n", "1: '0x_' is no int"),
        (f"a: {'9' * 5_000}\n", r"1: '9{40}... \(5,000 characters\)' is no int"),
        (f"a: {'9' * 400}\n", "1: .* is beyond the whole numbers of 64 bits"),
        ("[" * 3_000, "1: values are nested more than 50 deep"),
        ("\n".join("  " * depth + "a:" for depth in range(1_000)), "50: values are nested more than 50 deep"),
        ("a: &a [*a]\n", "1: an alias stands within its own anchor"),
        ("a: &a\n  b: *a\n", "2: an alias stands within its own anchor"),
        ('a: "\\uD800"\n', "1: '.*' holds half of a surrogate pair"),
        ('a: "x\\0y"\n', "1: 'x.*y' holds a null character"),
    ],
    ids=lambda text: text[:24],
)
def test_a_fault_is_named_with_file_and_line(text: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=f"file.yaml:{message}"):
        read(tmp_path / "file.yaml", text)


def test_aliases_cannot_stand_for_any_number_of_values(tmp_path: Path) -> None:
    laughs = ["a0: &a0 [1, 1]"]
    laughs += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, 9)]
    with pytest.raises(UserError, match=r"file\.yaml:6: aliases stand for more than 100,000 values"):
        read(tmp_path / "file.yaml", "\n".join(laughs))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: [1\n", "file.yaml: not YAML"),
        ("a: 1\n---\na: 2\n", "file.yaml: not YAML"),
        ("a: !!python/object/apply:os.getcwd []\n", "file.yaml: not YAML"),
        ("a: \x07\n", "file.yaml: not YAML"),
        ("a: " + "x" * (1 << 20), "no column map: it has more than 1,048,576 characters"),
    ],
    ids=lambda text: text[:24],
)
def test_what_is_no_yaml_is_named(text: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=message):
        read(tmp_path / "file.yaml", text)


def test_a_place_that_is_no_file_is_named(tmp_path: Path) -> None:
    for place, message in ((tmp_path / "none", "is missing"), (tmp_path, "cannot be read")):
        with pytest.raises(UserError, match=f"{place}: the config file {message}"):
            yaml_files.read(str(place), "config file")
    (tmp_path / "latin").write_bytes("ä: 1".encode("latin-1"))
    with pytest.raises(UserError, match="latin: not YAML: the file is not UTF-8"):
        yaml_files.read(str(tmp_path / "latin"), "config file")


@pytest.mark.parametrize(
    "text",
    [
        "base: &base {a: 1, 'on': [2, 2]}\nother:\n  <<: *base\n  a: 3\n",
        "",
        "\ufeffa: [1, -2.5, null, true, 2024-05-31, x]\n",
        '{"a": {"b": [1e3, "é"]}}',
    ],
)
def test_other_content_is_read_as_yaml_reads_it(text: str, tmp_path: Path) -> None:
    assert read(tmp_path / "file.yaml", text) == yaml.safe_load(text)
