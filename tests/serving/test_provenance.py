"""Digests of models, and the order in which models may follow each other."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
from pathlib import Path
from typing import Any

import pytest

from tests.published_models import model
from two_tower.base.errors import UserError
from two_tower.data_directory.facts import FROZEN_PROTOCOLS, DataFacts
from two_tower.schema.request_inputs import IdKinds
from two_tower.schema.text_ids import TEXT
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


def test_equal_digests_mean_equal_files(tmp_path: Path) -> None:
    ours = digest_of(model(tmp_path / "a"))
    assert digest_of(model(tmp_path / "elsewhere" / "b")) == ours
    assert digest_of(model(tmp_path / "c", weights="v")) != ours
    # The same bytes, distributed differently over files and names.
    assert digest_of(model(tmp_path / "d", weights="", graph="gw")) != ours
    (tmp_path / "a" / "variables").rename(tmp_path / "a" / "other")
    assert digest_of(str(tmp_path / "a")) != ours


def test_a_model_is_known_by_its_weights_and_not_by_the_bytes_of_its_graph(tmp_path: Path) -> None:
    # The same training in another run's folder writes another graph: it holds paths.
    ours = identity_of(model(tmp_path / "a"))
    assert identity_of(model(tmp_path / "b", graph="of another run")) == ours
    assert identity_of(model(tmp_path / "c", weights="v")) != ours
    code = tmp_path / "d" / "assets.extra" / "provenance.json"
    other = model(tmp_path / "d")
    code.parent.mkdir()
    recorded = {"code": "edited", "index": {"leaves": 10, "tuning": {"ms_per_query": 0.4}}}
    code.write_text(json.dumps(recorded))
    edited = identity_of(other)
    assert edited != ours
    # The index's tuning measures times, which differ from run to run; what it chose counts.
    recorded["index"] = {"leaves": 10, "tuning": {"ms_per_query": 0.5}}
    code.write_text(json.dumps(recorded))
    assert identity_of(other) == edited
    recorded["index"] = {"leaves": 20, "tuning": {"ms_per_query": 0.5}}
    code.write_text(json.dumps(recorded))
    assert identity_of(other) != edited


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


@pytest.mark.parametrize("content", ["", "[]", "[" * 100_000, "{}", '{"data": 7}', "\udcff"])
def test_a_model_that_is_asked_has_a_whole_provenance(content: str, tmp_path: Path) -> None:
    folder = Path(model(tmp_path / "a"))
    (folder / "assets.extra").mkdir()
    path = folder / "assets.extra" / "provenance.json"
    path.write_text(content, errors="surrogateescape")
    with pytest.raises(UserError, match=rf"{path}( is damaged|: key 'data' is)"):
        provenance.read_whole(str(folder))
    path.unlink()
    with pytest.raises(UserError, match=rf"{path} cannot be read"):
        provenance.read_whole(str(folder))
    assert identity_of(str(folder))


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


CANDIDATE = ModelIdentity("sha256:new", "simulated-7", "sha256:data-2", 2_900, "next_event", "sha256:split")
EARLIER = ModelIdentity("sha256:old", "simulated-7", "sha256:data-1", 1_900, "next_event", "sha256:split")


@pytest.mark.parametrize(
    ("blessed", "eligible", "reason"),
    [
        (EARLIER, True, "same data set"),
        (None, False, "No model has been blessed yet"),
        (CANDIDATE, False, "this very model"),
        (dataclasses.replace(EARLIER, dataset="yambda"), False, "other data: yambda"),
        (dataclasses.replace(EARLIER, ids=IdKinds(item_id=TEXT)), False, "knows items by other ids (text by"),
        (dataclasses.replace(EARLIER, ids=IdKinds(user_id=TEXT)), False, "knows users by other ids (text by"),
        (dataclasses.replace(EARLIER, train_newest_timestamp=3_000), False, "today's test period"),
        (dataclasses.replace(EARLIER, train_newest_timestamp=2_999), True, "same data set"),
    ],
)
def test_a_model_is_compared_with_only_if_that_is_fair(
    blessed: ModelIdentity | None, eligible: bool, reason: str
) -> None:
    verdict, why = eligibility(CANDIDATE, blessed, test_start=3_000)
    assert verdict is eligible
    assert reason in why


@pytest.mark.parametrize("protocol", ["frozen", "leave_one_out", "split_column"])
def test_a_model_of_another_protocol_may_have_seen_the_labels(protocol: str) -> None:
    # In whatever order they came.
    for ours, theirs in ((protocol, "next_event"), ("next_event", protocol)):
        candidate = dataclasses.replace(CANDIDATE, protocol=ours)
        verdict, why = eligibility(candidate, dataclasses.replace(EARLIER, protocol=theirs), test_start=3_000)
        assert not verdict
        assert ours in why and theirs in why


def test_a_frozen_model_is_judged_by_its_times() -> None:
    candidate, earlier = (dataclasses.replace(model, protocol="frozen") for model in (CANDIDATE, EARLIER))
    assert eligibility(candidate, earlier, test_start=3_000)[0]
    assert not eligibility(candidate, earlier, test_start=1_900)[0]


@pytest.mark.parametrize("protocol", ["leave_one_out", "split_column"])
def test_without_a_split_in_time_the_data_must_be_the_same(protocol: str) -> None:
    """Takes two days: a user's last event of yesterday is in train today."""
    candidate, earlier = (
        dataclasses.replace(model, protocol=protocol, train_newest_timestamp=0)
        for model in (CANDIDATE, EARLIER)
    )
    verdict, why = eligibility(candidate, earlier, test_start=0)
    assert not verdict and "another version of the data" in why
    same_data = dataclasses.replace(earlier, data_digest=candidate.data_digest)
    assert eligibility(candidate, same_data, test_start=0)[0]
    other_split = dataclasses.replace(same_data, split_digest="sha256:fewer spans")
    verdict, why = eligibility(candidate, other_split, test_start=0)
    assert not verdict and "other spans" in why
    assert not eligibility(candidate, candidate, test_start=0)[0]


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({}, None),
        # As today's own, which a run that is repeated begins from.
        ({"train_newest_timestamp": 2_900, "digest": "sha256:new"}, None),
        # After today's train split, if only by a second, lie the labels of eval.
        ({"train_newest_timestamp": 2_901}, "up to 2901, and today's train split ends at 2900"),
        ({"dataset": "yambda"}, "other data: yambda"),
        ({"protocol": "frozen"}, "under the protocol frozen"),
    ],
)
def test_training_begins_only_from_a_model_that_knows_no_label_of_eval_or_test(
    changes: dict[str, Any], reason: str | None
) -> None:
    today = dataclasses.replace(CANDIDATE, digest="")
    allowed, why = starting_point(today, dataclasses.replace(EARLIER, **changes))
    assert allowed is (reason is None)
    known = "The latest blessed model has not seen events after today's train split."
    assert why == known if reason is None else reason in why
    assert why.startswith("The latest blessed model ")
    assert starting_point(today, None) == (False, "No model has been blessed yet.")


