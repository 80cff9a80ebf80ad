"""Tests of the YAML loader for files that users write."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from two_tower.base.errors import UserError
from two_tower.base.unique_keys import UniqueKeys


def read(path: Path, text: str) -> Any:
    path.write_text(text)
    with path.open() as file:
        return yaml.load(file, UniqueKeys)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: 1\nb: 2\na: 3\n", "3: key 'a' is a duplicate"),
        ("a:\n  b: {c: 1, c: 2}\n", "2: key 'c' is a duplicate"),
        ("yes: 1\n", "1: key yes is no text: write 'yes'"),
        ("a: 1\n5: 2\n", "2: key 5 is no text: write '5'"),
        ("? [a, b]\n: 1\n", "1: a key is no text, but a list"),
    ],
)
def test_a_wrong_key_is_named_with_file_and_line(text: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "file.yaml"
    with pytest.raises(UserError, match=f"file.yaml:{message}"):
        read(path, text)


def test_other_content_is_read_as_yaml_reads_it(tmp_path: Path) -> None:
    text = "base: &base {a: 1, 'on': [2, 2]}\nother:\n  <<: *base\n  a: 3\n"
    assert read(tmp_path / "file.yaml", text) == yaml.safe_load(text)
