"""What later components must know of the data: small facts, as custom properties of the windows' artifact."""

from __future__ import annotations

import dataclasses
from typing import Any

from tfx import types

from components.interaction_example_gen.windows import TimeSplit
from pipeline.configs import SplitConfig
from pipeline.datasets.data_directory import Manifest


@dataclasses.dataclass(frozen=True)
class DataFacts:
    """The data's identity, its properties and where its splits lie (seconds; see TimeSplit)."""

    data: str
    data_digest: str
    dataset: str
    label_event: str
    repeats_recommendable: bool
    train_end: int
    eval_from: int
    eval_to: int
    test_from: int
    test_to: int

    @classmethod
    def of(cls, data: str, manifest: Manifest, config: SplitConfig) -> DataFacts:
        """From a data directory's manifest and the split's settings."""
        split = TimeSplit.before(manifest.time_range[1], config)
        return cls(
            data,
            manifest.digest,
            manifest.dataset,
            manifest.label_event,
            manifest.repeats_recommendable,
            split.train_end,
            *split.eval,
            *split.test,
        )

    @property
    def split(self) -> TimeSplit:
        """The label times of each split."""
        return TimeSplit(self.train_end, (self.eval_from, self.eval_to), (self.test_from, self.test_to))

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
