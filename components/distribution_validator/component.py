"""DistributionValidator: inputs, outputs and parameters.

TFX's own component takes its configuration as a message. A container of Vertex or Kubeflow hands it on as
JSON, which TFX's executor does not read.
"""

from __future__ import annotations

from tfx import types
from tfx.dsl.components.base import base_component, executor_spec
from tfx.orchestration.data_types import RuntimeParameter
from tfx.types import standard_artifacts
from tfx.types.component_spec import ChannelParameter, ExecutionParameter

from two_tower.components.distribution_validator import executor


class DistributionValidatorSpec(types.ComponentSpec):
    """Specification of the component; the cache keys on the parameters."""

    PARAMETERS = {
        "compared": ExecutionParameter(type=str),
        "limit": ExecutionParameter(type=float),
        "pair": ExecutionParameter(type=str),
        "source_digest": ExecutionParameter(type=str),
    }
    INPUTS = {"comparable": ChannelParameter(type=standard_artifacts.ExampleStatistics)}
    OUTPUTS = {"anomalies": ChannelParameter(type=standard_artifacts.ExampleAnomalies)}


class DistributionValidator(base_component.BaseComponent):
    """Component that measures the distances between two splits of comparable statistics."""

    SPEC_CLASS = DistributionValidatorSpec
    EXECUTOR_SPEC = executor_spec.ExecutorClassSpec(executor.Executor)

    def __init__(
        self,
        comparable: types.BaseChannel,
        compared: str,
        limit: float | RuntimeParameter,
        pair: str,
        source_digest: str,
    ) -> None:
        """Args:
        comparable: ComparableStatistics' output.
        compared: features and measures of their distances, see `distributions.compared_to_json`.
        limit: largest distance; 0 compares nothing.
        pair: the examined split and its baseline, as a JSON list.
        source_digest: digest of the sources, so that edited code runs again.
        """
        super().__init__(
            spec=DistributionValidatorSpec(
                comparable=comparable,
                compared=compared,
                limit=limit,
                pair=pair,
                source_digest=source_digest,
                anomalies=types.Channel(type=standard_artifacts.ExampleAnomalies),
            )
        )
