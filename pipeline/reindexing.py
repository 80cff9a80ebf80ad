"""`two-tower reindex`: today's items in a model that is trained already, judged and pushed as a new one is.

The DAG is that of a run with CatalogPlacer in Trainer's place, in the same metadata store: it is under the
same name, so that the latest blessed model is the same, and reports are of it as of any run.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from two_tower.base import storage
from two_tower.base.errors import UserError
from two_tower.base.settings import from_plain
from two_tower.data_directory.feature_columns import FeatureSpec, ResolvedFeatures, resolve
from two_tower.data_directory.settings import FeaturesConfig
from two_tower.data_directory.verification import verify_items
from two_tower.pipeline.runs.lineage import Lineage, StoredArtifact, lineage_of
from two_tower.pipeline.settings import run_file
from two_tower.pipeline.settings.pipeline_config import PipelineConfig
from two_tower.serving.versions import find_model
from two_tower.trainer.settings import TrainerConfig

if TYPE_CHECKING:
    from ml_metadata.proto import metadata_store_pb2
    from tfx.orchestration import pipeline as tfx_pipeline

    from two_tower.data_directory.manifest import Manifest

# Settings that a re-indexed model takes; all else is its training's.
SECTIONS = ("index", "evaluation", "gate")
# What TFX sets itself, on every artifact.
_TFX = ("tfx_version", "is_external", "name", "state", "pipeline_name", "producer_component")


class Reindexing:
    """A re-indexing that is known to make sense: model, items and settings fit each other."""

    def __init__(self, model: str, items: str, output: str | None, overrides: Sequence[str]) -> None:
        """Looks at all that can be looked at before long work starts.

        Args:
          model: see `query.find_model`.
          items: a data directory, or one with items/ alone; a path or URL.
          output: where the run goes, an output directory; None: where the model's run is.
          overrides: settings as in "gate.min_recall=0.1", over those that the model was judged by.

        Raises:
          UserError: no model, or none whose training is at hand; items that are damaged, not unique, none of
            them available, or without a column that the model needs; a setting of which a re-indexed model
            takes no other.
        """
        self.lineage = lineage_of(find_model(model))
        check_release(model, self.lineage.trainer)
        self.resolved = ResolvedFeatures.from_json(self.lineage.features)
        self.config = _config(self.lineage, overrides)
        self.output = os.path.abspath(output or self.lineage.output)
        self._items = storage.absolute(items)
        manifest = verify_items(self._items)
        check_features(items, manifest, self.resolved.items)
        self._digest = manifest.digest
        from two_tower.trainer.loop import warm_start  # last, since TensorFlow comes with it

        warm_start.left_by(self.lineage.towers.uri)

    def run(self) -> None:
        """Runs the DAG in the output directory. Raises UserError and ComponentFailed, as `run_local` does."""
        from two_tower.pipeline.local_runner import launch

        launch(self.output, self._draw)

    def _draw(self, connection: metadata_store_pb2.ConnectionConfig) -> tfx_pipeline.Pipeline:
        from tfx.dsl.components.common.importer import Importer
        from tfx.orchestration import pipeline as tfx_pipeline
        from tfx.types.standard_artifacts import Examples, Model, TransformGraph

        from two_tower.components.catalog_placer.component import CatalogPlacer
        from two_tower.pipeline import create_pipeline as dag

        def earlier(artifact: StoredArtifact, kind: type, name: str, with_facts: bool = False) -> Any:
            # In the store that knows it, it is the same artifact; another store is told of it.
            facts = _facts(artifact.custom_properties) if with_facts else None
            properties = dict(artifact.properties) if with_facts else None
            return Importer(artifact.uri, kind, properties=properties, custom_properties=facts).with_id(name)

        windows = earlier(self.lineage.interactions, Examples, "TrainedWindows", with_facts=True)
        towers = earlier(self.lineage.towers, Model, "TrainedTowers")
        transform_graph = earlier(self.lineage.transform_graph, TransformGraph, "TrainedTransform")
        catalog_graph = earlier(self.lineage.catalog_graph, TransformGraph, "TrainedCatalogTransform")
        catalog = dag.catalog_examples(self._items, self._digest, self.resolved)
        placer = CatalogPlacer(
            catalog=catalog.outputs["examples"],
            interactions=windows.outputs["result"],
            towers=towers.outputs["result"],
            transform_graph=transform_graph.outputs["result"],
            catalog_graph=catalog_graph.outputs["result"],
            trainer=self.lineage.trainer,
            history_length=self.lineage.history_length,
            features=self.lineage.features,
            items_digest=self._digest,
            source_digest=dag.executor_digest(CatalogPlacer),
        )
        blessed = dag.latest_blessed_model()
        served = dag.from_towers_on(
            windows.outputs["result"],
            placer.outputs["model"],
            blessed.outputs["model"],
            os.path.join(self.output, "pushed"),
            self.config,
            self.lineage.history_length,
            self.resolved,
        )
        return tfx_pipeline.Pipeline(
            pipeline_name=dag.PIPELINE_NAME,
            pipeline_root=os.path.join(self.output, "artifacts"),
            components=[windows, towers, transform_graph, catalog_graph, catalog, placer, blessed, *served],
            enable_cache=True,
            metadata_connection_config=connection,
            beam_pipeline_args=list(self.config.beam_args),
        )


def check_release(model: str, trainer: str) -> None:
    """Raises UserError where a training was of an earlier release, with settings that there are no more.

    Args:
      model: for messages.
      trainer: TrainerConfig as JSON, as the training's run recorded it.
    """
    try:
        from_plain(TrainerConfig, json.loads(trainer), "trainer")
    except UserError as error:
        raise UserError(
            f"{model}: an earlier release of this program trained the model, with other settings ({error}) "
            "Its towers cannot be built again: train it with `two-tower run`, and re-index the new model."
        ) from error


def check_features(items: str, manifest: Manifest, specs: Sequence[FeatureSpec]) -> None:
    """Raises UserError where items lack a column that a model needs, or have one of another kind or width.

    Args:
      items: where they are, for messages.
      manifest: of them.
      specs: the columns of items/ that the model knows.
    """
    named = tuple(
        ":".join([spec.column, spec.kind, *([str(spec.width)] if spec.width else [])]) for spec in specs
    )
    try:
        resolve(FeaturesConfig(items=named), manifest, with_aggregates=False)
    except UserError as error:
        raise UserError(
            f"{items}: its items do not fit the model, which was trained with columns of items/ ({error})"
        ) from error


def _config(lineage: Lineage, overrides: Sequence[str]) -> PipelineConfig:
    """The settings by which the model was indexed and judged, with others over them."""
    for override in overrides:
        section = override.partition("=")[0].strip().partition(".")[0]
        if "=" in override and section not in SECTIONS:
            raise UserError(
                f"--set {override}: re-indexing takes settings of {', '.join(SECTIONS)}; all else is as the "
                "model was trained."
            )
    values = {**PipelineConfig().to_dict(), "seed": lineage.seed}
    for section, then in lineage.settings.items():
        # A setting that there was when the model was made, and is no more, means nothing now.
        values[section] |= {name: value for name, value in then.items() if name in values[section]}
    return run_file.with_overrides(PipelineConfig.from_dict(values), overrides)


def _facts(properties: Mapping[str, str | int]) -> dict[str, str | int]:
    return {name: value for name, value in properties.items() if name not in _TFX}
