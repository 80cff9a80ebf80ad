"""Cuts packed windows on Beam: Arrow record batches in, tf.Examples out, no per-row Python between."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from typing import Any

import apache_beam as beam
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from tfx import types
from tfx.components.util import examples_utils
from tfx.dsl.components.base import base_beam_executor
from tfx.dsl.io import fileio
from tfx.proto import example_gen_pb2
from tfx.types import artifact_utils
from tfx_bsl.coders import example_coder

from components.interaction_example_gen import windows
from components.interaction_example_gen.facts import DataFacts
from pipeline.configs import SplitConfig, WindowConfig
from pipeline.datasets.data_directory import Manifest, event_files
from trainer import features

_COUNTS = "counts"
_RowGroup = tuple[str, int, int]  # file, row group, the first row's place among all events


class Executor(base_beam_executor.BaseBeamExecutor):
    """Reads `events/`, writes Split-train, Split-eval and Split-test of windows."""

    def Do(
        self,
        input_dict: dict[str, list[types.Artifact]],
        output_dict: dict[str, list[types.Artifact]],
        exec_properties: dict[str, Any],
    ) -> None:
        """Raises UserError where a split turns out empty."""
        data = exec_properties["data"]
        manifest = Manifest.load(data)
        window_config = WindowConfig(**json.loads(exec_properties["windows"]))
        facts = DataFacts.of(data, manifest, SplitConfig(**json.loads(exec_properties["split"])))
        cutter = windows.WindowCutter(
            split=facts.split,
            repeats_recommendable=manifest.repeats_recommendable,
            history_length=window_config.history_length,
            positions=window_config.positions,
        )
        shards = max(1, -(-manifest.counts["events"] // window_config.events_per_shard))
        examples = artifact_utils.get_single_instance(output_dict["examples"])
        examples.split_names = artifact_utils.encode_split_names(list(features.SPLITS))
        counts_file = os.path.join(self._get_tmp_dir(), "counts")

        with self._make_beam_pipeline() as pipeline:
            cut = (
                pipeline
                | "RowGroups" >> beam.Create(_row_groups(event_files(data)))
                | "Spread" >> beam.Reshuffle()
                | "ReadByShard" >> beam.FlatMap(_read_row_group, shards, manifest.label_event)
                | "Shard" >> beam.GroupByKey()
                | "CutWindows" >> beam.FlatMap(_cut_shard, cutter).with_outputs(*features.SPLITS, _COUNTS)
            )
            for name in features.SPLITS:
                _ = cut[name] | f"Write[{name}]" >> beam.io.WriteToTFRecord(
                    os.path.join(artifact_utils.get_split_uri([examples], name), "data_tfrecord"),
                    file_name_suffix=".gz",
                    coder=beam.coders.BytesCoder(),
                )
            _ = (
                cut[_COUNTS]
                | beam.CombinePerKey(sum)
                | beam.MapTuple(lambda key, value: json.dumps([key, value]))
                | beam.io.WriteToText(counts_file)
            )
        counts = dict(_read_json_lines(counts_file))
        windows.check_not_empty(counts, facts.split)
        examples_utils.set_payload_format(examples, example_gen_pb2.PayloadFormat.FORMAT_TF_EXAMPLE)
        facts.write(examples)
        for key, value in counts.items():
            examples.set_int_custom_property(key, value)


def _row_groups(paths: list[str]) -> list[_RowGroup]:
    groups, first_row = [], 0
    for path in paths:
        metadata = pq.read_metadata(path)
        for group in range(metadata.num_row_groups):
            groups.append((path, group, first_row))
            first_row += metadata.row_group(group).num_rows
    return groups


def _read_row_group(group: _RowGroup, shards: int, label_event: str) -> Iterator[tuple[int, pa.RecordBatch]]:
    """Yields (shard, its rows): all events of a user go to one shard, by a hash of the id."""
    path, row_group, first_row = group
    parquet = pq.ParquetFile(path)
    optional = {"event_type", "play_ratio", "is_organic"} & set(parquet.schema_arrow.names)
    table = parquet.read_row_group(row_group, columns=["user_id", "item_id", "timestamp", *sorted(optional)])
    rows = table.num_rows

    def column(name: str, kind: pa.DataType, missing: Any) -> pa.Array:
        if name not in optional:
            return pa.array(np.full(rows, missing), kind)
        return pc.fill_null(table[name].cast(kind), pa.scalar(missing, kind)).combine_chunks()

    table = pa.table(
        {
            "user_id": table["user_id"].cast(pa.int64()),
            "item_id": table["item_id"].cast(pa.int64()),
            "timestamp": table["timestamp"].cast(pa.int64()),
            "event_type": (
                _called_listen(table["event_type"].cast(pa.string()).combine_chunks(), label_event)
                if "event_type" in optional
                else pa.array([features.LISTEN] * rows, pa.string())
            ),
            "play_ratio": column("play_ratio", pa.float32(), features.UNKNOWN),
            "is_organic": column("is_organic", pa.int64(), features.UNKNOWN),
            "order": np.arange(first_row, first_row + rows),
        }
    )
    shard = _hash(table["user_id"].to_numpy()) % np.uint64(shards)
    for number in np.unique(shard):
        chosen = table.filter(pa.array(shard == number)).combine_chunks()
        for batch in chosen.to_batches():
            yield int(number), batch


def _called_listen(event_type: pa.Array, label_event: str) -> pa.Array:
    """From here on the label event, and it alone, has one name, whatever the data set calls it."""
    is_label = pc.fill_null(pc.equal(event_type, label_event), False)
    is_named = pc.fill_null(pc.greater(pc.binary_length(event_type), 0), False)
    other = pc.if_else(is_named, event_type, "unknown")
    other = pc.if_else(pc.equal(other, features.LISTEN), f"other {features.LISTEN}", other)
    return pc.if_else(is_label, features.LISTEN, other)


def _hash(ids: np.ndarray) -> np.ndarray:
    """splitmix64's finaliser: consecutive ids spread evenly, the same on every machine."""
    x = ids.astype(np.uint64)
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


def _cut_shard(shard: tuple[int, Any], cutter: windows.WindowCutter) -> Iterator[Any]:
    _, batches = shard
    by_split, counts = cutter.cut(windows.Events.from_batches(list(batches)))
    encoder = example_coder.RecordBatchToExamplesEncoder()
    for split, batch in by_split.items():
        for example in encoder.encode(batch):
            yield beam.pvalue.TaggedOutput(split, example)
    for item in counts.items():
        yield beam.pvalue.TaggedOutput(_COUNTS, item)


def _read_json_lines(prefix: str) -> Iterator[Any]:
    for path in fileio.glob(prefix + "*"):
        with fileio.open(path) as file:
            for line in file.read().splitlines():
                yield json.loads(line)
