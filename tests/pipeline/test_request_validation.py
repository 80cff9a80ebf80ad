from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from two_tower.base.errors import UserError
from two_tower.pipeline.checks.request_validation import _by_number, validate_requests
from two_tower.schema.request_inputs import REQUEST_INPUTS, IdKinds
from two_tower.schema.text_ids import INTEGER, TEXT, number_of

GOOD: dict[str, Any] = {
    "user_id": 17,
    "history_item_id": [3, 1, 2, -1],
    "history_timestamp": [10, 10, 30, -1],
    "history_play_ratio": [0.5, 1, -1.0, -1],
    "history_event_type": ["", "listen", "like", ""],
    "history_is_organic": [1, 0, -1, -1],
    "request_timestamp": 40,
    "exclude_item_id": [5, -1],
    "k": 10,
}


def written(path: Path, *lines: Any) -> str:
    file = path / "requests.jsonl"
    file.write_text("\n".join(line if isinstance(line, str) else json.dumps(line) for line in lines))
    return str(file)


def test_rows_and_whole_bodies_are_taken(tmp_path: Path) -> None:
    least = {name: GOOD[name] for name in ("user_id", "history_item_id", "history_timestamp")}
    new_user = {"user_id": 1, "history_item_id": [], "history_timestamp": [], "request_timestamp": -1}
    rows = {"signature_name": "serving_default", "instances": [least, {**least, "user_id": 18}]}
    lines = validate_requests(written(tmp_path, GOOD, "", rows, {"instances": [new_user]}), None, 0.3)
    assert "4 requests" in lines[0]


COLUMNS: dict[str, Any] = {
    "user_id": [17, 18],
    "history_item_id": [[3, 1, 2], [4, -1, -1]],
    "history_timestamp": [[10, 20, 30], [10, -1, -1]],
    "history_play_ratio": [[-1]],
    "exclude_item_id": [[5, 6], [-1, -1]],
    "request_timestamp": [-1],
    "k": 10,
}


def test_the_columns_of_a_body_are_taken(tmp_path: Path) -> None:
    none: dict[str, list[Any]] = {name: [] for name in ("user_id", "history_item_id", "history_timestamp")}
    lines = validate_requests(written(tmp_path, {"inputs": COLUMNS}, {"inputs": none}, GOOD), None, 0.3)
    assert "3 requests" in lines[0]


TEXTS: dict[str, Any] = {
    "user_id": "zoe",
    "history_item_id": ["b-2", "a-1", ""],
    "history_timestamp": [10, 30, -1],
    "exclude_item_id": ["c-3"],
}


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"user_id": 17}, "line 2: user_id is 17, where a text is expected"),
        ({"history_item_id": ["b-2", 3, ""]}, "line 2: history_item_id[1] is 3, where a text is expected"),
        ({"history_timestamp": [30, 10, -1]}, "line 2: history_timestamp[1] is 10, after 30"),
        ({"history_timestamp": [10, -5, -1]}, "line 2: history_timestamp[1] is -5, where values from 0"),
        ({"allow_item_id": [3]}, "line 2: allow_item_id[0] is 3, where a text is expected"),
    ],
)
def test_requests_of_text_ids_are_told_by_the_first(
    changes: dict[str, Any], told: str, tmp_path: Path
) -> None:
    assert "2 requests" in validate_requests(written(tmp_path, TEXTS, TEXTS), None, 0.3)[0]
    with pytest.raises(UserError) as found:
        validate_requests(written(tmp_path, TEXTS, {**TEXTS, **changes}), None, 0.3)
    assert told in str(found.value)


