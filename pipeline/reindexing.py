"""`two-tower reindex`: places today's items in a trained model, which is then judged and pushed.

The DAG is that of a run, with CatalogPlacer in Trainer's place. Pipeline name, metadata store and pointers
are the same. So the latest blessed model is the same too, and reports cover re-indexings like runs.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from two_tower.base import console, storage
from two_tower.base.errors import UserError
from two_tower.data_directory.feature_columns import FeatureSpec, ResolvedFeatures, resolve
from two_tower.data_directory.settings import FeaturesConfig
from two_tower.data_directory.verification import verify_items
from two_tower.pipeline.checks.settings_for_data import check_index
from two_tower.pipeline.runs.lineage import Lineage, StoredArtifact, lineage_of
from two_tower.pipeline.settings import run_file
from two_tower.pipeline.settings.pipeline_config import PipelineConfig
from two_tower.schema.request_inputs import IdKinds
from two_tower.serving.versions import find_model
from two_tower.trainer.settings import recorded

if TYPE_CHECKING:
    from ml_metadata.proto import metadata_store_pb2
    from tfx.orchestration import pipeline as tfx_pipeline

    from two_tower.data_directory.manifest import Manifest

# Sections of settings for a re-indexed model. All other settings are those of its training.
SECTIONS = ("index", "evaluation", "gate")
# Properties that TFX sets on every artifact.
_TFX = ("tfx_version", "is_external", "name", "state", "pipeline_name", "producer_component")


class Reindexing:
    """Re-indexing with model, items and settings that fit each other."""

    def __init__(self, model: str, items: str, output: str | None, overrides: Sequence[str]) -> None:
        """Checks model, items and settings before long work starts.

        Args:
          model: the model's directory, see `versions.find_model`.
          items: a data directory, or one with items/ alone; a path or URL.
          output: output directory of the run; None: that of the model's run.
          overrides: settings such as "gate.min_recall=0.1", over those that judged the model.

        Raises:
          UserError: no model, or its training is not available. Items are damaged, repeated, unavailable, or
            lack a column of the model. A setting belongs to a section that re-indexing does not take.
        """
        self.lineage = lineage_of(find_model(model))
        check_release(model, self.lineage.trainer)
        self.resolved = ResolvedFeatures.from_json(self.lineage.features)
        self.config = _config(self.lineage, overrides)
        self.output = os.path.abspath(output or self.lineage.output)
        self._items = storage.absolute(items)
        manifest = verify_items(self._items)
        check_ids(items, manifest, self.lineage)
        check_features(items, manifest, self.resolved.items)
        check_index(self._items, self.config.index, manifest.counts["items"])
        self._digest = manifest.digest
        with console.hushed():
            from two_tower.trainer.loop import warm_start  # last, because it imports TensorFlow

        warm_start.left_by(self.lineage.towers.uri)

    def run(self) -> None:
        """Runs the DAG in the output directory; raises UserError and ComponentFailed as `run_local` does."""
        from two_tower.pipeline import beam_options
        from two_tower.pipeline.local_runner import launch

        beam_options.check(self.config.beam_args, (self._items, self.output))
        launch(self.output, self._draw)

    def _draw(self, connection: metadata_store_pb2.ConnectionConfig) -> tfx_pipeline.Pipeline:
        from tfx.dsl.components.common.importer import Importer
        from tfx.orchestration import pipeline as tfx_pipeline
        from tfx.types.standard_artifacts import Examples, Model, TransformGraph

        from two_tower.components.catalog_placer.component import CatalogPlacer
        from two_tower.pipeline import beam_options
        from two_tower.pipeline import create_pipeline as dag
        from two_tower.pipeline.local_runner import inputs_here

        def earlier(artifact: StoredArtifact, kind: type, name: str, with_facts: bool = False) -> Any:
            # A store that knows the artifact gives it again; another store registers it.
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
        served = dag.from_towers_on(
            windows.outputs["result"],
            catalog.outputs["examples"],
            placer.outputs["model"],
            inputs_here(self._items, self.output, self._digest),
            self.config,
            dag.settled_before(self.config, self.lineage.history_length),
            self.resolved,
        )
        return tfx_pipeline.Pipeline(
            pipeline_name=dag.PIPELINE_NAME,
            pipeline_root=os.path.join(self.output, "artifacts"),
            components=[windows, towers, transform_graph, catalog_graph, catalog, placer, *served],
            enable_cache=True,
            metadata_connection_config=connection,
            beam_pipeline_args=beam_options.completed(self.config.beam_args),
        )


def check_release(model: str, trainer: str) -> None:
    """Raises UserError for a model trained by an earlier release, with settings that no longer exist.

    Args:
      model: the model's directory, for messages.
      trainer: TrainerConfig as JSON, recorded by the training's run.
    """
    try:
        recorded(trainer)
    except UserError as error:
        raise UserError(
            f"{model}: an earlier release of this program trained the model, with other settings ({error}) "
            "Its towers cannot be built again. Train it with `two-tower run`, and re-index the new model."
        ) from error


def check_ids(items: str, manifest: Manifest, lineage: Lineage) -> None:
    """Raises UserError if the items have ids of another kind than the model's data.

    Args:
      items: the items' directory, for messages.
      manifest: manifest of the items.
      lineage: lineage of the model.
    """
    trained = IdKinds.of(lineage.interactions.custom_properties).item_id
    if manifest.item_ids != trained:
        raise UserError(
            f"{items}: the items' ids ({manifest.item_ids}) are not those of the model ({trained}). Ingest "
            "the items as the model's data was ingested."
        )


def check_features(items: str, manifest: Manifest, specs: Sequence[FeatureSpec]) -> None:
    """Raises UserError if items lack a column of the model, or have it in another kind or width.

    Args:
      items: the items' directory, for messages.
      manifest: manifest of the items.
      specs: columns of items/ that the model takes.
    """
    named = tuple(
        ":".join([spec.column, spec.kind, *([str(spec.width)] if spec.width else [])]) for spec in specs
    )
    try:
        resolve(FeaturesConfig(items=named), manifest, with_aggregates=False)
    except UserError as error:
        raise UserError(
            f"{items}: the items do not fit the model, which was trained with columns of items/ ({error})"
        ) from error


def _config(lineage: Lineage, overrides: Sequence[str]) -> PipelineConfig:
    """Returns the settings that indexed and judged the model, with overrides."""
    for override in overrides:
        section = override.partition("=")[0].strip().partition(".")[0]
        if "=" in override and section not in SECTIONS:
            raise UserError(
                f"--set {override}: re-indexing takes settings of {', '.join(SECTIONS)} alone. Leave it out, "
                "or train a new model."
            )
    values = {**PipelineConfig().to_dict(), "seed": lineage.seed}
    for section, then in lineage.settings.items():
        # Settings of an earlier release that no longer exist are dropped.
        values[section] |= {name: value for name, value in then.items() if name in values[section]}
    return run_file.with_overrides(values, overrides)


def _facts(properties: Mapping[str, str | int]) -> dict[str, str | int]:
    return {name: value for name, value in properties.items() if name not in _TFX}
