"""Pipeline: the components and their channels."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from typing import Any

from ml_metadata.proto import metadata_store_pb2
from tfx.components import ExampleValidator, StatisticsGen, Transform
from tfx.dsl.components.base.base_component import BaseComponent
from tfx.orchestration import pipeline as tfx_pipeline
from tfx.orchestration.data_types import RuntimeParameter
from tfx.proto import transform_pb2
from tfx.types import BaseChannel

from two_tower.base import pointers
from two_tower.base.import_closure import import_digest
from two_tower.base.settings import to_plain
from two_tower.components.anomaly_gate.component import AnomalyGate
from two_tower.components.approved_statistics.component import ApprovedStatistics
from two_tower.components.auto_settings.component import AutoSettings
from two_tower.components.auto_settings.settled import Sections
from two_tower.components.catalog_example_gen.component import CatalogExampleGen
from two_tower.components.catalog_example_gen.executor import SPLIT as CATALOG_SPLIT
from two_tower.components.comparable_statistics.component import ComparableStatistics
from two_tower.components.comparable_statistics.distributions import (
    DRIFT_PAIR,
    SKEW_PAIR,
    compared_for_drift,
    compared_for_skew,
    compared_to_json,
    statistics_options,
)
from two_tower.components.curated_schema import schemas
from two_tower.components.curated_schema.component import CuratedSchema
from two_tower.components.distribution_validator.component import DistributionValidator
from two_tower.components.interaction_example_gen.component import InteractionExampleGen
from two_tower.components.pusher.component import Pusher
from two_tower.components.retrieval_evaluator.component import RetrievalEvaluator
from two_tower.components.scann_indexer.component import ScannIndexer
from two_tower.components.trainer.component import Trainer
from two_tower.data_directory.feature_columns import ResolvedFeatures
from two_tower.evaluation.gate.judge import check_slice_names
from two_tower.pipeline import beam_options
from two_tower.pipeline.settings.pipeline_config import PipelineConfig

PIPELINE_NAME = "two-tower"

AUTO_SETTINGS = "AutoSettings"
# Component descriptions that a run prints. Jobs have two more, see `compiled_job`.
DESCRIPTIONS = {
    AUTO_SETTINGS: "settles the settings that follow from the data",
    "InteractionExampleGen": "cuts events into windows of train, eval and test",
    "CatalogExampleGen": "encodes the items as Examples",
    "StatisticsGen": "computes statistics of the windows",
    "CatalogStatisticsGen": "computes statistics of the catalog",
    "InteractionSchema": "writes the curated schema of the windows",
    "CatalogSchema": "writes the curated schema of the catalog",
    "ExampleValidator": "checks the windows against their schema",
    "CatalogValidator": "checks the catalog against its schema",
    "ComparableStatistics": "bins both sides of each comparison alike",
    "DriftValidator": "compares train with the previous run",
    "SkewValidator": "compares test with train",
    "AnomalyGate": "stops the run on anomalies, drift or skew",
    "ApprovedStatistics": "keeps the statistics for the next run",
    "Transform": "computes vocabularies, history aggregates and example age",
    "CatalogTransform": "computes the catalog's vocabularies",
    "Trainer": "trains the two towers",
    "ScannIndexer": "embeds the catalog and builds the index",
    "RetrievalEvaluator": "measures Recall@k of the servable model and judges it",
    "Pusher": "pushes the model if it is blessed",
}
# Descriptions of the nodes that replace Trainer when a model is re-indexed.
REINDEXING = {
    "TrainedWindows": "imports the windows of the training's run",
    "TrainedTowers": "imports the trained towers",
    "TrainedTransform": "imports the transform graph of the windows",
    "TrainedCatalogTransform": "imports the transform graph of the catalog",
    "CatalogPlacer": "places today's items in the towers by artist, album and content",
}


@dataclasses.dataclass(frozen=True)
class RunInputs:
    """Inputs of a run. A job's parameters stand for what its submission or its first steps know.

    Attributes:
      data: the data directory.
      root: directory of `pushed/` and the pointers: a run's output directory, or a job's root.
      data_digest: digest of the data's manifest, a cache key of the example generators.
      latest_blessed: text of the pointer to the latest blessed model, see `base/pointers.py`.
      latest_approved: text of the pointer to the latest approved statistics.
      run: key of the job's run, see InputVerifier; "" for runs on this machine.
      submitted: a job's runtime parameters by name, see `per_run_settings`.
      first: a job's first steps, which precede all others.
    """

    data: str | RuntimeParameter
    root: str | RuntimeParameter
    data_digest: Any
    latest_blessed: Any = pointers.NOTHING
    latest_approved: Any = pointers.NOTHING
    run: Any = ""
    submitted: Mapping[str, RuntimeParameter] = dataclasses.field(default_factory=dict)
    first: tuple[BaseComponent, ...] = ()

    def submitted_of(self, section: str) -> dict[str, RuntimeParameter]:
        """Returns the runtime parameters of a section of the settings."""
        return {name: one for name, one in self.submitted.items() if name.startswith(f"{section}_")}


def create_pipeline(
    inputs: RunInputs,
    pipeline_root: str,
    config: PipelineConfig,
    resolved: ResolvedFeatures,
    metadata_connection_config: metadata_store_pb2.ConnectionConfig | None = None,
) -> tfx_pipeline.Pipeline:
    """Returns the pipeline from a data directory to a pushed model.

    Args:
      inputs: what the run begins from.
      pipeline_root: directory of the artifacts.
      config: the run's settings.
      resolved: the features of `config.features`, by `feature_columns.resolve`.
      metadata_connection_config: the metadata store, for runners that need one.
    """
    auto = AutoSettings(
        inputs.data,
        inputs.data_digest,
        Sections.of(config).to_json(),
        json.dumps(config.automatic),
        resolved.to_json(),
        import_digest("two_tower.trainer.model.preprocessing"),
        executor_digest(AutoSettings),
        inputs.latest_blessed if config.trainer.warm_start else None,
        inputs.submitted_of("windows"),
    )
    settled = auto.handed_on()
    interactions = InteractionExampleGen(
        inputs.data,
        inputs.data_digest,
        settled["split"],
        settled["windows"],
        executor_digest(InteractionExampleGen),
        # Users' features alone: a new column of items or aggregate does not run the windows again.
        ResolvedFeatures(users=resolved.users).to_json(),
        inputs.submitted_of("windows"),
    )
    catalog = catalog_examples(inputs.data, inputs.data_digest, resolved)
    examples = interactions.outputs["examples"]
    described = _describe(examples, catalog.outputs["examples"], resolved)
    for schema in (described.interaction_schema, described.catalog_schema):
        schema.add_upstream_nodes(inputs.first)
    validation = _validate(examples, described, inputs, config, settled["made_with"], resolved)
    transform, catalog_transform = _transform(
        examples, catalog.outputs["examples"], described, settled["preprocessing"], resolved
    )
    for after_gate in (validation.approved, transform, catalog_transform):
        after_gate.add_upstream_node(validation.anomaly_gate)
    trainer = _train(examples, transform, catalog_transform, inputs.latest_blessed, config, settled, resolved)
    served = from_towers_on(
        examples,
        catalog.outputs["examples"],
        trainer.outputs["model"],
        inputs,
        config,
        settled,
        resolved,
        trainer.outputs["model_run"],
    )
    return tfx_pipeline.Pipeline(
        pipeline_name=PIPELINE_NAME,
        pipeline_root=pipeline_root,
        components=[
            *inputs.first,
            auto,
            interactions,
            catalog,
            *described.nodes(),
            *validation.nodes(),
            transform,
            catalog_transform,
            trainer,
            *served,
        ],
        enable_cache=True,
        metadata_connection_config=metadata_connection_config,
        beam_pipeline_args=beam_options.completed(config.beam_args),
    )


@dataclasses.dataclass(frozen=True)
class _Described:
    """Statistics, schemas and anomalies of the windows and of the catalog, in DAG order."""

    statistics: BaseComponent
    catalog_statistics: BaseComponent
    interaction_schema: BaseComponent
    catalog_schema: BaseComponent
    validator: BaseComponent
    catalog_validator: BaseComponent

    def nodes(self) -> list[BaseComponent]:
        """Returns the nodes in DAG order."""
        return [getattr(self, field.name) for field in dataclasses.fields(self)]


def _describe(examples: BaseChannel, catalog: BaseChannel, resolved: ResolvedFeatures) -> _Described:
    """Returns the nodes that compute statistics and check examples against curated schemas."""
    statistics = StatisticsGen(examples=examples, stats_options=statistics_options())
    catalog_statistics = StatisticsGen(examples=catalog).with_id("CatalogStatisticsGen")
    curated = executor_digest(CuratedSchema)
    interaction_schema = CuratedSchema(
        text=schemas.read("interactions", resolved.users), source_digest=curated
    ).with_id("InteractionSchema")
    catalog_schema = CuratedSchema(
        text=schemas.read("catalog", resolved.items), source_digest=curated
    ).with_id("CatalogSchema")
    validator = ExampleValidator(
        statistics=statistics.outputs["statistics"], schema=interaction_schema.outputs["schema"]
    )
    catalog_validator = ExampleValidator(
        statistics=catalog_statistics.outputs["statistics"], schema=catalog_schema.outputs["schema"]
    ).with_id("CatalogValidator")
    return _Described(
        statistics, catalog_statistics, interaction_schema, catalog_schema, validator, catalog_validator
    )


@dataclasses.dataclass(frozen=True)
class _Validation:
    """Drift, skew and the anomaly gate, in DAG order."""

    comparable: BaseComponent
    drift: BaseComponent
    skew: BaseComponent
    anomaly_gate: BaseComponent
    approved: BaseComponent

    def nodes(self) -> list[BaseComponent]:
        """Returns the nodes in DAG order."""
        return [getattr(self, field.name) for field in dataclasses.fields(self)]


def _validate(
    examples: BaseChannel,
    described: _Described,
    inputs: RunInputs,
    config: PipelineConfig,
    made_with: Any,
    resolved: ResolvedFeatures,
) -> _Validation:
    """Returns the nodes that compare distributions and stop the run on anomalies."""
    statistics = described.statistics.outputs["statistics"]
    features = resolved.to_json()
    comparable = ComparableStatistics(
        examples=examples,
        statistics=statistics,
        features=features,
        made_with=made_with,
        latest_approved=inputs.latest_approved,
        source_digest=executor_digest(ComparableStatistics),
    )
    drift, skew = (
        DistributionValidator(
            comparable.outputs["comparable"],
            compared_to_json(compared(resolved)),
            inputs.submitted.get(f"validation_{limit}", getattr(config.validation, limit)),
            json.dumps(pair),
            executor_digest(DistributionValidator),
        ).with_id(name)
        for name, compared, limit, pair in (
            ("DriftValidator", compared_for_drift, "max_drift", DRIFT_PAIR),
            ("SkewValidator", compared_for_skew, "max_skew", SKEW_PAIR),
        )
    )
    anomaly_gate = AnomalyGate(
        interactions=described.validator.outputs["anomalies"],
        catalog=described.catalog_validator.outputs["anomalies"],
        statistics=statistics,
        catalog_statistics=described.catalog_statistics.outputs["statistics"],
        comparable=comparable.outputs["comparable"],
        drift=drift.outputs["anomalies"],
        skew=skew.outputs["anomalies"],
        validation=_json(config.validation),
        features=features,
        source_digest=executor_digest(AnomalyGate),
        **inputs.submitted_of("validation"),
    )
    approved = ApprovedStatistics(
        examples=examples,
        statistics=statistics,
        made_with=made_with,
        root=inputs.root,
        run=inputs.run,
        source_digest=executor_digest(ApprovedStatistics),
    )
    return _Validation(comparable, drift, skew, anomaly_gate, approved)


def _transform(
    examples: BaseChannel,
    catalog: BaseChannel,
    described: _Described,
    settled_preprocessing: Any,
    resolved: ResolvedFeatures,
) -> tuple[Transform, Transform]:
    """Returns the Transforms of the windows and of the catalog."""
    # The served model transforms the test windows itself in evaluation.
    transform = Transform(
        examples=examples,
        schema=described.interaction_schema.outputs["schema"],
        preprocessing_fn="two_tower.trainer.model.preprocessing.preprocessing_fn",
        splits_config=transform_pb2.SplitsConfig(analyze=["train"], transform=["train", "eval"]),
        # StatisticsGen covers the inputs; statistics of the outputs would double the time.
        disable_statistics=True,
        custom_config={},
    )
    # Transform takes a mapping alone, and this text is known when the job runs.
    transform.spec.exec_properties["custom_config"] = settled_preprocessing
    catalog_transform = Transform(
        examples=catalog,
        schema=described.catalog_schema.outputs["schema"],
        preprocessing_fn="two_tower.trainer.model.preprocessing.catalog_preprocessing_fn",
        splits_config=transform_pb2.SplitsConfig(analyze=[CATALOG_SPLIT], transform=[CATALOG_SPLIT]),
        disable_statistics=True,
        custom_config={
            "items": [dataclasses.asdict(spec) for spec in resolved.items],
            "source_digest": import_digest("two_tower.trainer.model.preprocessing"),
        },
    ).with_id("CatalogTransform")
    return transform, catalog_transform


def _train(
    interactions: BaseChannel,
    transform: Transform,
    catalog_transform: Transform,
    latest_blessed: Any,
    config: PipelineConfig,
    settled: Mapping[str, Any],
    resolved: ResolvedFeatures,
) -> Trainer:
    """Returns the Trainer; the latest blessed model is its initial model with `trainer.warm_start`."""
    return Trainer(
        interactions=interactions,
        examples=transform.outputs["transformed_examples"],
        transform_graph=transform.outputs["transform_graph"],
        catalog=catalog_transform.outputs["transformed_examples"],
        catalog_graph=catalog_transform.outputs["transform_graph"],
        trainer=settled["trainer"],
        history_length=settled["history_length"],
        seed=config.seed,
        features=resolved.to_json(),
        cutoff=settled["cutoff"],
        source_digest=executor_digest(Trainer),
        latest_blessed=latest_blessed if config.trainer.warm_start else None,
    )


def catalog_examples(
    data: str | RuntimeParameter, data_digest: str | RuntimeParameter, resolved: ResolvedFeatures
) -> CatalogExampleGen:
    """Returns the component that encodes the items of a data directory; see `create_pipeline`."""
    return CatalogExampleGen(
        data,
        data_digest,
        # Items' features alone: a new column of users does not run the catalog again.
        ResolvedFeatures(items=resolved.items).to_json(),
        executor_digest(CatalogExampleGen),
    )


def executor_digest(component: type[BaseComponent]) -> str:
    """Returns the digest of what a component's executor imports, which its cache keys on."""
    return import_digest(component.EXECUTOR_SPEC.executor_class.__module__)


