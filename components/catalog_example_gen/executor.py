"""Executor of CatalogExampleGen: encodes record batches of items/ as one tf.Example per item."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from typing import Any

import apache_beam as beam
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from tfx import types
from tfx.components.util import examples_utils
from tfx.dsl.components.base import base_beam_executor
from tfx.proto import example_gen_pb2
from tfx.types import artifact_utils
from tfx_bsl.coders import example_coder

from two_tower.base import storage
from two_tower.data_directory.feature_columns import (
    FeatureSpec,
    ResolvedFeatures,
    check_columns,
    encode_columns,
    joined,
)
from two_tower.data_directory.manifest import item_files
from two_tower.schema import features, text_ids

SPLIT = "catalog"
_LISTS = (features.ARTIST_ID, features.ALBUM_ID)
_RowGroup = tuple[str, int]  # file, row group
# Batches are small because an item may carry a vector and a text.
_ROWS_PER_BATCH = 8_192


class Executor(base_beam_executor.BaseBeamExecutor):
    """Executor that reads items/ and writes one split named "catalog"."""

    def Do(
        self,
        input_dict: dict[str, list[types.Artifact]],
        output_dict: dict[str, list[types.Artifact]],
        exec_properties: dict[str, Any],
    ) -> None:
        """Writes the items; withdrawn ones (`available` false) are left out and so never recommended.

        Raises:
          UserError: items/ lacks a column that the settings name, or a value is not of the column's kind.
        """
        specs = ResolvedFeatures.from_json(exec_properties["features"]).items
        examples = artifact_utils.get_single_instance(output_dict["examples"])
        examples.split_names = artifact_utils.encode_split_names([SPLIT])
        with self._make_beam_pipeline() as pipeline:
            _ = (
                pipeline
                | "RowGroups" >> beam.Create(_row_groups(item_files(exec_properties["data"])))
                | "Spread" >> beam.Reshuffle()
                | "Encode" >> beam.FlatMap(_encode_items, specs)
                | "Write"
                >> beam.io.WriteToTFRecord(
                    os.path.join(artifact_utils.get_split_uri([examples], SPLIT), "data_tfrecord"),
                    file_name_suffix=".gz",
                    coder=beam.coders.BytesCoder(),
                )
            )
        examples_utils.set_payload_format(examples, example_gen_pb2.PayloadFormat.FORMAT_TF_EXAMPLE)


def _row_groups(paths: list[str]) -> list[_RowGroup]:
    groups = []
    for path in paths:
        with storage.open_file(path) as file:
            groups += [(path, group) for group in range(pq.read_metadata(file).num_row_groups)]
    return groups


def _encode_items(group: _RowGroup, specs: Sequence[FeatureSpec]) -> Iterator[bytes]:
    path, row_group = group
    with storage.open_file(path) as file:
        parquet = pq.ParquetFile(file)
        present = parquet.schema_arrow.names
        check_columns(present, specs, path)
        wanted = [features.ITEM_ID, text_ids.ORIGINAL_ID, *_LISTS, features.ITEM_LENGTH, "available"]
        wanted += [spec.column for spec in specs if spec.column not in wanted]
        columns = [name for name in wanted if name in present]
        encoder = example_coder.RecordBatchToExamplesEncoder()
        for batch in parquet.iter_batches(_ROWS_PER_BATCH, row_groups=[row_group], columns=columns):
            table = pa.Table.from_batches([batch])
            if "available" in present:
                table = table.filter(pc.fill_null(table["available"], True))
            own = encode_columns(table, specs, path)
            yield from encoder.encode(pa.RecordBatch.from_pydict({**_built_in(table), **own}))


def _built_in(table: pa.Table) -> dict[str, pa.ListArray]:
    """Returns the features that every catalog has; a missing column gives unknown values."""
    rows, present = table.num_rows, set(table.column_names)
    columns = {features.ITEM_ID: _lists_of_one(table[features.ITEM_ID].cast(pa.int64()))}
    for name in _LISTS:
        # An item without artists has an empty list, and so has every item of a table without the column.
        columns[name] = (
            _filled(table[name], pa.list_(pa.int64()))
            if name in present
            else pa.array([[]] * rows, pa.list_(pa.int64()))
        )
    length = (
        pc.fill_null(table[features.ITEM_LENGTH].cast(pa.float32()), features.UNKNOWN)
        if features.ITEM_LENGTH in present
        else pa.array([features.UNKNOWN] * rows, pa.float32())
    )
    columns[features.ITEM_LENGTH] = _lists_of_one(length)
    if text_ids.ORIGINAL_ID in present:
        columns[features.ITEM_TEXT] = _lists_of_one(table[text_ids.ORIGINAL_ID].cast(pa.binary()))
    return columns


def _filled(values: pa.ChunkedArray, kind: pa.DataType) -> pa.Array:
    """Replaces null lists by empty ones and drops null members, which the encoder would write as 0."""
    lists = joined(values.cast(kind))
    lengths = pc.fill_null(pc.list_value_length(lists), 0).to_numpy(zero_copy_only=False)
    members = lists.flatten()
    known_before = np.append(0, members.is_valid().to_numpy(zero_copy_only=False).cumsum())
    offsets = pa.array(known_before[np.append(0, lengths.cumsum())], pa.int32())
    return pa.ListArray.from_arrays(offsets, members.drop_null())


def _lists_of_one(values: pa.Array | pa.ChunkedArray) -> pa.ListArray:
    flat = joined(values)
    return pa.ListArray.from_arrays(pa.array(range(len(flat) + 1), pa.int32()), flat)
