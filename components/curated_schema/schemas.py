"""Curated schemas of interactions and of the catalog, with the features of named columns."""

from __future__ import annotations

from collections.abc import Iterable

from google.protobuf import text_format
from tensorflow_metadata.proto.v0 import schema_pb2

from two_tower import schema as schemas
from two_tower.data_directory.feature_columns import FeatureSpec


def read(name: str, specs: Iterable[FeatureSpec] = ()) -> str:
    """Returns the text of `schema/<name>.pbtxt` with the features of named columns.

    These features belong to both environments, TRAINING and SERVING, and any Example may lack them.

    Args:
      name: "interactions" or "catalog".
      specs: the features of named columns.
    """
    text = schemas.text(name)
    schema = text_format.Parse(text, schema_pb2.Schema())
    specs = tuple(specs)
    for spec in specs:
        _add(schema, spec)
    # Without named columns the text stays as written, with its comments.
    return text_format.MessageToString(schema) if specs else text


def _add(schema: schema_pb2.Schema, spec: FeatureSpec) -> None:
    kind = spec.column_kind
    feature = schema.feature.add(
        name=spec.name, type=schema_pb2.FLOAT if kind.is_number else schema_pb2.BYTES
    )
    feature.presence.min_fraction = 1 if kind.has_width else 0
    if kind.is_number:
        feature.float_domain.disallow_nan = feature.float_domain.disallow_inf = True
    if not kind.is_list:
        feature.value_count.max = 1
    representation = schema.tensor_representation_group[""].tensor_representation[spec.name]
    if kind.has_width:
        feature.shape.dim.add(size=spec.width)
        representation.dense_tensor.column_name = spec.name
        representation.dense_tensor.shape.dim.add(size=spec.width)
    else:
        representation.ragged_tensor.feature_path.step.append(spec.name)
        representation.ragged_tensor.row_partition_dtype = (
            schema_pb2.TensorRepresentation.RowPartitionDType.INT64
        )
