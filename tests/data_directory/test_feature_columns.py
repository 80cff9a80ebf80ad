from __future__ import annotations

import dataclasses
import math
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from two_tower.base.errors import UserError
from two_tower.data_directory.column_kinds import KINDS
from two_tower.data_directory.feature_columns import (
    FeatureSpec,
    ResolvedFeatures,
    encode,
    encode_columns,
    resolve,
)
from two_tower.data_directory.settings import FeaturesConfig

COLUMNS = {
    "events": {"user_id": "int64", "item_id": "int64"},
    "users": {
        "user_id": "int64",
        "gender": "string",
        "age": "int64",
        "income": "double",
        "is_premium": "bool",
        "born": "date32[day]",
        "languages": "list<item: string>",
        "id": "string",
    },
    "items": {
        "item_id": "int64",
        "artist_id": "list<item: int64>",
        "title": "string",
        "tags": "list<element: string>",
        "release_timestamp": "int64",
        "embedding": "fixed_size_list<item: float>[16]",
        "loose": "list<item: double>",
        "country": "dictionary<values=string, indices=int32, ordered=0>",
    },
}


def resolved(
    users: tuple[str, ...] = (), items: tuple[str, ...] = (), with_aggregates: bool = True, **data: Any
) -> ResolvedFeatures:
    manifest: Any = SimpleNamespace(**{"columns": COLUMNS, "has_timestamps": True, "has_order": True} | data)
    return resolve(FeaturesConfig(users, items), manifest, with_aggregates)


def kinds(specs: tuple[FeatureSpec, ...]) -> dict[str, str]:
    return {spec.name: spec.kind for spec in specs}


# What a name means.


def test_a_columns_type_tells_its_kind() -> None:
    found = resolved(
        users=("gender", "age", "income", "is_premium", "languages"),
        items=("title", "tags", "release_timestamp", "embedding", "country"),
    )
    assert kinds(found.users) == {
        "user_gender": "categorical",
        "user_age": "categorical",
        "user_income": "numeric",
        "user_is_premium": "categorical",
        "user_languages": "multi_valued",
    }
    assert kinds(found.items) == {
        "title": "text",
        "tags": "multi_valued",
        "release_timestamp": "numeric",
        "embedding": "vector",
        "country": "categorical",
    }
    assert [spec.width for spec in found.items] == [0, 0, 0, 16, 0]


def test_a_kind_that_is_named_goes_before_the_types() -> None:
    found = resolved(users=("age:numeric", "gender:text"), items=("title:categorical", "loose:vector:3"))
    assert kinds(found.users) == {"user_age": "numeric", "user_gender": "text"}
    assert found.items == (
        FeatureSpec("title", "title", "categorical"),
        FeatureSpec("loose", "loose", "vector", 3),
    )


def test_without_data_every_kind_must_be_named() -> None:
    named = FeaturesConfig(users=("age:numeric",), items=("embedding:vector:16", "tags:multi_valued"))
    found = resolve(named, None)
    assert found.users == (FeatureSpec("user_age", "age", "numeric"),)
    assert found.items[0] == FeatureSpec("embedding", "embedding", "vector", 16)
    assert len(found.history) > 5
    with pytest.raises(UserError, match=r"features\.items: title needs its kind .* as in title:text"):
        resolve(FeaturesConfig(items=("title",)), None)
    with pytest.raises(UserError, match=r"embedding needs its width .* as in embedding:vector:128"):
        resolve(FeaturesConfig(items=("embedding:vector",)), None)


@pytest.mark.parametrize(
    ("users", "items", "message"),
    [
        (("gendre",), (), r"features\.users: there is no column gendre; the nearest is gender"),
        (("gender:categoric",), (), r"gender:categoric: there is no kind 'categoric'; .* categorical"),
        (("gender:numeric",), (), r"gender is of type string, which can be categorical or text, not numeric"),
        (("income:categorical",), (), r"income is of type double, which can be numeric\b.*, not categorical"),
        (("born",), (), r"born of users/ is of type date32\[day\], which cannot become a feature"),
        (("gender", "gender:text"), (), r"features\.users: the column gender is named twice"),
        (("id",), (), r"the column id would have the name user_id"),
        (("first name",), (), r"'first name' cannot name a feature"),
        (("user_id",), (), r"user_id is known to every model"),
        ((), ("artist_id",), r"artist_id is known to every model"),
        ((), ("embedding:vector:8",), r"the column's vectors have 16 values, not 8"),
        ((), ("loose",), r"does not give the width of its vectors. Name it as loose:vector:<width>"),
        ((), ("tags:multi_valued:8",), r"only a vector's width may follow the kind"),
        ((), ("embedding:vector:0",), r"only a vector's width may follow the kind"),
    ],
)
def test_a_name_that_means_nothing_is_an_error_that_says_what_would(
    users: tuple[str, ...], items: tuple[str, ...], message: str
) -> None:
    with pytest.raises(UserError, match=message):
        resolved(users, items)


