"""ScannIndexer: inputs, outputs and parameters."""

from __future__ import annotations

from tfx import types
from tfx.dsl.components.base import base_component, executor_spec
from tfx.orchestration.data_types import RuntimeParameter
from tfx.types import standard_artifacts
from tfx.types.component_spec import ChannelParameter, ExecutionParameter

from two_tower.components.scann_indexer import executor


class ScannIndexerSpec(types.ComponentSpec):
    """Specification of the component; the cache keys on the parameters."""

    PARAMETERS = {
        "index": ExecutionParameter(type=str),
        "target_recall": ExecutionParameter(type=float),
        "cutoff": ExecutionParameter(type=int),
        "seed": ExecutionParameter(type=int),
        "history_length": ExecutionParameter(type=int),
        "features": ExecutionParameter(type=str),
        "source_digest": ExecutionParameter(type=str),
    }
    INPUTS = {
        "interactions": ChannelParameter(type=standard_artifacts.Examples),
        "catalog": ChannelParameter(type=standard_artifacts.Examples),
        "towers": ChannelParameter(type=standard_artifacts.Model),
    }
    OUTPUTS = {
        "model": ChannelParameter(type=standard_artifacts.Model),
        "exact_model": ChannelParameter(type=standard_artifacts.Model),
    }


class ScannIndexer(base_component.BaseComponent):
    """Component that turns towers into a servable model with an index over the whole catalog.

    `model` is evaluated and pushed. `exact_model` answers the same requests by exact search without custom
    operations, for servers that cannot load ScaNN's: stock TensorFlow Serving and Vertex's containers.
    """

    SPEC_CLASS = ScannIndexerSpec
    EXECUTOR_SPEC = executor_spec.ExecutorClassSpec(executor.Executor)

    def __init__(
        self,
        interactions: types.BaseChannel,
        catalog: types.BaseChannel,
        towers: types.BaseChannel,
        index: str,
        target_recall: float | RuntimeParameter,
        cutoff: int,
        seed: int,
        history_length: int,
        features: str,
        source_digest: str,
    ) -> None:
        """Args:
        interactions: the windows. The index is tuned on queries of eval, and the model records the windows'
            data facts.
        catalog: the items, whose texts of ids the model returns.
        towers: the Trainer's model.
        index: IndexConfig as JSON.
        target_recall: share of exact search's items that the index is tuned to find: gate.min_ann_recall.
        cutoff: the k at which the gate judges that share: gate.cutoff.
        seed: seed of the draw of tuning queries.
        history_length: the most events that a query sees; the model records it for its clients.
        features: ResolvedFeatures as JSON; columns of users/ are inputs of the signatures.
        source_digest: digest of the sources, so that edited code runs again.
        """
        super().__init__(
            spec=ScannIndexerSpec(
                interactions=interactions,
                catalog=catalog,
                towers=towers,
                index=index,
                target_recall=target_recall,
                cutoff=cutoff,
                seed=seed,
                history_length=history_length,
                features=features,
                source_digest=source_digest,
                model=types.Channel(type=standard_artifacts.Model),
                exact_model=types.Channel(type=standard_artifacts.Model),
            )
        )
