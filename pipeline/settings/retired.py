"""Settings of earlier releases, with today's names or constants."""

from __future__ import annotations

import dataclasses

from two_tower.base.errors import UserError


@dataclasses.dataclass(frozen=True)
class Retired:
    """Setting of an earlier release.

    Attributes:
        now: names of today's settings; empty if the setting is a constant now.
        remark: today's spelling, or the constant.
    """

    now: tuple[str, ...]
    remark: str


def _is(*now: str, remark: str = "") -> Retired:
    return Retired(now, remark)


def _constant(remark: str) -> Retired:
    return Retired((), remark)


# Remark of both names of the initial gap.
_FIRST_GAPS = "an item's first gaps are averaged, and none is assumed before"

RETIRED: dict[str, Retired] = {
    "split.eval_seconds": _is("split.holdout_seconds", remark="eval and test have this length each"),
    "split.test_seconds": _is("split.holdout_seconds", remark="eval and test have this length each"),
    "split.frozen_labels": _constant("labels of the frozen protocol are listens"),
    "split.min_label_play_ratio": _constant("a listen is a label with a play ratio of at least 0.5"),
    "windows.events_per_shard": _constant("1,000,000 events a shard"),
    "features.history": _is(
        "trainer.parts", remark="all aggregates that the data allows, or none by -aggregates"
    ),
    "index.exact_below": _constant("search is exact below 20,000 items"),
    "index.target_recall": _is("gate.min_ann_recall", remark="the index is tuned to the gate's threshold"),
    "index.target_k": _constant(
        "the index is tuned for the first 100 items, or for gate.cutoff if that is more"
    ),
    "index.tuning_queries": _constant("the index is tuned on 500 queries"),
    "index.seed": _is("seed"),
    "evaluation.resamples": _constant("1,000 resamples"),
    "evaluation.slice_values": _constant("slices are a column's 10 values with the most labels"),
    "evaluation.seed": _is("seed"),
    "gate.min_slice_users": _constant("slices with fewer than 50 users are not judged"),
    "trainer.attention_layers": _constant("2 layers"),
    "trainer.attention_heads": _constant("2 heads"),
    "trainer.similarity": _is(
        "trainer.parts", remark="cosine is the part normalisation, and dot is -normalisation"
    ),
    "trainer.leave_out": _is("trainer.parts", remark="as in trainer.parts=-user_id"),
    "trainer.item_bias": _is("trainer.parts", remark="true is +item_bias"),
    "trainer.repeat_head": _is("trainer.parts", remark="true is +repeat_head"),
    "trainer.learning_rate_schedule": _is("trainer.schedule.shape"),
    "trainer.warmup_steps": _is("trainer.schedule.warmup"),
    "trainer.clip_norm": _constant("gradients are not clipped"),
    "trainer.precision": _constant("the hardware decides the precision"),
    "trainer.learned_temperature": _constant("the temperature is always trainer.temperature"),
    "trainer.dropout": _is("trainer.dropout.hidden"),
    "trainer.id_dropout": _is("trainer.dropout.id"),
    "trainer.history_dropout": _is("trainer.dropout.history"),
    "trainer.sampling_correction": _is("trainer.frequency.correction"),
    "trainer.frequency": _is("trainer.frequency.estimate"),
    "trainer.frequency_learning_rate": _is("trainer.frequency.rate"),
    "trainer.frequency_hashes": _is("trainer.frequency.hashes"),
    "trainer.frequency_initial_gap": _constant(_FIRST_GAPS),
    "trainer.frequency.initial_gap": _constant(_FIRST_GAPS),
    "trainer.deduplicate_negatives": _is("trainer.negatives.deduplicate"),
    "trainer.uniform_negatives": _is("trainer.negatives.uniform"),
    "trainer.memory_negatives": _is("trainer.negatives.memory"),
    "trainer.hard_negatives": _is("trainer.negatives.hard"),
    "trainer.play_ratio_floor": _is("trainer.label_weights.play_ratio_floor"),
    "trainer.event_type_weights": _is(
        "trainer.label_weights", remark="one key per event type, as in trainer.label_weights.like=2"
    ),
    "trainer.max_labels_per_user": _is("trainer.label_weights.max_per_user"),
    "trainer.seed": _is("seed"),
}


def retired_setting(name: str) -> UserError | None:
    """Returns the error for a setting of an earlier release; None for any other name."""
    found = RETIRED.get(name)
    if found is None:
        return None
    if not found.now:
        return UserError(f"{name} is a constant now: {found.remark}. Leave it out.")
    remark = f" ({found.remark})" if found.remark else ""
    return UserError(f"{name} is {' and '.join(found.now)} now{remark}. Use that name instead.")
