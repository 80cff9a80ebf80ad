"""Pusher: inputs, outputs and parameters."""

from __future__ import annotations

from tfx import types
from tfx.dsl.components.base import base_component, executor_spec
from tfx.orchestration.data_types import RuntimeParameter
from tfx.types import standard_artifacts
from tfx.types.component_spec import ChannelParameter, ExecutionParameter

from two_tower.components.pusher import executor


class PusherSpec(types.ComponentSpec):
    """Specification of the component; the cache keys on the parameters."""

    PARAMETERS = {
        "root": ExecutionParameter(type=str),
        "run": ExecutionParameter(type=str),
        "source_digest": ExecutionParameter(type=str),
    }
    INPUTS = {
        "model": ChannelParameter(type=standard_artifacts.Model),
        "model_blessing": ChannelParameter(type=standard_artifacts.ModelBlessing),
    }
    OUTPUTS = {"pushed_model": ChannelParameter(type=standard_artifacts.PushedModel)}


class Pusher(base_component.BaseComponent):
    """Component that publishes a blessed model under the next number in the directory that servers watch."""

    SPEC_CLASS = PusherSpec
    EXECUTOR_SPEC = executor_spec.ExecutorClassSpec(executor.Executor)

    def __init__(
        self,
        model: types.BaseChannel,
        model_blessing: types.BaseChannel,
        root: str | RuntimeParameter,
        run: str,
        source_digest: str,
    ) -> None:
        """Args:
        model: the ScannIndexer's model.
        model_blessing: the RetrievalEvaluator's verdict on it.
        root: directory of `pushed/`, which holds the numbered versions, and of the pointers.
        run: key of the job's run, see InputVerifier; "" for runs on this machine.
        source_digest: digest of the sources, so that edited code runs again.
        """
        super().__init__(
            spec=PusherSpec(
                model=model,
                model_blessing=model_blessing,
                root=root,
                run=run,
                source_digest=source_digest,
                pushed_model=types.Channel(type=standard_artifacts.PushedModel),
            )
        )