def test_without_a_split_in_time_training_begins_only_from_a_model_of_the_same_split() -> None:
    today, earlier = (
        dataclasses.replace(model, protocol="leave_one_out", train_newest_timestamp=0)
        for model in (CANDIDATE, EARLIER)
    )
    assert "another version of the data" in starting_point(today, earlier)[1]
    assert starting_point(today, dataclasses.replace(earlier, data_digest=today.data_digest))[0]


def test_an_identity_is_read_from_the_model_s_own_record() -> None:
    provenance = {"dataset": "yambda", "data_digest": "sha256:d", "train_newest_timestamp": 5, "items": 3}
    # From before there was a second protocol.
    expected = ModelIdentity("sha256:m", "yambda", "sha256:d", 5, "next_event", "")
    assert ModelIdentity.from_provenance(provenance, "sha256:m") == expected
    frozen = dataclasses.replace(expected, protocol="frozen", split_digest="sha256:s")
    named = {"protocol": "frozen", "split_digest": "sha256:s"}
    assert ModelIdentity.from_provenance({**provenance, **named}, "sha256:m") == frozen


@pytest.mark.parametrize(
    ("protocol", "changes", "reason"),
    [
        ("next_event", {}, "comes from the same data set and has not seen today's test period."),
        ("leave_one_out", {}, "was trained on the same split of the same data."),
        (
            "next_event",
            {"dataset": "other"},
            "comes from other data: other. This one comes from simulated-7.",
        ),
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
    ours = dataclasses.replace(CANDIDATE, protocol=protocol)
    theirs = dataclasses.replace(ours, **{"digest": "sha256:old", "train_newest_timestamp": 2_000, **changes})
    for who in ("best released model", "latest blessed model"):
        told = eligibility(ours, theirs, 3_000, who)[1]
        assert told.startswith(f"The {who} {reason}"), told


def test_frozen_protocols_are_one_family_and_split_by_time() -> None:
    frozen, other = sorted(FROZEN_PROTOCOLS)[:2]
    ours = dataclasses.replace(CANDIDATE, protocol=frozen)
    theirs = dataclasses.replace(ours, protocol=other, digest="sha256:old", data_digest="d", split_digest="s")
    assert eligibility(ours, theirs, 3_000)[0]
    assert not eligibility(ours, dataclasses.replace(theirs, protocol="next_event"), 3_000)[0]


@pytest.mark.parametrize(("train_end", "newest"), [(0, 0), (1, 0), (2, 1), (2_901, 2_900)])
def test_a_model_records_the_facts_of_its_data_and_its_newest_training_event(
    train_end: int, newest: int
) -> None:
    facts = DataFacts(
        data="data", data_digest="sha256:d", dataset="log", label_event="listen", repeats_recommendable=True,
        has_timestamps=True, user_ids="integer", item_ids=TEXT, protocol="frozen", split_digest="sha256:s",
        train_end=train_end, eval_from=3_000, eval_to=3_100, test_from=3_200, test_to=3_300,
        users_are_new=True,
    )  # fmt: skip
    recorded = provenance.recorded(facts)
    assert recorded == {
        "data": "data", "data_digest": "sha256:d", "dataset": "log", "label_event": "listen",
        "repeats_recommendable": True, "has_timestamps": True, "user_ids": "integer", "item_ids": TEXT,
        "protocol": "frozen", "split_digest": "sha256:s", "train_end": train_end, "eval_from": 3_000,
        "eval_to": 3_100, "test_from": 3_200, "test_to": 3_300, "users_are_new": True,
        "train_newest_timestamp": newest,
    }  # fmt: skip
    assert ModelIdentity.to_be_trained(facts) == ModelIdentity(
        "", "log", "sha256:d", newest, "frozen", "sha256:s", IdKinds.of(recorded)
    )
