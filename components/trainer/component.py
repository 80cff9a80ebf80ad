"""Trainer: inputs, outputs and parameters. Unlike TFX's own Trainer it takes the catalog too."""

from __future__ import annotations

from tfx import types
from tfx.dsl.components.base import base_component, executor_spec
from tfx.types import standard_artifacts
from tfx.types.component_spec import ChannelParameter, ExecutionParameter

from two_tower.components.trainer import executor


class TrainerSpec(types.ComponentSpec):
    """Specification of the component; the cache keys on the parameters."""

    PARAMETERS = {
        "trainer": ExecutionParameter(type=str),
        "history_length": ExecutionParameter(type=int),
        "seed": ExecutionParameter(type=int),
        "features": ExecutionParameter(type=str),
        "cutoff": ExecutionParameter(type=int),
        "source_digest": ExecutionParameter(type=str),
        "latest_blessed": ExecutionParameter(type=str, optional=True),
    }
    INPUTS = {
        "interactions": ChannelParameter(type=standard_artifacts.Examples),
        "examples": ChannelParameter(type=standard_artifacts.Examples),
        "transform_graph": ChannelParameter(type=standard_artifacts.TransformGraph),
        "catalog": ChannelParameter(type=standard_artifacts.Examples),
        "catalog_graph": ChannelParameter(type=standard_artifacts.TransformGraph),
    }
    OUTPUTS = {
        "model": ChannelParameter(type=standard_artifacts.Model),
        "model_run": ChannelParameter(type=standard_artifacts.ModelRun),
    }


class Trainer(base_component.BaseComponent):
    """Component that trains towers on transformed windows and catalog; TensorBoard logs go to `model_run`.

    The directory `warm_start/` beside the SavedModel holds the state for a later warm start.
    """

    SPEC_CLASS = TrainerSpec
    EXECUTOR_SPEC = executor_spec.ExecutorClassSpec(executor.Executor)

    def __init__(
        self,
        interactions: types.BaseChannel,
        examples: types.BaseChannel,
        transform_graph: types.BaseChannel,
        catalog: types.BaseChannel,
        catalog_graph: types.BaseChannel,
        trainer: str,
        history_length: int,
        seed: int,
        features: str,
        cutoff: int,
        source_digest: str,
        latest_blessed: str | None = None,
    ) -> None:
        """Args:
        interactions: the windows before Transform, for their data facts.
        examples: Transform's Examples, splits train and eval.
        transform_graph: Transform's graph, which becomes part of the served model.
        catalog: CatalogTransform's Examples.
        catalog_graph: CatalogTransform's graph.
        trainer: TrainerConfig as JSON.
        history_length: the most events that a query sees.
        seed: seed of everything that training draws.
        features: ResolvedFeatures as JSON.
        cutoff: the k of the validation Recall@k that picks the best epoch.
        source_digest: digest of the sources, so that edited code runs again.
        latest_blessed: text of the pointer to the latest blessed model, for `trainer.warm_start`. None
            trains from scratch, and the cache then ignores newly blessed models.
        """
        super().__init__(
            spec=TrainerSpec(
                interactions=interactions,
                examples=examples,
                transform_graph=transform_graph,
                catalog=catalog,
                catalog_graph=catalog_graph,
                trainer=trainer,
                history_length=history_length,
                seed=seed,
                features=features,
                cutoff=cutoff,
                source_digest=source_digest,
                latest_blessed=latest_blessed,
                model=types.Channel(type=standard_artifacts.Model),
                model_run=types.Channel(type=standard_artifacts.ModelRun),
            )
        )
