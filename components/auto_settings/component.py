"""AutoSettings: inputs, outputs and parameters."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tfx import types
from tfx.dsl.components.base import base_component, executor_spec
from tfx.orchestration.data_types import RuntimeParameter
from tfx.types import standard_artifacts
from tfx.types.component_spec import ChannelParameter, ExecutionParameter

from two_tower.components.auto_settings import executor
from two_tower.components.per_run_settings import execution_parameters

TEXTS = ("split", "windows", "trainer", "evaluation", "gate", "made_with", "preprocessing", "choices")
NUMBERS = ("history_length", "cutoff")


class AutoSettingsSpec(types.ComponentSpec):
    """Specification of the component; the cache keys on the data and the settings as given."""

    PARAMETERS = {
        "data": ExecutionParameter(type=str),
        "data_digest": ExecutionParameter(type=str),
        "settings": ExecutionParameter(type=str),
        "automatic": ExecutionParameter(type=str),
        "features": ExecutionParameter(type=str),
        "preprocessing_digest": ExecutionParameter(type=str),
        "source_digest": ExecutionParameter(type=str),
        "latest_blessed": ExecutionParameter(type=str, optional=True),
        **execution_parameters("windows"),
    }
    INPUTS: dict[str, ChannelParameter] = {}
    OUTPUTS = {
        **{name: ChannelParameter(type=standard_artifacts.String) for name in TEXTS},
        **{name: ChannelParameter(type=standard_artifacts.Integer) for name in NUMBERS},
    }


class AutoSettings(base_component.BaseComponent):
    """Component that settles the automatic settings by the data, and hands all of them on.

    A job knows its data only when it runs. So the steps after this one take their settings from its outputs:
    sections as JSON, and single numbers. `choices` has the reasons.
    """

    SPEC_CLASS = AutoSettingsSpec
    EXECUTOR_SPEC = executor_spec.ExecutorClassSpec(executor.Executor)

    def __init__(
        self,
        data: str | RuntimeParameter,
        data_digest: Any,
        settings: str,
        automatic: str,
        features: str,
        preprocessing_digest: str,
        source_digest: str,
        latest_blessed: Any = None,
        submitted: Mapping[str, RuntimeParameter] | None = None,
    ) -> None:
        """Args:
        data: the data directory.
        data_digest: the digest of its manifest: only changed data runs again.
        settings: `settled.Sections` as JSON, as given.
        automatic: dotted names of the settings that rules may change, as JSON.
        features: ResolvedFeatures as JSON.
        preprocessing_digest: digest of the sources of Transform's preprocessing.
        source_digest: digest of the sources, so that edited code runs again.
        latest_blessed: text of the pointer to the latest blessed model, for `trainer.warm_start`; or None.
        submitted: a job's runtime parameters of `windows`, see `per_run_settings`.
        """
        super().__init__(
            spec=AutoSettingsSpec(
                data=data,
                data_digest=data_digest,
                settings=settings,
                automatic=automatic,
                features=features,
                preprocessing_digest=preprocessing_digest,
                source_digest=source_digest,
                latest_blessed=latest_blessed,
                **(submitted or {}),
                **{name: types.Channel(type=standard_artifacts.String) for name in TEXTS},
                **{name: types.Channel(type=standard_artifacts.Integer) for name in NUMBERS},
            )
        )

    def handed_on(self) -> dict[str, Any]:
        """Returns the values of the outputs by name, as parameters of later steps."""
        return {name: channel.future()[0].value for name, channel in self.outputs.items()}
