"""Facts of the data for later components: small values on artifacts and in models."""

from __future__ import annotations

import dataclasses

# The protocols in which a user's state is frozen: yambda is frozen at the points in time of its authors.
FROZEN_PROTOCOLS = ("frozen", "yambda")
# The protocols in which a query is a user and has a set of labels.
SET_PROTOCOLS = (*FROZEN_PROTOCOLS, "hold_out")
# Said where `DataFacts.users_are_new`: users who should return need another remedy than sessions.
NEW_USERS = (
    "Train knows no user of the test split, as in data of sessions: training leaves user_id out of "
    "trainer.parts. If users should return, check that their ids are the same throughout the data, or leave "
    "more data to train (split.holdout_seconds, split.protocol)."
)


@dataclasses.dataclass(frozen=True)
class DataFacts:
    """Identity of the data, its properties and the bounds of its splits.

    Times are in seconds (see `splits.TimeSplit`), and 0 if the protocol does not split by time.
    `split_digest` covers all settings of the split and the spans that are read: equal data and settings give
    equal splits. `user_ids` and `item_ids` are the kinds of ids, see `Manifest`.

    `users_are_new` tells that train knows no user of the test split, as where each user is one session. The
    windows decide it, not the manifest.
    """

    data: str
    data_digest: str
    dataset: str
    label_event: str
    repeats_recommendable: bool
    has_timestamps: bool
    user_ids: str
    item_ids: str
    protocol: str
    split_digest: str
    train_end: int
    eval_from: int
    eval_to: int
    test_from: int
    test_to: int
    users_are_new: bool = False
