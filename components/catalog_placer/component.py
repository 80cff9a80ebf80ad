"""CatalogPlacer: inputs, outputs and parameters. It replaces Trainer in a run that re-indexes."""

from __future__ import annotations

from tfx import types
from tfx.dsl.components.base import base_component, executor_spec
from tfx.types import standard_artifacts
from tfx.types.component_spec import ChannelParameter, ExecutionParameter

from two_tower.components.catalog_placer import executor


class CatalogPlacerSpec(types.ComponentSpec):
    """Specification of the component; the cache keys on the parameters."""

    PARAMETERS = {
        "trainer": ExecutionParameter(type=str),
        "history_length": ExecutionParameter(type=int),
        "features": ExecutionParameter(type=str),
        "items_digest": ExecutionParameter(type=str),
        "source_digest": ExecutionParameter(type=str),
    }
    INPUTS = {
        "catalog": ChannelParameter(type=standard_artifacts.Examples),
        "interactions": ChannelParameter(type=standard_artifacts.Examples),
        "towers": ChannelParameter(type=standard_artifacts.Model),
        "transform_graph": ChannelParameter(type=standard_artifacts.TransformGraph),
        "catalog_graph": ChannelParameter(type=standard_artifacts.TransformGraph),
    }
    OUTPUTS = {"model": ChannelParameter(type=standard_artifacts.Model)}


class CatalogPlacer(base_component.BaseComponent):
    """Component that turns trained towers into towers over today's items, in Trainer's output format."""

    SPEC_CLASS = CatalogPlacerSpec
    EXECUTOR_SPEC = executor_spec.ExecutorClassSpec(executor.Executor)

    def __init__(
        self,
        catalog: types.BaseChannel,
        interactions: types.BaseChannel,
        towers: types.BaseChannel,
        transform_graph: types.BaseChannel,
        catalog_graph: types.BaseChannel,
        trainer: str,
        history_length: int,
        features: str,
        items_digest: str,
        source_digest: str,
    ) -> None:
        """Args:
        catalog: CatalogExampleGen's untransformed Examples of today's items.
        interactions: the windows of the training's run, to count withdrawn test labels.
        towers: the Trainer's model.
        transform_graph: Transform's graph of the training's run.
        catalog_graph: CatalogTransform's graph of that run, which transforms today's items.
        trainer: TrainerConfig of the training, as JSON.
        history_length: the most events that a query sees.
        features: ResolvedFeatures of the training, as JSON.
        items_digest: digest of today's items, which the model records.
        source_digest: digest of the sources, so that edited code runs again.
        """
        super().__init__(
            spec=CatalogPlacerSpec(
                catalog=catalog,
                interactions=interactions,
                towers=towers,
                transform_graph=transform_graph,
                catalog_graph=catalog_graph,
                trainer=trainer,
                history_length=history_length,
                features=features,
                items_digest=items_digest,
                source_digest=source_digest,
                model=types.Channel(type=standard_artifacts.Model),
            )
        )
