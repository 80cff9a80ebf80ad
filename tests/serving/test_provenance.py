"""Digests of models, and the order in which models may follow each other."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
from pathlib import Path
from typing import Any

import pytest

from two_tower.base.errors import UserError
from two_tower.data_directory.facts import FROZEN_PROTOCOLS
from two_tower.serving import provenance
from two_tower.serving.provenance import (
    ModelIdentity,
    digest_of,
    eligibility,
    identity_of,
    is_of_older_data,
    starting_point,
    takes_items_back,
)

RECORDED = {"dataset": "log", "index": {"leaves": 10, "tuning": {"ms": 0.4}}}


def written(folder: Path, files: dict[str, bytes]) -> str:
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    return str(folder)


def hashed(files: list[tuple[str, bytes]]) -> str:
    parts = [name.encode() + b"\0" + len(content).to_bytes(8, "big") + content for name, content in files]
    return "sha256:" + hashlib.sha256(b"".join(parts)).hexdigest()


FILES = {
    "variables/variables.index": b"index",
    "saved_model.pb": b"graph",
    "fingerprint.pb": b"print",
    "assets.extra/provenance.json": json.dumps(RECORDED).encode(),
    "assets/words.txt": b"a\nb",
    "variables/variables.data": b"0" * 100,
}


def test_a_digest_is_over_names_sizes_and_bytes_folder_by_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Checks the published form: records of earlier releases hold such digests."""
    order = [
        "fingerprint.pb",
        "saved_model.pb",
        "assets/words.txt",
        "assets.extra/provenance.json",
        "variables/variables.data",
        "variables/variables.index",
    ]
    expected = hashed([(name, FILES[name]) for name in order])
    path = written(tmp_path, FILES)
    assert digest_of(path) == expected
    monkeypatch.setattr(provenance, "_BLOCK", 7)  # bytes at once
    assert digest_of(path) == expected


def test_an_identity_leaves_out_the_graph_and_the_tunings_times(tmp_path: Path) -> None:
    chosen: dict[str, Any] = {"dataset": "log", "index": {"leaves": 10}}
    files = [
        ("assets/words.txt", FILES["assets/words.txt"]),
        ("assets.extra/provenance.json", json.dumps(chosen, sort_keys=True).encode()),
        ("variables/variables.data", FILES["variables/variables.data"]),
        ("variables/variables.index", FILES["variables/variables.index"]),
    ]
    assert identity_of(written(tmp_path / "a", FILES)) == hashed(files)
    # What is no object of JSON counts by its bytes.
    for content in (b"[1]", b"\xff", b"{"):
        damaged = written(tmp_path / content.hex(), {**FILES, "assets.extra/provenance.json": content})
        assert identity_of(damaged) == hashed([files[0], (files[1][0], content), *files[2:]])
    # Numbers may be NaN, and the order of keys says nothing.
    unordered = b'{"z": NaN, "index": {"tuning": 1, "leaves": 10}, "a": 1}'
    path = written(tmp_path / "unordered", {**FILES, "assets.extra/provenance.json": unordered})
    ordered = b'{"a": 1, "index": {"leaves": 10}, "z": NaN}'
    assert identity_of(path) == hashed([files[0], (files[1][0], ordered), *files[2:]])
    read = provenance.read(path)
    assert read is not None and math.isnan(read["z"]) and read["a"] == 1
    index = written(tmp_path / "b", {**FILES, "assets.extra/provenance.json": b'{"index": 3}'})
    assert identity_of(index) == hashed([files[0], (files[1][0], b'{"index": 3}'), *files[2:]])


def test_towers_have_an_identity_while_their_files_are_there(tmp_path: Path) -> None:
    path = written(tmp_path / "Format-Serving", FILES)
    assert provenance.towers_digest(str(tmp_path)) == identity_of(path)
    assert provenance.towers_digest(str(tmp_path / "gone")) is None


@pytest.mark.parametrize(
    ("candidate", "in_service", "back"),
    [
        ({"data_digest": "d"}, {"data_digest": "d", "items_digest": "i"}, True),
        ({"data_digest": "d", "items_digest": "i"}, {"data_digest": "d", "items_digest": "i"}, False),
        ({"data_digest": "e"}, {"data_digest": "d", "items_digest": "i"}, False),
        ({"data_digest": "d"}, {"data_digest": "d"}, False),
        (None, {"data_digest": "d", "items_digest": "i"}, False),
        ({"data_digest": "d"}, None, False),
    ],
)
def test_a_model_may_not_take_released_items_back(candidate: Any, in_service: Any, back: bool) -> None:
    assert takes_items_back(candidate, in_service) is back


def ending(at: int | None, dataset: str = "log") -> dict[str, Any]:
    return {"dataset": dataset} | ({} if at is None else {"train_newest_timestamp": at})


@pytest.mark.parametrize(
    ("candidate", "in_service", "older"),
    [
        (ending(10), ending(11), True),
        (ending(1), ending(2), True),
        (ending(11), ending(11), False),
        (ending(12), ending(11), False),
        # Without a split in time there is no end.
        (ending(0), ending(11), False),
        (ending(None), ending(11), False),
        (ending(10), ending(None), False),
        (ending(10), ending(11, "other"), False),
        (None, ending(11), False),
        (ending(10), None, False),
    ],
)
def test_a_model_is_of_older_data_by_its_trainings_end(candidate: Any, in_service: Any, older: bool) -> None:
    assert is_of_older_data(candidate, in_service) is older


