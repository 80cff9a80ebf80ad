"""InteractionExampleGen: inputs, outputs and parameters."""

from __future__ import annotations

from collections.abc import Mapping

from tfx import types
from tfx.dsl.components.base import base_beam_component, executor_spec
from tfx.orchestration.data_types import RuntimeParameter
from tfx.types import standard_artifacts
from tfx.types.component_spec import ChannelParameter, ExecutionParameter

from two_tower.components.interaction_example_gen import executor
from two_tower.components.per_run_settings import execution_parameters


class InteractionExampleGenSpec(types.ComponentSpec):
    """Specification of the component; the cache keys on the parameters: digests and settings."""

    PARAMETERS = {
        "data": ExecutionParameter(type=str),
        "data_digest": ExecutionParameter(type=str),
        "split": ExecutionParameter(type=str),
        "windows": ExecutionParameter(type=str),
        "features": ExecutionParameter(type=str),
        "source_digest": ExecutionParameter(type=str),
        **execution_parameters("windows"),
    }
    INPUTS: dict[str, ChannelParameter] = {}
    OUTPUTS = {"examples": ChannelParameter(type=standard_artifacts.Examples)}


class InteractionExampleGen(base_beam_component.BaseBeamComponent):
    """Component that turns events into packed windows, split into train, eval and test."""

    SPEC_CLASS = InteractionExampleGenSpec
    EXECUTOR_SPEC = executor_spec.BeamExecutorSpec(executor.Executor)

    def __init__(
        self,
        data: str,
        data_digest: str,
        split: str,
        windows: str,
        source_digest: str,
        features: str = "",
        submitted: Mapping[str, RuntimeParameter] | None = None,
    ) -> None:
        """Args:
        data: the data directory.
        data_digest: the digest of its manifest: only changed data runs again.
        split: SplitConfig as JSON.
        windows: WindowConfig as JSON.
        source_digest: digest of the sources, so that edited code runs again.
        features: ResolvedFeatures as JSON; each window carries the users' features; "" for none.
        submitted: a job's runtime parameters of `windows`, see `per_run_settings`.
        """
        super().__init__(
            spec=InteractionExampleGenSpec(
                data=data,
                data_digest=data_digest,
                split=split,
                windows=windows,
                features=features,
                source_digest=source_digest,
                **(submitted or {}),
                examples=types.Channel(type=standard_artifacts.Examples),
            )
        )
