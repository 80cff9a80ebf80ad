"""Small world: about 1,200 events after Transform, and a model of random weights over them.

The data covers edge cases: item id 0, play ratios of 0, unknown users and items, items without artists, and
an item outside the catalog.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from tests.listening_logs import Event, columns
from two_tower.components.interaction_example_gen.histories import Events
from two_tower.components.interaction_example_gen.splits import TimeSplit
from two_tower.components.interaction_example_gen.windows import WindowCutter
from two_tower.data_directory.feature_columns import FeatureSpec, ResolvedFeatures, encode_columns
from two_tower.data_directory.manifest import DAY
from two_tower.evaluation.queries import Queries, Windows, history_batch, read_windows
from two_tower.schema import features
from two_tower.trainer.settings import TrainerConfig

if TYPE_CHECKING:
    from two_tower.serving.index import ScannSettings
    from two_tower.serving.retrieval_model import RetrievalModel
    from two_tower.trainer.loop.training_data import TrainingData
    from two_tower.trainer.loop.two_tower_model import TwoTowerModel
    from two_tower.trainer.model.catalog_table import CatalogTable
    from two_tower.trainer.model.signatures import Towers

HISTORY_LENGTH = 7
ALL_AGGREGATES = ResolvedFeatures(history=features.AGGREGATES)
SPLIT = TimeSplit(train_end=8 * DAY, eval=(8 * DAY + 3_600, 9 * DAY), test=(9 * DAY + 3_600, 10 * DAY))
CONFIG = TrainerConfig(embedding_dim=8, query_hidden_units=(16,))
# Users and items from these ids on occur in eval and test only.
FIRST_NEW_USER, FIRST_NEW_ITEM = 20, 50
NOT_IN_CATALOG = 90


def log() -> list[Event]:
    """Draws about 1,200 events of 25 users."""
    draw = np.random.default_rng(11)
    events: list[tuple[int, int, int, bytes]] = []
    for _ in range(1_200):
        time = int(draw.integers(0, 10 * DAY)) // 600 * 600
        is_late = time >= SPLIT.train_end
        user = int(draw.integers(0, 25 if is_late else FIRST_NEW_USER))
        known = [*range(60), NOT_IN_CATALOG] if is_late else [0, 0, 1, *range(FIRST_NEW_ITEM)]
        item = int(draw.choice(known))
        events.append((user, item, time, bytes(draw.choice([b"listen", b"listen", b"listen", b"like"]))))
    return [Event(*event, row) for row, event in enumerate(events)]


def events() -> Events:
    """Returns the log as arrays; a quarter of the play ratios are unknown and a quarter 0."""
    rows = log()
    draw = np.random.default_rng(12)
    return columns(rows, draw.choice([-1.0, 0.0, 0.5, 1.25], len(rows)))


def catalog_items() -> dict[str, list[Any]]:
    """Returns items 0 to 69 with id, artists, albums and length."""
    ids = list(range(70))
    return {
        "item_id": [[i] for i in ids],
        "artist_id": [[i % 9] if i % 4 else [i % 9, 1_000, 7][: i % 5] for i in ids],
        "album_id": [[i // 3] if i % 7 else [] for i in ids],
        "item_length": [[-1.0 if i % 5 == 0 else 60.0 + i] for i in ids],
    }


def catalog_batch(items: dict[str, list[Any]]) -> pa.RecordBatch:
    """Encodes items like CatalogExampleGen."""
    kinds = {"item_length": pa.float32()}
    return pa.RecordBatch.from_pydict(
        {
            name: values
            if isinstance(values, pa.Array)
            else pa.array(values, pa.list_(kinds.get(name, pa.int64())))
            for name, values in items.items()
        }
    )


def write_examples(path: Path, batches: Iterable[pa.RecordBatch]) -> str:
    """Writes record batches to a gzipped TFRecord file of Examples and returns its path."""
    import tensorflow as tf
    from tfx_bsl.coders import example_coder

    path.parent.mkdir(parents=True, exist_ok=True)
    encoder = example_coder.RecordBatchToExamplesEncoder()
    with tf.io.TFRecordWriter(str(path), "GZIP") as writer:
        for batch in batches:
            for example in encoder.encode(batch):
                writer.write(example)
    return str(path)


def transform(
    out: Path,
    schema_name: str,
    splits: dict[str, str],
    preprocessing_fn: Callable[..., Any],
    specs: Sequence[FeatureSpec] = (),
) -> tuple[str, dict[str, str]]:
    """Runs Transform like TFX: analyses the first split and transforms all.

    Args:
      out: a new directory.
      schema_name: "interactions" or "catalog".
      splits: file of Examples by split.
      preprocessing_fn: function of the raw tensors by name.
      specs: specs of the named columns in the Examples.

    Returns:
      The graph's directory, and the pattern of each split's transformed Examples.
    """
    import apache_beam as beam
    import tensorflow_transform.beam as tft_beam
    from google.protobuf import text_format
    from tensorflow_metadata.proto.v0 import schema_pb2
    from tensorflow_transform.tf_metadata import dataset_metadata, metadata_io
    from tfx_bsl.coders import example_coder
    from tfx_bsl.tfxio import tf_example_record

    from two_tower.components.curated_schema import schemas

    proto = text_format.Parse(schemas.read(schema_name, specs), schema_pb2.Schema())
    patterns = {}
    with beam.Pipeline() as pipeline, tft_beam.Context(temp_dir=str(out / "scratch")):
        raw = {}
        for split, file in splits.items():
            source = tf_example_record.TFExampleRecord(file, schema=proto, telemetry_descriptors=["tests"])
            batches = pipeline | f"Read[{split}]" >> source.BeamSource()
            raw[split] = (batches, source.TensorAdapterConfig())
        graph = next(iter(raw.values())) | tft_beam.AnalyzeDataset(preprocessing_fn)
        _ = graph | tft_beam.WriteTransformFn(str(out / "graph"))
        for split, data in raw.items():
            batches, metadata = (data, graph) | f"Transform[{split}]" >> tft_beam.TransformDataset(
                output_record_batches=True
            )
            _ = (
                batches
                | f"Encode[{split}]"
                >> beam.FlatMap(
                    lambda pair, schema: example_coder.RecordBatchToExamplesEncoder(schema).encode(pair[0]),
                    metadata.schema,
                )
                | f"Write[{split}]"
                >> beam.io.WriteToTFRecord(
                    str(out / split), file_name_suffix=".gz", coder=beam.coders.BytesCoder()
                )
            )
            patterns[split] = str(out / f"{split}-*.gz")
    # Like TFX, with the input metadata next to the graph.
    metadata_io.write_metadata(dataset_metadata.DatasetMetadata(proto), str(out / "graph" / "metadata"))
    return str(out / "graph"), patterns


@dataclasses.dataclass(frozen=True)
class Transformed:
    """Windows and catalog after Transform.

    `raw` holds the windows by split in the form that the evaluator reads. `files` and `catalog_files` hold
    transformed Examples.
    """

    raw: dict[str, Windows]
    graph: str
    files: dict[str, list[str]]
    catalog_graph: str
    catalog_files: list[str]
    resolved: ResolvedFeatures

    @classmethod
    def of(
        cls,
        out: Path,
        events: Events,
        cutter: WindowCutter,
        items: dict[str, list[Any]],
        resolved: ResolvedFeatures = ALL_AGGREGATES,
        users: pa.Table | None = None,
    ) -> Transformed:
        """Cuts and transforms windows, with files below `out`; `resolved` names columns of `users` and
        `items`.
        """
        from functools import partial

        import tensorflow as tf

        from two_tower.trainer.model.preprocessing import catalog_preprocessing_fn, preprocessing_fn

        def user_columns(user_id: np.ndarray) -> dict[str, pa.ListArray]:
            assert users is not None
            known = {user: row for row, user in enumerate(users["user_id"].to_pylist())}
            rows = pa.array([known.get(user) for user in user_id.tolist()], pa.int32())
            return encode_columns(users.take(rows), resolved.users, "users")

        batches, _ = cutter.cut(events, user_columns if users is not None else None)
        windows = {
            split: write_examples(out / f"Split-{split}" / "data_tfrecord-0.gz", [batch])
            for split, batch in batches.items()
        }
        graph, patterns = transform(
            out / "interactions",
            "interactions",
            windows,
            partial(
                preprocessing_fn,
                custom_config={
                    "history_length": cutter.history_length,
                    "aggregates": resolved.history,
                    "users": [dataclasses.asdict(spec) for spec in resolved.users],
                },
            ),
            resolved.users,
        )
        catalog = write_examples(out / "catalog.gz", [catalog_batch(items)])
        catalog_graph, catalog_patterns = transform(
            out / "catalog",
            "catalog",
            {"catalog": catalog},
            partial(
                catalog_preprocessing_fn,
                custom_config={"items": [dataclasses.asdict(spec) for spec in resolved.items]},
            ),
            resolved.items,
        )
        return cls(
            {split: read_windows(str(out / f"Split-{split}"), resolved.users) for split in batches},
            graph,
            {split: sorted(tf.io.gfile.glob(pattern)) for split, pattern in patterns.items()},
            catalog_graph,
            sorted(tf.io.gfile.glob(catalog_patterns["catalog"])),
            resolved,
        )

    def batch(self, split: str) -> dict[str, Any]:
        """Returns all transformed windows of a split, in the order of `raw`."""
        import tensorflow as tf
        import tensorflow_transform as tft

        spec = tft.TFTransformOutput(self.graph).transformed_feature_spec()
        serialized = list(tf.data.TFRecordDataset(self.files[split], "GZIP"))
        return dict(tf.io.parse_example(tf.stack(serialized), spec))

    def training_data(self, history_length: int = HISTORY_LENGTH, repeats: bool = True) -> TrainingData:
        """Returns what a training reads."""
        from two_tower.trainer.loop.training_data import TrainingData

        return TrainingData(
            self.files["train"],
            self.files["eval"],
            self.graph,
            self.catalog_files,
            self.catalog_graph,
            history_length,
            repeats,
            self.resolved,
        )


def small_world(out: Path, repeats: bool = True) -> Transformed:
    """Transforms the log of this module."""
    return Transformed.of(out, events(), WindowCutter(SPLIT, repeats, HISTORY_LENGTH, 10), catalog_items())


@dataclasses.dataclass(frozen=True)
class Built:
    """Model of random weights, in memory and saved, with exact search."""

    model: TwoTowerModel
    table: CatalogTable
    towers: Towers
    towers_path: str
    served_path: str

    @classmethod
    def of(cls, world: Transformed, out: Path, config: TrainerConfig, max_k: int) -> Built:
        """Builds a model and saves it below `out`."""
        import tensorflow as tf
        import tensorflow_transform as tft

        from two_tower.trainer.loop.two_tower_model import TwoTowerModel
        from two_tower.trainer.loss.sampling import log_sampling_probability
        from two_tower.trainer.model.catalog_table import CatalogArrays, CatalogTable
        from two_tower.trainer.model.signatures import Towers

        output = tft.TFTransformOutput(world.graph)
        catalog_output = tft.TFTransformOutput(world.catalog_graph)
        catalog = CatalogArrays.read(world.catalog_files, catalog_output.transformed_feature_spec())
        train_items = [int(item) for item in output.vocabulary_by_name(features.ITEM_VOCABULARY)]
        table = CatalogTable(catalog, np.array(train_items))
        users = output.vocabulary_size_by_name(features.USER_VOCABULARY)
        log_q = log_sampling_probability(catalog, dict.fromkeys(train_items, 1))
        model = TwoTowerModel(table, log_q, users, HISTORY_LENGTH, config)
        model.compute_loss(world.batch("train"))
        draw = np.random.default_rng(4)
        for weight in model.trainable_weights:
            weight.assign(draw.normal(0, 0.4, weight.shape))
        layer = output.transform_features_layer()
        towers = Towers(
            layer, table, model.query_tower, model.candidate_tower, HISTORY_LENGTH, world.resolved
        )
        towers.save(str(out / "towers"))
        retrieval = retrieval_model(tf.saved_model.load(str(out / "towers")), max_k)
        retrieval.save(str(out / "served"))
        return cls(model, table, towers, str(out / "towers"), str(out / "served"))


def retrieval_model(
    towers: Any, max_k: int, settings: ScannSettings | None = None, repeats_recommendable: bool = True
) -> RetrievalModel:
    """Builds the served model of towers, over ScaNN with some settings or exact search."""
    from two_tower.serving.index import ExactIndex, ScannIndex
    from two_tower.serving.retrieval_model import RetrievalModel

    item_id = towers.catalog()["item_id"]
    embeddings = towers.candidate_embedding(item_id)["embedding"]
    index = ScannIndex(embeddings, settings, max_k) if settings else ExactIndex(embeddings)
    return RetrievalModel(towers, index, item_id, max_k, (), repeats_recommendable)


def requests(windows: Windows, queries: Queries, exclude: bool = False) -> dict[str, Any]:
    """Builds one request of all queries, like the evaluator."""
    import tensorflow as tf

    rows = np.arange(len(queries))
    batch = history_batch(windows, queries, rows, HISTORY_LENGTH, exclude)
    if not exclude:
        del batch["exclude_item_id"]
    return {name: tf.constant(values) for name, values in batch.items()}
