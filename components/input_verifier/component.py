"""InputVerifier: inputs, outputs and parameters."""

from __future__ import annotations

from collections.abc import Mapping

from tfx import types
from tfx.dsl.components.base import base_component, executor_spec
from tfx.orchestration.data_types import RuntimeParameter
from tfx.types import standard_artifacts
from tfx.types.component_spec import ChannelParameter, ExecutionParameter

from two_tower.components.input_verifier import executor
from two_tower.components.per_run_settings import execution_parameters


class InputVerifierSpec(types.ComponentSpec):
    """Specification of the component, which no backend may cache."""

    PARAMETERS = {
        "data": ExecutionParameter(type=str),
        "root": ExecutionParameter(type=str),
        "settings": ExecutionParameter(type=str),
        "features": ExecutionParameter(type=str),
        "code": ExecutionParameter(type=str),
        "job_id": ExecutionParameter(type=str),
        **execution_parameters("windows", "validation", "gate"),
    }
    INPUTS: dict[str, ChannelParameter] = {}
    OUTPUTS = {
        "data_digest": ChannelParameter(type=standard_artifacts.String),
        "run": ChannelParameter(type=standard_artifacts.String),
        "pointers_of_others": ChannelParameter(type=standard_artifacts.String),
    }


class InputVerifier(base_component.BaseComponent):
    """First step of a compiled job: the check of its data, its root and its parameters.

    `data_digest` is the manifest's digest, with the time of the root's last cleaning. `run` is a digest of
    all that decides the result: data, settings and code. Jobs that give the same result share it.
    `pointers_of_others` are the newest pointers that jobs with another `run` wrote, as JSON by name. While
    both stay, the backend's cache answers the whole job.
    """

    SPEC_CLASS = InputVerifierSpec
    EXECUTOR_SPEC = executor_spec.ExecutorClassSpec(executor.Executor)

    def __init__(
        self,
        data: str | RuntimeParameter,
        root: str | RuntimeParameter,
        settings: str,
        features: str,
        code: str,
        job_id: str,
        submitted: Mapping[str, RuntimeParameter],
    ) -> None:
        """Args:
        data: the data directory.
        root: directory of the job's artifacts, pointers and `pushed/`.
        settings: settings that decide the result, as JSON.
        features: ResolvedFeatures as JSON, as of the compilation.
        code: digest of the sources of all components.
        job_id: id of the job's run, by which no cache knows this step.
        submitted: runtime parameters of settings by name, see `per_run_settings`.
        """
        super().__init__(
            spec=InputVerifierSpec(
                data=data,
                root=root,
                settings=settings,
                features=features,
                code=code,
                job_id=job_id,
                **submitted,
                data_digest=types.Channel(type=standard_artifacts.String),
                run=types.Channel(type=standard_artifacts.String),
                pointers_of_others=types.Channel(type=standard_artifacts.String),
            )
        )
