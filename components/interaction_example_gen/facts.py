"""Data facts of the windows: derived from manifest and settings, stored as custom properties of artifacts."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from typing import Any

from tfx import types

from two_tower.components.interaction_example_gen.settings import SplitConfig
from two_tower.components.interaction_example_gen.splits import FrozenSplit, TimeSplit, event_split
from two_tower.data_directory.facts import DataFacts
from two_tower.data_directory.manifest import Manifest


def facts_of(data: str, manifest: Manifest, config: SplitConfig, spans: int = 0) -> DataFacts:
    """Derives the facts but `users_are_new`; arguments and errors are those of `splits.event_split`."""
    split = event_split(data, manifest, config, spans)
    times = split.times if isinstance(split, FrozenSplit) else split
    bounds = (times.train_end, *times.eval, *times.test) if isinstance(times, TimeSplit) else (0,) * 5
    given = dataclasses.asdict(config)
    if config.protocol != "hold_out":
        # Settings of hold_out alone: the digests of models from before it stay.
        given = {name: value for name, value in given.items() if name not in ("holdout_share", "seed")}
    settings = json.dumps({**given, "spans": spans}, sort_keys=True)
    return DataFacts(
        data,
        manifest.digest,
        manifest.dataset,
        manifest.label_event,
        manifest.repeats_recommendable,
        manifest.has_timestamps,
        manifest.user_ids,
        manifest.item_ids,
        config.protocol,
        "sha256:" + hashlib.sha256(settings.encode()).hexdigest(),
        *bounds,
    )


def write_facts(facts: DataFacts, artifact: types.Artifact) -> None:
    """Records facts on an artifact."""
    for name, value in dataclasses.asdict(facts).items():
        if isinstance(value, str):
            artifact.set_string_custom_property(name, value)
        else:
            artifact.set_int_custom_property(name, int(value))


def read_facts(artifact: types.Artifact) -> DataFacts:
    """Reads the facts that `write_facts` recorded."""

    def value(field: dataclasses.Field[Any]) -> Any:
        if field.type == "str":
            return artifact.get_string_custom_property(field.name)
        number = artifact.get_int_custom_property(field.name)
        return bool(number) if field.type == "bool" else int(number)

    return DataFacts(**{field.name: value(field) for field in dataclasses.fields(DataFacts)})
