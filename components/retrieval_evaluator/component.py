"""RetrievalEvaluator: what it takes and gives."""

from __future__ import annotations

from tfx import types
from tfx.dsl.components.base import base_beam_component, executor_spec
from tfx.types import standard_artifacts
from tfx.types.component_spec import ChannelParameter, ExecutionParameter

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
    }
    INPUTS = {
        "examples": ChannelParameter(type=standard_artifacts.Examples),
        "model": ChannelParameter(type=standard_artifacts.Model),
        "baseline_model": ChannelParameter(type=standard_artifacts.Model, optional=True),
        "training": ChannelParameter(type=standard_artifacts.ModelRun, optional=True),
    }
    OUTPUTS = {
        "evaluation": ChannelParameter(type=standard_artifacts.ModelEvaluation),
        "blessing": ChannelParameter(type=standard_artifacts.ModelBlessing),
    }


class RetrievalEvaluator(base_beam_component.BaseBeamComponent):
    """Recall@k of the served model, exact and through its index, against baselines; blessed or refused."""

    SPEC_CLASS = RetrievalEvaluatorSpec
    EXECUTOR_SPEC = executor_spec.BeamExecutorSpec(executor.Executor)

    def __init__(
        self,
        examples: types.BaseChannel,
        model: types.BaseChannel,
        baseline_model: types.BaseChannel,
        evaluation_config: str,
        gate_config: str,
        history_length: int,
        seed: int,
        features: str,
        source_digest: str,
        training: types.BaseChannel | None = None,
    ) -> None:
        """Args:
        examples: the windows, all splits.
        model: the ScannIndexer's model, which is what would be pushed.
        baseline_model: the latest blessed model; empty in a first run.
        evaluation_config: EvaluationConfig as JSON.
        gate_config: GateConfig as JSON.
        history_length: events that a query sees.
        seed: of the sample of queries, the resamples, the baselines and the pseudonyms.
        features: ResolvedFeatures as JSON; those of the users are part of the requests.
        source_digest: digest of the sources, so that edited code runs again.
        training: the Trainer's run, whose learning curves the report shows; None where nothing was trained.
        """
        super().__init__(
            spec=RetrievalEvaluatorSpec(
                examples=examples,
                model=model,
                baseline_model=baseline_model,
                **({"training": training} if training else {}),
                evaluation_config=evaluation_config,
                gate_config=gate_config,
                history_length=history_length,
                seed=seed,
                features=features,
                source_digest=source_digest,
                evaluation=types.Channel(type=standard_artifacts.ModelEvaluation),
                blessing=types.Channel(type=standard_artifacts.ModelBlessing),
            )
        )
