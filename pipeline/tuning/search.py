"""Search over the trainer's settings: varied and shared settings, and its folder."""

from __future__ import annotations

import dataclasses
import os
from typing import Any

from two_tower.base.errors import UserError
from two_tower.base.import_closure import import_digest
from two_tower.base.settings import value_text
from two_tower.pipeline.settings import pipeline_config
from two_tower.pipeline.settings.pipeline_config import PipelineConfig
from two_tower.pipeline.tuning.search_space import Choices, SearchSpace
from two_tower.trainer.settings import AGGREGATES

FOLDER = "tune"
SEARCHED = "searched"


@dataclasses.dataclass(frozen=True)
class Search:
    """Definition of a search.

    Attributes:
        data, data_digest: the data directory and its manifest's digest.
        output: directory of runs; the search is in its folder `tune/`.
        preset: name of the preset that `base` overrides.
        base: settings that all trials share.
        space: settings that vary.
    """

    data: str
    data_digest: str
    output: str
    preset: str
    base: PipelineConfig
    space: SearchSpace

    def __post_init__(self) -> None:
        """Raises UserError for settings that trials cannot follow."""
        if self.base.trainer.distribution == "multi_worker":
            raise UserError(
                "trainer.distribution=multi_worker needs processes on other machines, and a search starts "
                "processes on this one alone. Take none or mirrored; run the winner with multi_worker."
            )
        values = pipeline_config.settings(self.base)
        for name in self.space.dimensions:
            for other, allowed in pipeline_config.declaration(name).setting.applies.items():
                held = values[other] if isinstance(values[other], tuple) else (values[other],)
                if other not in self.space.dimensions and not set(held) & set(allowed):
                    raise UserError(
                        f"{name} cannot be searched: it changes something only where {other} is "
                        f"{' or '.join(map(value_text, allowed))}; {other} is {value_text(values[other])}. "
                        f"Leave {name} out of the space, or set {other}={value_text(allowed[0])}."
                    )
        dimension = self.space.dimensions.get("trainer.parts")
        searched = dimension.values if isinstance(dimension, Choices) else ()
        if any((AGGREGATES in parts) != (AGGREGATES in self.base.trainer.parts) for parts in searched):
            raise UserError(
                "trainer.parts cannot be searched with and without aggregates, because Transform computes "
                "them once for all trials. Give aggregates to every choice, or to none, as in --set "
                "trainer.parts."
            )

    @property
    def folder(self) -> str:
        """Folder of the study, the table, the plot and the winner."""
        return os.path.join(self.output, FOLDER)

    def identity(self) -> dict[str, Any]:
        """Returns all inputs of validation recall by name; equal identities make trials comparable."""
        given = {
            name: list(value) if isinstance(value, tuple) else value
            for name, value in pipeline_config.settings(self.base).items()
            if name.startswith(("split.", "windows.", "features.", "trainer.", "gate.cutoff", "seed"))
        }
        searched = {name: {SEARCHED: one} for name, one in self.space.to_plain().items()}
        return {
            **given,
            **searched,
            "the data's digest": self.data_digest,
            "the digest of the trainer's sources": import_digest("two_tower.trainer.loop.training"),
        }