def test_columns_of_text_ids_are_told_by_the_first_and_padded_by_the_empty_text(tmp_path: Path) -> None:
    columns = {
        "user_id": ["zoe", "amy"],
        "history_item_id": [["b-2", "a-1"], ["c-3", ""]],
        "history_timestamp": [[10, 30], [10, -1]],
        "exclude_item_id": [[""]],
        "k": 3,
    }
    assert "2 requests" in validate_requests(written(tmp_path, {"inputs": columns}), None, 0.3)[0]
    for changes, told in (
        ({"exclude_item_id": [["b-2"]]}, "exclude_item_id has 1 entries, and history_item_id 2"),
        ({"exclude_item_id": [["b-2"], ["a-1", "c-3"]]}, 'pad them to one length with ""'),
        ({"user_id": ["zoe", 5]}, "query 2: user_id is 5, where a text is expected"),
    ):
        with pytest.raises(UserError) as found:
            validate_requests(written(tmp_path, {"inputs": {**columns, **changes}}), None, 0.3)
        assert told in str(found.value)


def test_texts_may_hold_other_line_ends_and_no_half_characters(tmp_path: Path) -> None:
    file = tmp_path / "requests.jsonl"
    lines = [json.dumps({**TEXTS, "user_id": "a\u2028b\x85c"}, ensure_ascii=False)] * 2
    file.write_bytes(b"\xef\xbb\xbf" + "\r\n".join(lines).encode())
    assert "2 requests" in validate_requests(str(file), None, 0.3)[0]
    with pytest.raises(UserError, match=r"line 1: user_id is .*, which is no text of UTF-8"):
        validate_requests(written(tmp_path, {**TEXTS, "user_id": "\ud800"}), None, 0.3)


def test_text_ids_are_compared_with_train_by_number() -> None:
    kinds = IdKinds(INTEGER, TEXT)
    inputs = {one.name: one for one in kinds.served(REQUEST_INPUTS.values())}
    request = {"user_id": 7, "history_item_id": ["b-2", ""], "history_timestamp": [1, 0]}
    assert _by_number(request, inputs, kinds) == {**request, "history_item_id": [number_of("b-2"), -1]}


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"user_id": [17]}, "user_id has 1 entries, and history_item_id 2: both have one for each query"),
        ({"user_id": 17}, "user_id is 17, where a list with one entry for each query is expected"),
        ({"user_id": [17, -1]}, "query 2: user_id is -1, where values from 0 are expected"),
        ({"history_timestamp": [[10, 20, 30]]}, "history_timestamp has 1 entries, and history_item_id 2"),
        ({"history_timestamp": [[10, 20], [1, 2]]}, "query 1: history_timestamp has 2 values, and history_"),
        ({"history_play_ratio": [[0.5]]}, "history_play_ratio has 1 entries, and history_item_id 2"),
        ({"history_play_ratio": [[0.5], [0.5]]}, "query 1: history_play_ratio has 1 values, and history_it"),
        ({"exclude_item_id": [[5]]}, "exclude_item_id has 1 entries, and history_item_id 2"),
        (
            {"exclude_item_id": [[5, 6], [7]]},
            "exclude_item_id has lists of 1 and of 2 values in one body: pad them to one length with -1",
        ),
        ({"k": [10]}, "query 1: k is a list, where one value is expected"),
        ({"k": 0}, "query 1: k is 0, where values from 1 are expected"),
        ({"mood": ["a", "b"]}, "line 1: there is no field mood; the nearest is "),
        ({"history_item_id": None}, "history_item_id is null, where a list with one entry"),
    ],
)
def test_columns_of_other_sizes_are_named(changes: dict[str, Any], told: str, tmp_path: Path) -> None:
    with pytest.raises(UserError) as refused:
        validate_requests(written(tmp_path, {"inputs": {**COLUMNS, **changes}}), None, 0.3)
    assert told in str(refused.value)


