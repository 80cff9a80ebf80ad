"""Reference implementations for InteractionExampleGen: the same windows, built in two other ways.

`by_row` is typical Beam code: a row is a Python dictionary, a user a list of rows, an Example a
`tf.train.Example`. `by_polars` is a single-process script without Beam that writes Parquet. Both follow the
rules of `components.interaction_example_gen.windows` in the next_event protocol for data sets with
recommendable repeats.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterator
from typing import Any

from two_tower.components.interaction_example_gen.splits import TimeSplit
from two_tower.schema import features

# Number of windows and labels of each split, to compare the forms.
Counts = dict[str, int]


def by_row(
    paths: list[str], out: str, split: TimeSplit, label_event: str, history: int, positions: int
) -> None:
    """Cuts windows row by row and writes `out/<split>-*.gz`.

    Args:
      paths: the events' Parquet files.
      split: the boundaries of the splits.
      label_event: the event type of labels.
      history: N, the number of events that a query sees.
      positions: query positions per window.
    """
    import apache_beam as beam

    with beam.Pipeline() as pipeline:
        cut = (
            pipeline
            | beam.Create(paths)
            | beam.io.ReadAllFromParquet()
            | beam.Map(lambda row: (row["user_id"], row))
            | beam.GroupByKey()
            | beam.FlatMap(_windows_of_user, split, label_event, history, positions).with_outputs(
                *features.SPLITS
            )
        )
        for name in features.SPLITS:
            _ = cut[name] | f"Write[{name}]" >> beam.io.WriteToTFRecord(
                os.path.join(out, name), file_name_suffix=".gz", coder=beam.coders.BytesCoder()
            )


def _windows_of_user(
    user: tuple[int, Any], split: TimeSplit, label_event: str, history: int, positions: int
) -> Iterator[Any]:
    import apache_beam as beam

    user_id, rows = user
    events = sorted(rows, key=lambda row: (row["timestamp"], row["event_type"] != label_event))
    listens = [place for place, row in enumerate(events) if row["event_type"] == label_event]
    pairs = list(itertools.pairwise(listens))
    for name in features.SPLITS:
        begin, end = split.bounds(name)
        inside = [pair for pair in pairs if begin <= events[pair[1]]["timestamp"] < end]
        chunks: dict[int, list[tuple[int, int]]] = {}
        for pair in inside:
            chunks.setdefault((pair[0] - inside[0][0]) // positions, []).append(pair)
        for chunk in chunks.values():
            example = _example(user_id, events, chunk, history)
            yield beam.pvalue.TaggedOutput(name, example.SerializeToString())


def _example(user_id: int, events: list[dict[str, Any]], pairs: list[tuple[int, int]], history: int) -> Any:
    import tensorflow as tf

    start = max(0, pairs[0][0] - history + 1)
    window = events[start : pairs[-1][1] + 1]
    request = [row["timestamp"] for row in window]
    step = [0] * len(window)
    for query, label in pairs:
        request[query - start] = events[label]["timestamp"]
        step[query - start] = label - query

    def ints(values: list[int]) -> Any:
        return tf.train.Feature(int64_list=tf.train.Int64List(value=values))

    def known(value: Any) -> Any:
        return features.UNKNOWN if value is None else value

    return tf.train.Example(
        features=tf.train.Features(
            feature={
                features.USER_ID: ints([user_id]),
                features.HISTORY_ITEM_ID: ints([row["item_id"] for row in window]),
                features.HISTORY_TIMESTAMP: ints([row["timestamp"] for row in window]),
                features.HISTORY_EVENT_TYPE: tf.train.Feature(
                    bytes_list=tf.train.BytesList(value=[row["event_type"].encode() for row in window])
                ),
                features.HISTORY_PLAY_RATIO: tf.train.Feature(
                    float_list=tf.train.FloatList(value=[known(row["play_ratio"]) for row in window])
                ),
                features.HISTORY_IS_ORGANIC: ints([int(known(row["is_organic"])) for row in window]),
                features.REQUEST_TIMESTAMP: ints(request),
                features.LABEL_STEP: ints(step),
            }
        )
    )


def by_polars(
    paths: list[str], out: str, split: TimeSplit, label_event: str, history: int, positions: int
) -> Counts:
    """Cuts windows with Polars, writes `out/<split>.parquet` with one row per window, and counts the labels.

    The arguments are those of `by_row`.
    """
    import polars as pl

    events = (
        pl.read_parquet(
            paths, columns=["user_id", "item_id", "timestamp", "event_type", "play_ratio", "is_organic"]
        )
        .with_row_index("order")
        .with_columns(reaction=pl.col("event_type") != label_event)
        .sort("user_id", "timestamp", "reaction", "order")
        .drop("order")
        .with_row_index("at")
        .with_columns(
            pl.col("at").cast(pl.Int64),
            pl.col("play_ratio").fill_null(features.UNKNOWN),
            pl.col("is_organic").cast(pl.Int64).fill_null(features.UNKNOWN),
        )
    )
    starts = events.group_by("user_id", maintain_order=True).agg(owner=pl.col("at").first())
    labels = (
        events.filter(~pl.col("reaction"))
        .select("user_id", label="at", label_time="timestamp", query=pl.col("at").shift(1).over("user_id"))
        .drop_nulls("query")
        .join(starts, on="user_id", how="left", maintain_order="left")
    )
    counts: Counts = {}
    for name in features.SPLITS:
        begin, end = split.bounds(name)
        inside = labels.filter((pl.col("label_time") >= begin) & (pl.col("label_time") < end)).with_columns(
            chunk=(pl.col("query") - pl.col("query").first().over("user_id")) // positions
        )
        windows = (
            inside.group_by("user_id", "chunk", maintain_order=True)
            .agg(pl.col("owner").first(), first=pl.col("query").first(), last=pl.col("label").last())
            .with_columns(start=pl.max_horizontal("owner", pl.col("first") - history + 1))
            .with_row_index("window")
        )
        at = windows.select("window", at=pl.int_ranges("start", pl.col("last") + 1)).explode("at")
        rows = pl.concat([at, events.drop("at", "reaction")[at["at"]]], how="horizontal")
        queries = inside.join(windows.select("user_id", "chunk", "window"), on=["user_id", "chunk"]).select(
            "window", "label_time", at="query", step=pl.col("label") - pl.col("query")
        )
        packed = (
            rows.join(queries, on=["window", "at"], how="left", maintain_order="left")
            .select(
                "window",
                "user_id",
                "item_id",
                "timestamp",
                "event_type",
                "play_ratio",
                "is_organic",
                request_timestamp=pl.coalesce("label_time", "timestamp"),
                label_step=pl.col("step").fill_null(0),
            )
            .group_by("window", maintain_order=True)
            .agg(pl.col("user_id").first(), pl.exclude("window", "user_id"))
        )
        packed.write_parquet(os.path.join(out, f"{name}.parquet"))
        counts[f"{name}_labels"] = len(inside)
        counts[f"{name}_windows"] = len(packed)
    return counts
