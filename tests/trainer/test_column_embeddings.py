"""Properties that hold for every kind of column, those to come too."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest
import tensorflow as tf

from two_tower.data_directory.column_kinds import KINDS
from two_tower.data_directory.feature_columns import FeatureSpec, encode
from two_tower.evaluation import queries
from two_tower.serving import query
from two_tower.trainer.model.column_embeddings import COLUMN_EMBEDDINGS
from two_tower.trainer.model.signatures import _as_raw, query_inputs, tensor_spec


def spec(kind: str) -> FeatureSpec:
    return FeatureSpec("user_x", "x", kind, 3 * KINDS[kind].has_width)


def test_every_kind_has_a_tensorflow_side() -> None:
    assert list(COLUMN_EMBEDDINGS) == list(KINDS)


@pytest.mark.parametrize("kind", KINDS)
def test_a_request_without_a_column_reads_as_a_user_without_a_row(kind: str) -> None:
    given = query_inputs([spec(kind)])[-1]
    default = tf.constant(given.default_value, given.dtype)
    assert tensor_spec(given).is_compatible_with(default)
    raw = _as_raw(default, spec(kind), tf.constant(2))
    without_a_row = encode(pa.nulls(2), spec(kind)).to_pylist()
    assert (raw.to_list() if isinstance(raw, tf.RaggedTensor) else raw.numpy().tolist()) == without_a_row


@pytest.mark.parametrize("kind", KINDS)
def test_evaluation_and_queries_send_the_default_for_an_absent_value(kind: str) -> None:
    given = query_inputs([spec(kind)])[-1]
    default = tf.constant(given.default_value, given.dtype).numpy()
    asked = query._as_requested(None, [spec(kind)])["user_x"]
    np.testing.assert_array_equal(tf.constant(asked, given.dtype).numpy(), default)
    rows = tf.ragged.constant(encode(pa.nulls(1), spec(kind)).to_pylist(), given.dtype, ragged_rank=1)
    np.testing.assert_array_equal(queries._as_requested([rows], spec(kind)), default)
