"""The DAG: what is wired to what, and nothing else."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

from ml_metadata.proto import metadata_store_pb2
from tfx.components import DistributionValidator, ExampleValidator, StatisticsGen, Transform
from tfx.dsl.components.base.base_component import BaseComponent
from tfx.dsl.components.common.resolver import Resolver, ResolverStrategy
from tfx.dsl.input_resolution.strategies.latest_blessed_model_strategy import LatestBlessedModelStrategy
from tfx.orchestration import pipeline as tfx_pipeline
from tfx.orchestration.data_types import RuntimeParameter
from tfx.proto import transform_pb2
from tfx.types import BaseChannel, Channel
from tfx.types.experimental.simple_artifacts import Statistics
from tfx.types.standard_artifacts import Model, ModelBlessing

from two_tower.base.import_closure import import_digest
from two_tower.components.anomaly_gate.component import AnomalyGate
from two_tower.components.approved_statistics.approved import LatestIfAny
from two_tower.components.approved_statistics.component import ApprovedStatistics
from two_tower.components.catalog_example_gen.component import CatalogExampleGen
from two_tower.components.catalog_example_gen.executor import SPLIT as CATALOG_SPLIT
from two_tower.components.comparable_statistics.component import ComparableStatistics
from two_tower.components.comparable_statistics.distributions import (
    DRIFT_PAIR,
    SKEW_PAIR,
    compared_for_drift,
    compared_for_skew,
    statistics_options,
    validator_config,
)
from two_tower.components.curated_schema import schemas
from two_tower.components.curated_schema.component import CuratedSchema
from two_tower.components.interaction_example_gen.component import InteractionExampleGen
from two_tower.components.pusher.component import Pusher
from two_tower.components.retrieval_evaluator.component import RetrievalEvaluator
from two_tower.components.scann_indexer.component import ScannIndexer
from two_tower.components.trainer.component import Trainer
from two_tower.data_directory.feature_columns import ResolvedFeatures
from two_tower.evaluation.gate.judge import check_slice_names
from two_tower.pipeline.settings.pipeline_config import PipelineConfig

PIPELINE_NAME = "two-tower"

# What each component does, for whoever watches a run.
DESCRIPTIONS = {
    "InteractionExampleGen": "cuts listening events into windows, split at one point in time",
    "CatalogExampleGen": "encodes the items",
    "StatisticsGen": "computes statistics of the windows",
    "CatalogStatisticsGen": "computes statistics of the catalog",
    "InteractionSchema": "brings the curated schema of the windows",
    "CatalogSchema": "brings the curated schema of the catalog",
    "ExampleValidator": "holds the windows against their schema",
    "CatalogValidator": "holds the catalog against its schema",
    "LatestApprovedStatistics": "looks for the statistics to compare with",
    "ComparableStatistics": "puts what is compared into the same bins",
    "DriftValidator": "holds train against that of the run before",
    "SkewValidator": "holds test against train",
    "AnomalyGate": "stops the run on anomalies",
    "ApprovedStatistics": "keeps the statistics for the next run",
    "Transform": "computes vocabularies, history aggregates and example age",
    "CatalogTransform": "computes the catalog's vocabularies",
    "Trainer": "trains the two towers",
    "ScannIndexer": "embeds the catalog and builds the index",
    "LatestBlessedModel": "looks for the model to compare with, and to begin from",
    "RetrievalEvaluator": "measures Recall@k of what would be pushed, and judges it",
    "Pusher": "pushes the model if it was blessed",
}
# Of those that stand in Trainer's place when a model is re-indexed.
REINDEXING = {
    "TrainedWindows": "takes the windows of the training's run",
    "TrainedTowers": "takes the towers that were trained",
    "TrainedTransform": "takes the graph that the windows were transformed by",
    "TrainedCatalogTransform": "takes the graph that the catalog was transformed by",
    "CatalogPlacer": "places today's items by artist, album and content",
}


def create_pipeline(
    data: str | RuntimeParameter,
    data_digest: str | RuntimeParameter,
    pipeline_root: str,
    push_directory: str | RuntimeParameter,
    config: PipelineConfig,
    resolved: ResolvedFeatures,
    metadata_connection_config: metadata_store_pb2.ConnectionConfig | None = None,
    latest_strategy: type[ResolverStrategy] = LatestIfAny,
) -> tfx_pipeline.Pipeline:
    """The pipeline from a data directory to a pushed model.

    Args:
      data: the data directory.
      data_digest: its manifest's digest, what the example generators' caching keys on.
      pipeline_root: where artifacts go.
      push_directory: where servers look for numbered versions.
      config: the run's settings.
      resolved: what `config.features` means for the data, by `feature_specs.resolve`.
      metadata_connection_config: the metadata store, for runners that need one.
      latest_strategy: how the runner knows the latest artifact of a type.
    """
    preprocessing = import_digest("two_tower.trainer.model.preprocessing")
    history_length = config.windows.history_length
    features = resolved.to_json()
    # To what need not run again when an item's column or an aggregate is named.
    user_features = ResolvedFeatures(users=resolved.users).to_json()

    interactions = InteractionExampleGen(
        data,
        data_digest,
        _json(config.split),
        _json(config.windows),
        executor_digest(InteractionExampleGen),
        user_features,
    )
    catalog = catalog_examples(data, data_digest, resolved)

    statistics = StatisticsGen(examples=interactions.outputs["examples"], stats_options=statistics_options())
    catalog_statistics = StatisticsGen(examples=catalog.outputs["examples"]).with_id("CatalogStatisticsGen")
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
    latest_approved = Resolver(strategy_class=latest_strategy, approved=Channel(type=Statistics)).with_id(
        "LatestApprovedStatistics"
    )
    # Statistics are compared where these are the same: what else changes them is the data.
    made_with = json.dumps(
        {
            "split.protocol": config.split.protocol,
            "windows.history_length": config.windows.history_length,
            "windows.positions": config.windows.positions,
            "features.users": [f"{spec.column}:{spec.kind}" for spec in resolved.users],
        },
        sort_keys=True,
    )
    comparable = ComparableStatistics(
        examples=interactions.outputs["examples"],
        statistics=statistics.outputs["statistics"],
        approved_before=latest_approved.outputs["approved"].as_optional(),
        features=features,
        made_with=made_with,
        source_digest=executor_digest(ComparableStatistics),
    )
    drift, skew = (
        DistributionValidator(
            statistics=comparable.outputs["comparable"],
            baseline_statistics=comparable.outputs["comparable"],
            config=validator_config(compared, limit),
            include_split_pairs=[pair],
        ).with_id(name)
        for name, compared, limit, pair in (
            ("DriftValidator", compared_for_drift(resolved), config.validation.max_drift, DRIFT_PAIR),
            ("SkewValidator", compared_for_skew(resolved), config.validation.max_skew, SKEW_PAIR),
        )
    )
    anomaly_gate = AnomalyGate(
        interactions=validator.outputs["anomalies"],
        catalog=catalog_validator.outputs["anomalies"],
        statistics=statistics.outputs["statistics"],
        catalog_statistics=catalog_statistics.outputs["statistics"],
        comparable=comparable.outputs["comparable"],
        drift=drift.outputs["anomalies"],
        skew=skew.outputs["anomalies"],
        validation=_json(config.validation),
        features=features,
        source_digest=executor_digest(AnomalyGate),
    )
    approved = ApprovedStatistics(
        examples=interactions.outputs["examples"],
        statistics=statistics.outputs["statistics"],
        made_with=made_with,
        source_digest=executor_digest(ApprovedStatistics),
    )

    # Test windows are evaluated through the served model, which transforms them itself.
    transform = Transform(
        examples=interactions.outputs["examples"],
        schema=interaction_schema.outputs["schema"],
        preprocessing_fn="two_tower.trainer.model.preprocessing.preprocessing_fn",
        splits_config=transform_pb2.SplitsConfig(analyze=["train"], transform=["train", "eval"]),
        # Of what goes in there are statistics already; those of what comes out would double its time.
        disable_statistics=True,
        custom_config={
            "history_length": history_length,
            "aggregates": list(resolved.history),
            "has_timestamps": resolved.has_timestamps,
            "users": [dataclasses.asdict(spec) for spec in resolved.users],
            "source_digest": preprocessing,
        },
    )
    catalog_transform = Transform(
        examples=catalog.outputs["examples"],
        schema=catalog_schema.outputs["schema"],
        preprocessing_fn="two_tower.trainer.model.preprocessing.catalog_preprocessing_fn",
        splits_config=transform_pb2.SplitsConfig(analyze=[CATALOG_SPLIT], transform=[CATALOG_SPLIT]),
        disable_statistics=True,
        custom_config={
            "items": [dataclasses.asdict(spec) for spec in resolved.items],
            "source_digest": preprocessing,
        },
    ).with_id("CatalogTransform")
    for after_gate in (approved, transform, catalog_transform):
        after_gate.add_upstream_node(anomaly_gate)

    latest_blessed = latest_blessed_model()
    trainer = Trainer(
        interactions=interactions.outputs["examples"],
        examples=transform.outputs["transformed_examples"],
        transform_graph=transform.outputs["transform_graph"],
        catalog=catalog_transform.outputs["transformed_examples"],
        catalog_graph=catalog_transform.outputs["transform_graph"],
        trainer=_json(config.trainer),
        history_length=history_length,
        features=features,
        cutoff=config.gate.cutoff,
        source_digest=executor_digest(Trainer),
        base_model=latest_blessed.outputs["model"] if config.trainer.warm_start else None,
    )
    served = from_towers_on(
        interactions.outputs["examples"],
        trainer.outputs["model"],
        latest_blessed.outputs["model"],
        push_directory,
        config,
        history_length,
        resolved,
        trainer.outputs["model_run"],
    )
    return tfx_pipeline.Pipeline(
        pipeline_name=PIPELINE_NAME,
        pipeline_root=pipeline_root,
        components=[
            interactions,
            catalog,
            statistics,
            catalog_statistics,
            interaction_schema,
            catalog_schema,
            validator,
            catalog_validator,
            latest_approved,
            comparable,
            drift,
            skew,
            anomaly_gate,
            approved,
            transform,
            catalog_transform,
            latest_blessed,
            trainer,
            *served,
        ],
        enable_cache=True,
        metadata_connection_config=metadata_connection_config,
        beam_pipeline_args=list(config.beam_args),
    )


def catalog_examples(
    data: str | RuntimeParameter, data_digest: str | RuntimeParameter, resolved: ResolvedFeatures
) -> CatalogExampleGen:
    """The items of a data directory as Examples; see `create_pipeline`."""
    return CatalogExampleGen(
        data,
        data_digest,
        # Not those of users: the items need not run again when one of theirs is named.
        ResolvedFeatures(items=resolved.items).to_json(),
        executor_digest(CatalogExampleGen),
    )


def executor_digest(component: type[BaseComponent]) -> str:
    """Returns the digest of what a component's executor imports, which its cache keys on."""
    return import_digest(component.EXECUTOR_SPEC.executor_class.__module__)


