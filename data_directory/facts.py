"""Facts of the data that later components need: small values that travel on artifacts and in models."""

from __future__ import annotations

import dataclasses

# The protocols in which a user's state is frozen: yambda is frozen at the points in time of its authors.
FROZEN_PROTOCOLS = ("frozen", "yambda")


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
