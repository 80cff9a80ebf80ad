"""RetrievalEvaluator: what it takes and gives."""

from __future__ import annotations

from collections.abc import Mapping

from tfx import types
from tfx.dsl.components.base import base_component, executor_spec
from tfx.orchestration.data_types import RuntimeParameter
from tfx.types import standard_artifacts
from tfx.types.component_spec import ChannelParameter, ExecutionParameter

from two_tower.components.per_run_settings import execution_parameters
from two_tower.components.retrieval_evaluator import executor


class RetrievalEvaluatorSpec(types.ComponentSpec):
    """Parameters are what the cache keys on."""

    PARAMETERS = {
        "evaluation_config": ExecutionParameter(type=str),
        "gate_config": ExecutionParameter(type=str),
        "history_length": ExecutionParameter(type=int),
        "seed": ExecutionParameter(type=int),
        "features": ExecutionParameter(type=str),
        "source_digest": ExecutionParameter(type=str),
        "latest_blessed": ExecutionParameter(type=str),
        "root": ExecutionParameter(type=str),
        **execution_parameters("gate"),
    }
    INPUTS = {
        "examples": ChannelParameter(type=standard_artifacts.Examples),
        "model": ChannelParameter(type=standard_artifacts.Model),
        "training": ChannelParameter(type=standard_artifacts.ModelRun, optional=True),
    }
    OUTPUTS = {
        "evaluation": ChannelParameter(type=standard_artifacts.ModelEvaluation),
        "blessing": ChannelParameter(type=standard_artifacts.ModelBlessing),
    }


class RetrievalEvaluator(base_component.BaseComponent):
    """Recall@k of the served model, exact and through its index, against baselines; blessed or refused."""

    SPEC_CLASS = RetrievalEvaluatorSpec
    EXECUTOR_SPEC = executor_spec.ExecutorClassSpec(executor.Executor)

    def __init__(
        self,
        examples: types.BaseChannel,
        model: types.BaseChannel,
        evaluation_config: str,
        gate_config: str,
        history_length: int,
        seed: int,
        features: str,
        source_digest: str,
        latest_blessed: str,
        root: str | RuntimeParameter,
        training: types.BaseChannel | None = None,
        submitted: Mapping[str, RuntimeParameter] | None = None,
    ) -> None:
        """Args:
        examples: the windows, all splits.
        model: the ScannIndexer's model, which is what would be pushed.
        evaluation_config: EvaluationConfig as JSON.
        gate_config: GateConfig as JSON.
        history_length: events that a query sees.
        seed: of the sample of queries, the resamples, the baselines and the pseudonyms.
        features: ResolvedFeatures as JSON; those of the users are part of the requests.
        source_digest: digest of the sources, so that edited code runs again.
        latest_blessed: text of the pointer to the latest blessed model.
        root: a run's output directory, or a job's root. Its `pushed/` holds released models whose artifacts
            are gone.
        training: the Trainer's run, whose learning curves the report shows; None where nothing was trained.
        """
        super().__init__(
            spec=RetrievalEvaluatorSpec(
                examples=examples,
                model=model,
                **({"training": training} if training else {}),
                evaluation_config=evaluation_config,
                gate_config=gate_config,
                history_length=history_length,
                seed=seed,
                features=features,
                source_digest=source_digest,
                latest_blessed=latest_blessed,
                root=root,
                **(submitted or {}),
                evaluation=types.Channel(type=standard_artifacts.ModelEvaluation),
                blessing=types.Channel(type=standard_artifacts.ModelBlessing),
            )
        )
