"""What later components must know of the data: small facts, as custom properties of the windows' artifact."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from typing import Any

from tfx import types

from two_tower.components.interaction_example_gen.splits import FrozenSplit, TimeSplit, event_split
from two_tower.pipeline.configs import SplitConfig
from two_tower.pipeline.datasets.data_directory import Manifest


@dataclasses.dataclass(frozen=True)
class DataFacts:
    """The data's identity, its properties and where its splits lie.

    Times are in seconds (see `splits.TimeSplit`), and 0 where the protocol is no split in time.
    `split_digest` is that of all settings of the split, the spans that are read among them: of equal data and
    settings the splits are equal.
    """

    data: str
    data_digest: str
    dataset: str
    label_event: str
    repeats_recommendable: bool
    has_timestamps: bool
    protocol: str
    split_digest: str
    train_end: int
    eval_from: int
    eval_to: int
    test_from: int
    test_to: int

    @classmethod
    def of(cls, data: str, manifest: Manifest, config: SplitConfig, spans: int = 0) -> DataFacts:
        """From what `splits.event_split` takes, and with its errors."""
        split = event_split(data, manifest, config, spans)
        times = split.times if isinstance(split, FrozenSplit) else split
        bounds = (times.train_end, *times.eval, *times.test) if isinstance(times, TimeSplit) else (0,) * 5
        settings = json.dumps({**dataclasses.asdict(config), "spans": spans}, sort_keys=True)
        return cls(
            data,
            manifest.digest,
            manifest.dataset,
            manifest.label_event,
            manifest.repeats_recommendable,
            manifest.has_timestamps,
            config.protocol,
            "sha256:" + hashlib.sha256(settings.encode()).hexdigest(),
            *bounds,
        )

    def write(self, artifact: types.Artifact) -> None:
        """Records the facts on an artifact."""
        for name, value in dataclasses.asdict(self).items():
            if isinstance(value, str):
                artifact.set_string_custom_property(name, value)
            else:
                artifact.set_int_custom_property(name, int(value))

    @classmethod
    def read(cls, artifact: types.Artifact) -> DataFacts:
        """The facts that `write` recorded."""

        def value(field: dataclasses.Field[Any]) -> Any:
            if field.type == "str":
                return artifact.get_string_custom_property(field.name)
            number = artifact.get_int_custom_property(field.name)
            return bool(number) if field.type == "bool" else int(number)

        return cls(**{field.name: value(field) for field in dataclasses.fields(cls)})