def latest_blessed_model() -> Resolver:
    """The node that looks for the latest blessed model."""
    return Resolver(
        strategy_class=LatestBlessedModelStrategy,
        model=Channel(type=Model),
        model_blessing=Channel(type=ModelBlessing),
    ).with_id("LatestBlessedModel")


def from_towers_on(
    interactions: BaseChannel,
    towers: BaseChannel,
    blessed: BaseChannel,
    push_directory: str | RuntimeParameter,
    config: PipelineConfig,
    history_length: int,
    resolved: ResolvedFeatures,
    training: BaseChannel | None = None,
) -> list[BaseComponent]:
    """Index, verdict and push, which a re-indexed model goes through as a trained one does.

    Args:
      interactions: the windows.
      towers: a model as Trainer writes it.
      blessed: the latest blessed model.
      push_directory: see `create_pipeline`.
      config: of the index, the evaluation and the gate.
      history_length: events that a query sees.
      resolved: the features that the towers know.
      training: the Trainer's run, where the towers were trained in this one.

    Raises:
      UserError: the gate limits a slice that there cannot be.
    """
    check_slice_names(config.gate, [spec.name for spec in (*resolved.users, *resolved.items)])
    indexer = ScannIndexer(
        interactions=interactions,
        towers=towers,
        index=_json(config.index),
        history_length=history_length,
        features=resolved.to_json(),
        source_digest=executor_digest(ScannIndexer),
    )
    evaluator = RetrievalEvaluator(
        examples=interactions,
        model=indexer.outputs["model"],
        baseline_model=blessed,
        training=training,
        evaluation_config=_json(config.evaluation),
        gate_config=_json(config.gate),
        history_length=history_length,
        features=resolved.to_json(),
        source_digest=executor_digest(RetrievalEvaluator),
    )
    pusher = Pusher(
        model=indexer.outputs["model"],
        model_blessing=evaluator.outputs["blessing"],
        push_directory=push_directory,
        source_digest=executor_digest(Pusher),
    )
    return [indexer, evaluator, pusher]


def _json(config: Any) -> str:
    """Settings as a parameter: equal settings are equal text, which caching relies on."""
    return json.dumps(dataclasses.asdict(config), sort_keys=True)
