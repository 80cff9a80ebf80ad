"""Faults of settings: those that another setting makes meaningless, and those that contradict each other."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence, Set
from typing import TYPE_CHECKING, Any

from two_tower.base.errors import UserError
from two_tower.base.settings import Declaration, Fault, value_text, values_of
from two_tower.evaluation.settings import MIN_SLICE_USERS
from two_tower.trainer import settings as trainer_settings
from two_tower.trainer.settings import AGGREGATES, HISTORY, PARTS, SEED, USER_ID

if TYPE_CHECKING:
    from two_tower.pipeline.settings.pipeline_config import PipelineConfig

# Longest chain of faults of which one remedy leads to the next.
_CHAIN = 8


class ContradictionError(UserError):
    """Faults of settings, with the advice that mends them.

    Attributes:
        faults: the faults.
        remedies: alternatives, see `Fault.remedies`.
    """

    def __init__(self, faults: Sequence[Fault], remedies: Sequence[Mapping[str, Any]]) -> None:
        reasons = " ".join(fault.reason for fault in faults)
        super().__init__(f"{reasons} {advice(remedies)}")
        self.faults, self.remedies = tuple(faults), tuple(remedies)


def advice(remedies: Sequence[Mapping[str, Any]]) -> str:
    """Formats alternatives, as in "Leave out A, or set B=1 and C=2."."""
    texts = []
    for changes in remedies:
        left_out = [name for name, value in changes.items() if value is None]
        put = [f"{name}={value_text(value)}" for name, value in changes.items() if value is not None]
        parts = [f"leave out {' and '.join(left_out)}"] if left_out else []
        parts += [f"set {' and '.join(put)}"] if put else []
        texts.append(" and ".join(parts))
    text = ", or ".join(texts)
    return f"{text[:1].upper()}{text[1:]}."


def completed(
    remedies: Sequence[Mapping[str, Any]], tried: Callable[[Mapping[str, Any]], UserError | None]
) -> list[Mapping[str, Any]]:
    """Returns remedies that leave no fault; a remedy that leads to the next fault includes its remedy.

    Args:
      remedies: alternatives.
      tried: returns the error that is left after changes by dotted name, or None.
    """
    found: list[Mapping[str, Any]] = []
    for remedy in remedies:
        changes = dict(remedy)
        for _ in range(_CHAIN):
            error = tried(changes)
            if error is None:
                found.append(changes)
                break
            further = error.remedies if isinstance(error, ContradictionError) else ()
            following = next((one for one in further if not one.keys() & changes.keys()), None)
            if following is None:
                break
            changes |= following
    # Without those that change more than another one does.
    return [
        one
        for place, one in enumerate(found)
        if not any(other.items() < one.items() for other in found) and one not in found[:place]
    ]


def faults(config: PipelineConfig, given: Set[str] = frozenset()) -> Iterator[Fault]:
    """Yields the faults of a run's settings.

    Args:
      config: the settings, each within its range.
      given: dotted names of settings that somebody asked for; others at their default are no fault.
    """
    yield from _without_effect(config, given)
    yield from trainer_settings.faults(config.trainer, given)
    yield from _faults_of_queries(config)
    yield from _faults_of_cutoffs(config)
    yield from _faults_of_limits(config, given)


def _declared() -> dict[str, Declaration]:
    from two_tower.pipeline.settings.pipeline_config import types  # it imports this module

    return types()


def _without_effect(config: PipelineConfig, given: Set[str]) -> Iterator[Fault]:
    """Yields the settings that do not apply, by their declarations."""
    values = values_of(config)
    for name, declaration in _declared().items():
        if name not in values or (values[name] == declaration.default and name not in given):
            continue
        for other, allowed in declaration.setting.applies.items():
            held = values[other] if isinstance(values[other], tuple) else (values[other],)
            if set(held) & set(allowed):
                continue
            wanted = " or ".join(map(value_text, allowed))
            needed: Any = allowed[0]
            if other == "trainer.parts":
                needed = tuple(part for part in PARTS if part in {*held, needed})
            yield Fault(
                f"{name} is {value_text(values[name])}, and changes something only where {other} is "
                f"{wanted}; {other} is {value_text(values[other]) or 'empty'}.",
                ({name: None}, {other: needed}),
                meaningless=name,
            )


def _faults_of_queries(config: PipelineConfig) -> Iterator[Fault]:
    trainer, windows = config.trainer, config.windows
    if not {HISTORY, SEED, USER_ID, AGGREGATES} & set(trainer.parts) and not config.features.users:
        parts = tuple(part for part in PARTS if part in {*trainer.parts, HISTORY})
        yield Fault(
            f"trainer.parts is {value_text(trainer.parts) or 'empty'}, and features.users is empty: the "
            "query tower has no input, and all queries are alike.",
            ({"trainer.parts": parts},),
        )
    if trainer.label_horizon > windows.positions:
        yield Fault(
            f"trainer.label_horizon is {trainer.label_horizon}, and a window has at most windows.positions = "
            f"{windows.positions} labels.",
            (
                {"trainer.label_horizon": windows.positions},
                {"windows.positions": trainer.label_horizon},
            ),
        )


def _faults_of_cutoffs(config: PipelineConfig) -> Iterator[Fault]:
    cutoffs, judged, most = config.evaluation.cutoffs, config.gate.cutoff, config.index.max_k
    listed = ", ".join(map(str, cutoffs))
    if len(set(cutoffs)) < len(cutoffs):
        yield Fault(
            f"evaluation.cutoffs is {listed}, and names one k twice.",
            ({"evaluation.cutoffs": tuple(dict.fromkeys(cutoffs))},),
        )
    if max(cutoffs) > most:
        within = tuple(k for k in cutoffs if k <= most) or (most,)
        yield Fault(
            f"evaluation.cutoffs needs Recall@{max(cutoffs)}, and the model returns at most index.max_k = "
            f"{most} items.",
            ({"index.max_k": max(cutoffs)}, {"evaluation.cutoffs": within}),
        )
    if judged not in cutoffs:
        yield Fault(
            f"evaluation.cutoffs is {listed}, without {judged}: the gate judges by Recall@{judged} "
            "(gate.cutoff).",
            ({"evaluation.cutoffs": tuple(sorted({*cutoffs, judged}))}, {"gate.cutoff": max(cutoffs)}),
        )


def _faults_of_limits(config: PipelineConfig, given: Set[str]) -> Iterator[Fault]:
    queries, limit, name = (
        config.evaluation.max_queries,
        config.gate.min_slice_change,
        "gate.min_slice_change",
    )
    is_given = name in given or limit != _declared()[name].default
    if is_given and queries < MIN_SLICE_USERS:
        yield Fault(
            f"{name} is {limit:g}, and changes something only with {MIN_SLICE_USERS} users in a slice; "
            f"evaluation.max_queries is {queries}.",
            ({name: None}, {"evaluation.max_queries": MIN_SLICE_USERS}),
            meaningless=name,
        )
    budget, most = config.index.latency_budget_ms, config.gate.max_latency_p95
    if 0 < most < budget:
        yield Fault(
            f"index.latency_budget_ms is {budget:g}, and gate.max_latency_p95 refuses what takes more than "
            f"{most:g} milliseconds.",
            ({"index.latency_budget_ms": most}, {"gate.max_latency_p95": budget}),
        )