def test_data_without_users_has_no_columns_of_users() -> None:
    with pytest.raises(UserError, match=r"features\.users names gender, and .* has no table users/"):
        resolved(users=("gender",), columns={"events": {}, "items": {}})


def test_aggregates_of_time_are_left_out_where_there_is_only_an_order() -> None:
    timed, untimed = resolved(), resolved(has_timestamps=False)
    assert "idle_seconds" in timed.history and "idle_seconds" not in untimed.history
    assert set(untimed.history) < set(timed.history)
    assert resolved(with_aggregates=False).history == ()


def test_features_travel_as_text() -> None:
    found = resolved(users=("age",), items=("embedding", "tags"))
    assert ResolvedFeatures.from_json(found.to_json()) == found
    assert ResolvedFeatures.from_json(ResolvedFeatures().to_json()) == ResolvedFeatures()


# Values as Examples hold them.


def spec(kind: str, width: int = 0) -> FeatureSpec:
    return FeatureSpec("x", "x", kind, width)


@pytest.mark.parametrize(
    ("kind", "column", "expected"),
    [
        ("categorical", pa.array(["a", None, ""]), [[b"a"], [], []]),
        ("categorical", pa.array([0, None, -7], pa.int8()), [[b"0"], [], [b"-7"]]),
        ("categorical", pa.array([True, None, False]), [[b"true"], [], [b"false"]]),
        ("categorical", pa.array(["a", None, "a"]).dictionary_encode(), [[b"a"], [], [b"a"]]),
        ("categorical", pa.array(["é", None], pa.large_string()), [["é".encode()], []]),
        ("text", pa.array(["A b", None, ""]), [[b"A b"], [], []]),
        ("numeric", pa.array([0.0, None, math.nan, -1.5]), [[0.0], [], [], [-1.5]]),
        ("numeric", pa.array([0, None, 2**53], pa.int64()), [[0.0], [], [float(2**53)]]),
        ("numeric", pa.array([True, False]), [[1.0], [0.0]]),
        ("multi_valued", pa.array([["a", None, "", "b"], None, [], ["a"]]), [[b"a", b"b"], [], [], [b"a"]]),
        ("multi_valued", pa.array([[0, 5], None], pa.list_(pa.int16())), [[b"0", b"5"], []]),
        ("multi_valued", pa.array([["a"], None], pa.large_list(pa.string())), [[b"a"], []]),
    ],
)
def test_values_are_lists_and_absent_ones_are_empty(
    kind: str, column: pa.Array, expected: list[list[Any]]
) -> None:
    assert encode(column, spec(kind)).to_pylist() == expected
    for begin in range(len(column) + 1):
        assert encode(column[begin:], spec(kind)).to_pylist() == expected[begin:]
    chunked = pa.chunked_array([column[:1], column[1:]])
    assert encode(chunked, spec(kind)).to_pylist() == expected


@pytest.mark.parametrize("kind", [pa.list_(pa.float64()), pa.list_(pa.float32(), 2), pa.list_(pa.int8())])
def test_vectors_have_one_width_and_an_absent_one_is_zeros(kind: pa.DataType) -> None:
    column = pa.array([[1, 0], None, [3, 4]], kind)
    assert encode(column, spec("vector", 2)).to_pylist() == [[1, 0], [0, 0], [3, 4]]
    assert encode(column[1:], spec("vector", 2)).to_pylist() == [[0, 0], [3, 4]]
    assert encode(column, spec("vector", 2)).type == pa.list_(pa.float32())


