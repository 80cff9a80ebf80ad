"""Checks of settings by a data directory's manifest, before events are read."""

from __future__ import annotations

import dataclasses
import math

from two_tower.base.errors import UserError
from two_tower.components.auto_settings.settled import Sections, kept_by_warm_start, lines, settle
from two_tower.components.interaction_example_gen.splits import FrozenSplit, TimeSplit, event_split
from two_tower.data_directory.manifest import Manifest, event_files
from two_tower.evaluation.baselines.definition import REPEATS, TIMES, VECTORS
from two_tower.evaluation.baselines.registry import definition
from two_tower.evaluation.settings import MIN_USERS
from two_tower.pipeline.settings.pipeline_config import PipelineConfig
from two_tower.serving.settings import IndexConfig


def settled_for(
    data: str, config: PipelineConfig, manifest: Manifest, latest_blessed: str | None = None
) -> tuple[PipelineConfig, list[str]]:
    """Decides the automatic settings, as the first step of the DAG does.

    Args:
      data: the data directory.
      config: the settings as given.
      manifest: the directory's manifest.
      latest_blessed: text of the pointer to the latest blessed model, for a warm start.

    Returns:
      The settings, none of them automatic, and a line for readers about each choice.

    Raises:
      UserError: a file of the data cannot be read, or a given setting contradicts a settled one.
    """
    kept = kept_by_warm_start(config.trainer, manifest, latest_blessed)
    sections, choices = settle(data, manifest, Sections.of(config), config.automatic, kept)
    settled = {field.name: getattr(sections, field.name) for field in dataclasses.fields(Sections)}
    return dataclasses.replace(config, **settled, automatic=()), lines(choices)


def check_settings(data: str, config: PipelineConfig, manifest: Manifest) -> None:
    """Raises UserError for settings that the data makes meaningless.

    Args:
      data: the data directory, for messages.
      config: the settings.
      manifest: the directory's manifest.
    """
    event_files(data, config.windows.spans)
    split = event_split(data, manifest, config.split, config.windows.spans)
    times = split.times if isinstance(split, FrozenSplit) else split
    if isinstance(times, TimeSplit) and times.train_end <= manifest.time_range[0]:
        raise UserError(f"The train split is empty: {times.where('train')}.")
    check_index(data, config.index, manifest.counts["items"])


def check_verdict(data: str, config: PipelineConfig, manifest: Manifest) -> None:
    """Raises UserError if the gate would refuse every model; for the arguments see `check_settings`."""
    items, users, cutoff = manifest.counts["items"], manifest.counts["users"], config.gate.cutoff
    if items <= cutoff:
        raise UserError(
            f"gate.cutoff is {cutoff}, and {data} has {items:,} items: a list of all items finds every "
            "label, and judges no model. Set a lower gate.cutoff and evaluation.cutoffs, or bring more items."
        )
    if users < MIN_USERS:
        raise UserError(
            f"{data} has events of {users} users. A verdict needs the test queries of {MIN_USERS} users: "
            "bring more data."
        )
    _check_baselines(data, config, manifest)
    _check_coverage(data, config, items)


def check_index(data: str, config: IndexConfig, items: int) -> None:
    """Raises UserError for a latency budget where no index is tuned; `items`: number of items in `data`."""
    if not config.latency_budget_ms:
        return
    from two_tower.serving.index_tuning import EXACT_BELOW, needs_queries  # imports TensorFlow

    if not needs_queries(items):
        raise UserError(
            f"index.latency_budget_ms is {config.latency_budget_ms:g}, and {data} has {items:,} items. Below "
            f"{EXACT_BELOW:,} search is exact, and no index is tuned to a time. Set "
            "index.latency_budget_ms=0; gate.max_latency_p95 limits the time of requests."
        )


def _check_baselines(data: str, config: PipelineConfig, manifest: Manifest) -> None:
    """Raises UserError if the data allows none of the baselines: gate.min_lift_over_best_baseline fails."""
    lacking = {
        needed
        for needed, there in (
            (TIMES, manifest.has_timestamps),
            (REPEATS, manifest.repeats_recommendable),
            (VECTORS, manifest.has_embedding),
        )
        if not there
    }
    names = config.evaluation.baselines
    needs = {needed for name in names for needed in definition(name).needs if needed in lacking}
    if all(lacking & set(definition(name).needs) for name in names):
        raise UserError(
            f"evaluation.baselines is {', '.join(names)}, and {data} lacks what they need: "
            f"{', '.join(sorted(needed.meaning for needed in needs))}. A verdict needs a baseline. Add one, "
            "as in --set evaluation.baselines=+most_popular."
        )


def _check_coverage(data: str, config: PipelineConfig, items: int) -> None:
    """Raises UserError for a gate.min_coverage that all queries together cannot reach."""
    queries, cutoff, least = config.evaluation.max_queries, config.gate.cutoff, config.gate.min_coverage
    if least * items > queries * cutoff:
        raise UserError(
            f"gate.min_coverage is {least:g} of the {items:,} items of {data}, and evaluation.max_queries = "
            f"{queries:,} queries show {queries * cutoff:,} of them at most (gate.cutoff = {cutoff}). Set "
            f"evaluation.max_queries={math.ceil(least * items / cutoff)}, or a lower gate.min_coverage."
        )
