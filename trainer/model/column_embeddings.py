"""TensorFlow code of each kind of column (`data_directory/column_kinds.py`), for Transform and towers.

Columns of a kind have one of three forms in the catalog table and in the towers. A kind's `prepare` turns
raw values into the input of its form.
"""

from __future__ import annotations

import dataclasses
import enum
import math
from collections.abc import Callable, Iterable
from typing import Any

import tensorflow as tf

from two_tower.data_directory.column_kinds import CATEGORICAL, MULTI_VALUED, NUMERIC, TEXT, VECTOR
from two_tower.data_directory.feature_columns import FeatureSpec
from two_tower.schema import features


class Form(enum.Enum):
    """Form of a column in the towers.

    VALUES: rows of the column's vocabulary, which Transform makes of the most frequent values. Both towers
    read the mean embedding of the rows. NUMBERS: one column of the matrix of all numbers, z-scored by
    Transform. Both towers read it as it is. VECTORS: a matrix of the column's own. The item embedding
    projects it, the query tower reads it as it is.
    """

    VALUES = enum.auto()
    NUMBERS = enum.auto()
    VECTORS = enum.auto()


def _words(texts: tf.RaggedTensor) -> tf.RaggedTensor:
    """Splits into lower-cased runs of letters and digits, of any script.

    Ragged [rows, (texts)] to [rows, (words)].
    """
    lower = tf.strings.lower(texts.flat_values, encoding="utf-8")
    apart = tf.strings.regex_replace(lower, r"[^\pL\pM\pN]+", " ")
    return texts.with_flat_values(tf.strings.split(apart)).merge_dims(1, 2)


def _one_number(values: tf.RaggedTensor) -> tf.Tensor:
    """Returns [rows, 1] of ragged [rows, (values)], NaN where absent."""
    return values.to_tensor(math.nan, shape=[None, 1])


def _as_they_come(values: Any) -> Any:
    return values


@dataclasses.dataclass(frozen=True)
class ColumnEmbedding:
    """A kind's columns in the model.

    Attributes:
        form: the form in the towers.
        prepare: turns raw values into the input of the form. Raw values are ragged [rows, (values)], or
            [rows, width] for a kind with a width. Inputs of VALUES are ragged [rows, (values)], text or whole
            numbers; of NUMBERS float32 [rows, 1], NaN where absent; of VECTORS float32 [rows, width].
    """

    form: Form
    prepare: Callable[[Any], Any]


# By the name of the kind.
COLUMN_EMBEDDINGS: dict[str, ColumnEmbedding] = {
    CATEGORICAL.name: ColumnEmbedding(Form.VALUES, _as_they_come),
    MULTI_VALUED.name: ColumnEmbedding(Form.VALUES, _as_they_come),
    NUMERIC.name: ColumnEmbedding(Form.NUMBERS, _one_number),
    TEXT.name: ColumnEmbedding(Form.VALUES, _words),
    VECTOR.name: ColumnEmbedding(Form.VECTORS, _as_they_come),
}


def names_of_form(specs: Iterable[FeatureSpec], form: Form) -> list[str]:
    """Returns the transformed names of the columns of one form, in their order."""
    return [
        features.transformed_column(spec.name) for spec in specs if COLUMN_EMBEDDINGS[spec.kind].form is form
    ]