@pytest.mark.parametrize("kind", KINDS)
def test_a_column_of_nulls_is_how_somebody_without_a_row_is_encoded(kind: str) -> None:
    encoded = encode(pa.nulls(2), spec(kind, 3))
    facts = KINDS[kind]
    assert encoded.to_pylist() == [[0.0] * 3 if facts.has_width else []] * 2
    members: list[Any] = [1.0, 2.0, 3.0] if facts.is_number else ["a", "b", "c"]
    known = [members] if facts.is_list else members
    assert encoded.type == encode(pa.array(known), spec(kind, 3)).type


@pytest.mark.parametrize(
    ("vectors", "message"),
    [
        ([[1.0, 2.0], [3.0]], "the vector of id 8 has 1 values, where 2 are expected"),
        ([[1.0, math.nan], [3.0, 4.0]], "the vector of id 7 has a value that is null or not finite"),
        ([[1.0, 2.0], [None, 4.0]], "the vector of id 8 has a value that is null or not finite"),
        ([[math.inf, 2.0], [3.0, 4.0]], "the vector of id 7 has a value that is null or not finite"),
    ],
)
def test_a_broken_vector_is_named_by_whose_it_is(vectors: list[Any], message: str) -> None:
    table = pa.table({"item_id": [7, 8], "x": pa.array(vectors, pa.list_(pa.float32()))})
    with pytest.raises(UserError, match=f"part-0: the column x: {message}"):
        encode_columns(table, [spec("vector", 2)], "part-0")


def test_a_column_that_became_another_type_is_an_error() -> None:
    with pytest.raises(UserError, match=r"column x is of type double, which can be numeric\b.*, not text"):
        encode(pa.array([1.0]), spec("text"))
    with pytest.raises(UserError, match=r"part-0: there is no column x; the nearest is y of y"):
        encode_columns(pa.table({"user_id": [1], "y": [2]}), [spec("text")], "part-0")


@given(st.lists(st.none() | st.lists(st.none() | st.text(max_size=3), max_size=4), max_size=6))
@settings(max_examples=60, deadline=None)
def test_all_that_is_there_is_kept_in_its_order(rows: list[list[str | None] | None]) -> None:
    column = pa.array(rows, pa.list_(pa.string()))
    expected = [[one.encode() for one in row or [] if one] for row in rows]
    assert encode(column, spec("multi_valued")).to_pylist() == expected


@given(st.lists(st.none() | st.floats(width=32, allow_infinity=False), max_size=8))
@settings(max_examples=60, deadline=None)
def test_zero_is_a_number_and_nothing_else_is_lost(values: list[float | None]) -> None:
    encoded = encode(pa.array(values, pa.float32()), spec("numeric")).to_pylist()
    expected = [[] if value is None or math.isnan(value) else [value] for value in values]
    assert encoded == expected


# The schema.


def test_a_schema_without_columns_is_the_curated_one_and_others_add_theirs() -> None:
    from google.protobuf import text_format
    from tensorflow_metadata.proto.v0 import schema_pb2

    from two_tower.components.curated_schema import schemas

    specs = [dataclasses.replace(spec(kind, 4 * KINDS[kind].has_width), name=kind) for kind in KINDS]
    for name in ("interactions", "catalog"):
        curated = text_format.Parse(schemas.read(name), schema_pb2.Schema())
        grown = text_format.Parse(schemas.read(name, specs), schema_pb2.Schema())
        assert [f.name for f in grown.feature] == [*(f.name for f in curated.feature), *KINDS]
        assert list(grown.feature[: len(curated.feature)]) == list(curated.feature)
        shown = grown.tensor_representation_group[""].tensor_representation
        assert set(KINDS) <= set(shown)
        assert [dim.size for dim in shown["vector"].dense_tensor.shape.dim] == [4]
        for feature in grown.feature[len(curated.feature) :]:
            assert not feature.not_in_environment and feature.lifecycle_stage == 0


def test_encoding_keeps_numpys_memory_in_single_precision() -> None:
    column = pa.FixedSizeListArray.from_arrays(pa.array(np.ones(2_000, np.float32)), 4)
    encoded = encode(column, spec("vector", 4))
    assert encoded.nbytes < 2 * column.nbytes


def test_events_without_an_order_have_no_aggregates() -> None:
    assert resolved(has_timestamps=False, has_order=False).history == ()