@pytest.mark.parametrize(
    ("body", "told"),
    [
        ({"inputs": COLUMNS, "instances": [GOOD]}, "the body has both instances and inputs"),
        ({"inputs": [3]}, "inputs is [3], where an object with named fields is expected"),
        ({"inputs": {"user_id": [1]}}, "line 1: history_item_id is missing"),
        ({"instances": []}, "instances is [], where a list of requests is expected"),
        ({"instances": GOOD}, "instances is {"),
        ({"instances": [GOOD]}, "k is one per call, and instances give one of each to a query"),
        (
            {"instances": [{**GOOD, "exclude_item_id": [1]}, GOOD]},
            "exclude_item_id has lists of 1 and of 2 values in one body: pad them to one length with -1",
        ),
        (
            {"instances": [GOOD, {**GOOD, "user_id": 2}, {name: GOOD[name] for name in list(GOOD)[:3]}]},
            "request_timestamp is in 2 of 3 instances: all have the same fields",
        ),
    ],
)
def test_a_body_of_which_a_server_makes_no_batch_is_named(body: Any, told: str, tmp_path: Path) -> None:
    with pytest.raises(UserError) as refused:
        validate_requests(written(tmp_path, body), None, 0.3)
    assert told in str(refused.value)


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"user_id": None}, "line 2: user_id is null, where a whole number is expected"),
        ({"user_id": [17]}, "line 2: user_id is a list, where one value is expected"),
        ({"user_id": -1}, "line 2: user_id is -1, where values from 0 are expected"),
        ({"user_id": True}, "line 2: user_id is true, where a whole number is expected"),
        ({"history_item_id": 3}, "line 2: history_item_id is 3, where a list is expected"),
        ({"history_item_id": [3, "1", 2, -1]}, 'line 2: history_item_id[1] is "1", where a whole number'),
        ({"history_item_id": [3, 1.5, 2, -1]}, "line 2: history_item_id[1] is 1.5, where a whole number"),
        (
            {"history_timestamp": [10, 10, 30_000_000_000, -1]},
            "line 2: history_timestamp[2] is 30000000000, where values from 0 to 4,102,444,800 are expected",
        ),
        ({"history_timestamp": [10, 40, 30, -1]}, "line 2: history_timestamp[2] is 30, after 40"),
        (
            {"history_timestamp": [10, 20, 30]},
            "line 2: history_timestamp has 3 values, and history_item_id 4",
        ),
        ({"history_play_ratio": [0.5, float("nan"), 1, 1]}, "line 2: history_play_ratio[1] is nan"),
        ({"history_is_organic": [1, 2, 0, 0]}, "history_is_organic[1] is 2, where values from -1 to 1"),
        ({"history_event_type": ["", 1, "", ""]}, "history_event_type[1] is 1, where a text is expected"),
        ({"historyitem_id": [1]}, "line 2: there is no field historyitem_id; the nearest is history_item_id"),
        # In windows, for training; no part of a request.
        ({"label_step": [1]}, "line 2: there is no field label_step"),
        ({"k": 0}, "line 2: k is 0, where values from 1 are expected"),
        ({"k": 2**31}, "line 2: k is 2147483648, which is beyond int32"),
        ({"user_id": 2**63}, "line 2: user_id is 9223372036854775808, which is beyond int64"),
        (
            {"exclude_item_id": [10**400]},
            "exclude_item_id[0] is 1000000000000000000000000000000000000..., which",
        ),
        ({"history_play_ratio": [0.5, 10**400, 1, 1]}, "history_play_ratio[1] is 10000"),
        (
            {"history_play_ratio": [0.5, 1e39, 1, 1]},
            "history_play_ratio[1] is 1e+39, which is beyond float32",
        ),
    ],
)
def test_what_no_model_takes_is_named_by_line_field_and_value(
    changes: dict[str, Any], told: str, tmp_path: Path
) -> None:
    with pytest.raises(UserError) as refused:
        validate_requests(written(tmp_path, GOOD, {**GOOD, **changes}), None, 0.3)
    assert told in str(refused.value)
    assert "line 1" not in str(refused.value)


