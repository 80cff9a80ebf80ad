"""CatalogExampleGen: inputs, outputs and parameters."""

from __future__ import annotations

from tfx import types
from tfx.dsl.components.base import base_beam_component, executor_spec
from tfx.types import standard_artifacts
from tfx.types.component_spec import ChannelParameter, ExecutionParameter

from two_tower.components.catalog_example_gen import executor


class CatalogExampleGenSpec(types.ComponentSpec):
    """Specification of the component; the cache keys on the parameters."""

    PARAMETERS = {
        "data": ExecutionParameter(type=str),
        "data_digest": ExecutionParameter(type=str),
        "features": ExecutionParameter(type=str),
        "source_digest": ExecutionParameter(type=str),
    }
    INPUTS: dict[str, ChannelParameter] = {}
    OUTPUTS = {"examples": ChannelParameter(type=standard_artifacts.Examples)}


class CatalogExampleGen(base_beam_component.BaseBeamComponent):
    """Component that turns items/ into Examples, one per item, in a split named "catalog"."""

    SPEC_CLASS = CatalogExampleGenSpec
    EXECUTOR_SPEC = executor_spec.BeamExecutorSpec(executor.Executor)

    def __init__(self, data: str, data_digest: str, features: str, source_digest: str) -> None:
        """Args:
        data: the data directory.
        data_digest: the digest of its manifest.
        features: ResolvedFeatures as JSON; every Example holds the features of the items.
        source_digest: digest of the sources, so that edited code runs again.
        """
        super().__init__(
            spec=CatalogExampleGenSpec(
                data=data,
                data_digest=data_digest,
                features=features,
                source_digest=source_digest,
                examples=types.Channel(type=standard_artifacts.Examples),
            )
        )