def from_towers_on(
    interactions: BaseChannel,
    catalog: BaseChannel,
    towers: BaseChannel,
    inputs: RunInputs,
    config: PipelineConfig,
    settled: Mapping[str, Any],
    resolved: ResolvedFeatures,
    training: BaseChannel | None = None,
) -> list[BaseComponent]:
    """Returns the components from towers to push, shared by trained and re-indexed models.

    Args:
      interactions: the windows.
      catalog: CatalogExampleGen's Examples of the items.
      towers: a model in Trainer's output format.
      inputs: what the run begins from.
      config: settings of the index, the evaluation and the gate.
      settled: `evaluation` and `gate` as JSON, `history_length` and `cutoff`, see `AutoSettings.handed_on`.
      resolved: the features of the towers.
      training: the Trainer's `model_run`, if this run trained the towers.

    Raises:
      UserError: the gate limits a slice that does not exist.
    """
    check_slice_names(config.gate, [spec.name for spec in (*resolved.users, *resolved.items)])
    indexer = ScannIndexer(
        interactions=interactions,
        catalog=catalog,
        towers=towers,
        index=_json(config.index),
        target_recall=inputs.submitted.get("gate_min_ann_recall", config.gate.min_ann_recall),
        cutoff=settled["cutoff"],
        seed=config.seed,
        history_length=settled["history_length"],
        features=resolved.to_json(),
        source_digest=executor_digest(ScannIndexer),
    )
    evaluator = RetrievalEvaluator(
        examples=interactions,
        model=indexer.outputs["model"],
        training=training,
        evaluation_config=settled["evaluation"],
        gate_config=settled["gate"],
        history_length=settled["history_length"],
        seed=config.seed,
        features=resolved.to_json(),
        source_digest=executor_digest(RetrievalEvaluator),
        latest_blessed=inputs.latest_blessed,
        root=inputs.root,
        submitted=inputs.submitted_of("gate"),
    )
    pusher = Pusher(
        model=indexer.outputs["model"],
        model_blessing=evaluator.outputs["blessing"],
        root=inputs.root,
        run=inputs.run,
        source_digest=executor_digest(Pusher),
    )
    return [indexer, evaluator, pusher]


def settled_before(config: PipelineConfig, history_length: int) -> dict[str, Any]:
    """Returns settings that are known as the DAG is drawn, in the form of `AutoSettings.handed_on`."""
    return {
        "evaluation": _json(config.evaluation),
        "gate": _json(config.gate),
        "history_length": history_length,
        "cutoff": config.gate.cutoff,
    }


def _json(config: Any) -> str:
    """Formats settings as a parameter. Equal settings give equal text, which caching relies on."""
    return json.dumps(to_plain(config), sort_keys=True)