def test_a_missing_field_a_line_that_is_no_json_and_a_row_in_a_body_are_named(tmp_path: Path) -> None:
    row = {name: value for name, value in GOOD.items() if name != "k"}
    without = {name: value for name, value in row.items() if name != "history_timestamp"}
    path = written(tmp_path, "{", {"instances": [row, without, 7]}, "[1]")
    with pytest.raises(UserError) as refused:
        validate_requests(path, None, 0.3)
    lines = str(refused.value).splitlines()
    assert lines[1].startswith("  line 1: not JSON (")
    assert set(lines[2:]) == {
        "  line 2, instance 2: history_timestamp is missing",
        "  line 2, instance 3: 7, where an object with named fields is expected",
        "  line 3: [1], where an object with named fields is expected",
    }


def test_a_field_that_is_given_twice_and_values_nested_without_end_are_named(tmp_path: Path) -> None:
    twice = json.dumps(GOOD)[:-1] + ', "k": 5}'
    inner = json.dumps({"instances": [GOOD]})[:-3] + ', "k": 5}]}'
    path = written(tmp_path, twice, inner, "[" * 100_000, '{"a":' * 100_000)
    with pytest.raises(UserError) as refused:
        validate_requests(path, None, 0.3)
    assert str(refused.value).splitlines()[1:] == [
        "  line 1: not JSON (the field k is given twice); each line is one request",
        "  line 2: not JSON (the field k is given twice); each line is one request",
        "  line 3: values are nested too deeply; each line is one request",
        "  line 4: values are nested too deeply; each line is one request",
    ]


def test_many_complaints_are_counted(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="and 30 more"):
        validate_requests(written(tmp_path, *({**GOOD, "user_id": -5} for _ in range(50))), None, 0.3)


@pytest.mark.parametrize(("lines", "told"), [((), "holds no request"), (("", " "), "holds no request")])
def test_no_requests_are_no_success(lines: tuple[str, ...], told: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=told):
        validate_requests(written(tmp_path, *lines), None, 0.3)


def test_a_file_that_is_not_there_and_one_that_is_not_utf8_are_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"nowhere\.jsonl: the requests cannot be read"):
        validate_requests(str(tmp_path / "nowhere.jsonl"), None, 0.3)
    (tmp_path / "latin.jsonl").write_bytes(b'{"user_id": "\xe9"}')
    with pytest.raises(UserError, match="not UTF-8 at byte 13"):
        validate_requests(str(tmp_path / "latin.jsonl"), None, 0.3)


def test_a_request_may_carry_what_the_signature_takes_and_nothing_else() -> None:
    from google.protobuf import text_format
    from tensorflow_metadata.proto.v0 import schema_pb2

    from two_tower.components.curated_schema import schemas
    from two_tower.data_directory.column_kinds import KINDS
    from two_tower.data_directory.feature_columns import FeatureSpec
    from two_tower.pipeline.checks.request_validation import request_inputs
    from two_tower.schema.request_inputs import ANSWER_INPUTS
    from two_tower.trainer.model.signatures import query_inputs

    users = [FeatureSpec(f"user_{kind}", kind, kind, 4 * KINDS[kind].has_width) for kind in KINDS]
    users.append(FeatureSpec("user_short", "short", "vector", 1))
    taken = request_inputs(text_format.Parse(schemas.read("interactions", users), schema_pb2.Schema()))
    served = {one.name: one for one in (*query_inputs(users), *ANSWER_INPUTS)}
    assert taken.keys() == served.keys()
    for name, one in taken.items():
        of_signature = served[name]
        assert (one.shape, one.dtype) == (of_signature.shape, of_signature.dtype), name
        assert (one.width, one.is_required) == (of_signature.width, of_signature.is_required), name
        assert one.is_required or one.is_special(of_signature.default), name
        # The schema has no other ranges than the table.
        assert (one.least, one.greatest) == (of_signature.least, of_signature.greatest), name