WHOLE = {
    "data": "d", "label_event": "listen", "repeats_recommendable": True, "train_newest_timestamp": 5,
    "history_length": 20, "max_k": 100,
}  # fmt: skip


def recorded_as(folder: Path, content: Any) -> str:
    return written(folder, {"assets.extra/provenance.json": json.dumps(content).encode()})


@pytest.mark.parametrize("key", WHOLE)
def test_a_model_that_is_asked_records_each_key_with_its_type(key: str, tmp_path: Path) -> None:
    assert provenance.read_whole(recorded_as(tmp_path / "whole", WHOLE)) == WHOLE
    others: list[Any] = [None, 1.5, [], {}, *([-1, 2**63] if isinstance(WHOLE[key], int) else [])]
    others.append(1 if isinstance(WHOLE[key], (str, bool)) else "1")
    for number, value in enumerate(others):
        path = recorded_as(tmp_path / str(number), {**WHOLE, key: value})
        with pytest.raises(UserError, match=f"provenance.json.*'{key}'"):
            provenance.read_whole(path)
    lacking = recorded_as(tmp_path / "lacking", {name: WHOLE[name] for name in WHOLE if name != key})
    with pytest.raises(UserError, match=f"key '{key}' is None, and needs a value of type"):
        provenance.read_whole(lacking)


def test_the_greatest_integer_is_none_too_many(tmp_path: Path) -> None:
    for number, value in enumerate((0, 2**63 - 1)):
        content = {**WHOLE, "train_newest_timestamp": value}
        assert provenance.read_whole(recorded_as(tmp_path / str(number), content)) == content
    path = recorded_as(tmp_path / "index", {**WHOLE, "index": [3]})
    with pytest.raises(UserError, match=r"key 'index' is \[3\], and needs an object"):
        provenance.read_whole(path)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("dataset", 3),
        ("data_digest", None),
        ("train_newest_timestamp", True),
        ("protocol", 1),
        ("split_digest", []),
        ("max_k", "100"),
    ],
)
def test_a_key_that_models_are_compared_by_has_its_type(key: str, value: Any, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=f"provenance.json is damaged .*key '{key}' is "):
        provenance.read(recorded_as(tmp_path, {key: value}))
    assert provenance.read(str(tmp_path / "gone")) is None


OURS = ModelIdentity("sha256:new", "log", "sha256:data-2", 2_900, "next_event", "sha256:split")


@pytest.mark.parametrize(
    ("protocol", "changes", "reason"),
    [
        ("next_event", {}, "comes from the same data set and has not seen today's test period."),
        ("leave_one_out", {}, "was trained on the same split of the same data."),
        ("next_event", {"dataset": "other"}, "comes from other data: other. This one comes from log."),
        (
            "next_event",
            {"train_newest_timestamp": 3_000},
            "was trained on today's test period. Its events end",
        ),
        ("next_event", {"digest": "sha256:new"}, "is this very model."),
        (
            "leave_one_out",
            {"data_digest": "d"},
            "was trained on another version of the data. Under leave_one_out",
        ),
        (
            "leave_one_out",
            {"split_digest": "s"},
            "was trained with other settings of the split or other spans.",
        ),
        (
            "next_event",
            {"protocol": "leave_one_out"},
            "was trained under the protocol leave_one_out, this one",
        ),
    ],
)
def test_a_reason_names_the_released_model_that_it_is_of(
    protocol: str, changes: dict[str, Any], reason: str
) -> None:
    ours = dataclasses.replace(OURS, protocol=protocol)
    theirs = dataclasses.replace(ours, **{"digest": "sha256:old", "train_newest_timestamp": 2_000, **changes})
    for who in ("best released model", "latest blessed model"):
        told = eligibility(ours, theirs, 3_000, who)[1]
        assert told.startswith(f"The {who} {reason}"), told


def test_training_starts_from_a_model_that_ends_no_later() -> None:
    known = "The latest blessed model has not seen events after today's train split."
    assert starting_point(OURS, OURS) == (True, known)
    later = dataclasses.replace(OURS, train_newest_timestamp=2_901)
    assert starting_point(OURS, later) == (
        False,
        "The latest blessed model was trained on events up to 2901, and today's train split ends at 2900. It "
        "knows labels of today's eval or test.",
    )
    foreign = dataclasses.replace(OURS, dataset="other")
    assert starting_point(OURS, foreign)[1].startswith("The latest blessed model comes from other data")
    assert starting_point(OURS, None) == (False, "No model has been blessed yet.")


def test_frozen_protocols_are_one_family_and_split_by_time() -> None:
    frozen, other = sorted(FROZEN_PROTOCOLS)[:2]
    ours = dataclasses.replace(OURS, protocol=frozen)
    theirs = dataclasses.replace(ours, protocol=other, digest="sha256:old", data_digest="d", split_digest="s")
    assert eligibility(ours, theirs, 3_000)[0]
    assert not eligibility(ours, dataclasses.replace(theirs, protocol="next_event"), 3_000)[0]
