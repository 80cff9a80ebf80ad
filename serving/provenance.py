"""What a served model says of itself, and whether it may have seen the labels that one is asked for today.

It is asked twice: before the latest blessed model is compared with, and before training begins from it.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
from collections.abc import Mapping
from typing import Any

from two_tower.base import storage
from two_tower.data_directory.facts import FROZEN_PROTOCOLS, DataFacts

# Within a served model's directory.
PROVENANCE = os.path.join("assets.extra", "provenance.json")
# Within an artifact of a model, where TFX has the form that is served.
SERVED_FORM = "Format-Serving"
# Custom property of the served model: where the Trainer's model is that it was made of.
TOWERS = "towers_uri"
# Custom property of towers whose catalog is not the trained one, and key of the provenance: its digest.
ITEMS = "items_digest"
NO_BLESSED_MODEL = "No model has been blessed yet."
# The protocols that split by time: who trained before a period has not seen it, whatever the data was.
_BY_TIME = ("next_event", *FROZEN_PROTOCOLS)


@dataclasses.dataclass(frozen=True)
class ModelIdentity:
    """What tells a model from another, and what it learned from.

    Attributes:
        digest: of the model's files.
        dataset: the data set's name, which stays the same while the data grows.
        data_digest: of the data directory that it was trained on.
        train_newest_timestamp: time of the newest event that it was trained on, seconds; 0 where the
            protocol does not split by time.
        protocol: what was train and what was test, see SplitConfig.
        split_digest: of all settings of the split, see DataFacts.
    """

    digest: str
    dataset: str
    data_digest: str
    train_newest_timestamp: int
    protocol: str
    split_digest: str

    @classmethod
    def from_provenance(cls, provenance: Mapping[str, Any], digest: str) -> ModelIdentity:
        """From the `provenance.json` that is kept in every model."""
        return cls(
            digest,
            provenance["dataset"],
            provenance["data_digest"],
            int(provenance["train_newest_timestamp"]),
            # Models from before there were others do not name it.
            provenance.get("protocol", "next_event"),
            provenance.get("split_digest", ""),
        )

    @classmethod
    def to_be_trained(cls, facts: DataFacts) -> ModelIdentity:
        """Of a model that is still to be made of today's data: it has no files, and no digest."""
        return cls.from_provenance(recorded(facts), "")


def recorded(facts: DataFacts) -> dict[str, Any]:
    """What a model that is trained on these data records of them.

    `train_newest_timestamp` is 0 where the protocol is no split in time.
    """
    return {**dataclasses.asdict(facts), "train_newest_timestamp": max(facts.train_end - 1, 0)}


def read(model_path: str) -> dict[str, Any] | None:
    """The `provenance.json` of a served model; None where its files are gone."""
    path = storage.join(model_path, PROVENANCE)
    if not storage.exists(path):
        return None
    with storage.open_file(path, "r") as file:
        return dict(json.loads(file.read()))


def takes_items_back(candidate: Mapping[str, Any] | None, in_service: Mapping[str, Any] | None) -> bool:
    """Whether a model over the items of its data would follow one that was re-indexed since.

    Of the same data, the re-indexing is the later one: what it has released would be gone, and what it has
    withdrawn would be recommended again.

    Args:
        candidate: the `provenance.json` of the model that would be published.
        in_service: that of the newest published one.
    """
    if candidate is None or in_service is None:
        return False
    return (
        ITEMS in in_service
        and ITEMS not in candidate
        and candidate["data_digest"] == in_service["data_digest"]
    )


def digest_of(model_path: str) -> str:
    """sha256 over the names and bytes of a model's files: equal digests mean the same model."""
    digest = hashlib.sha256()
    for name in sorted(storage.list_files(model_path), key=os.path.split):
        digest.update(name.encode() + b"\0")
        with storage.open_file(storage.join(model_path, name)) as file:
            content = file.read()
        digest.update(len(content).to_bytes(8, "big") + content)
    return "sha256:" + digest.hexdigest()


def towers_digest(trained_uri: str) -> str | None:
    """Digest of the towers in a Trainer's model, which an index records as those that it was built from.

    Args:
        trained_uri: of the Trainer's artifact, see TOWERS.

    Returns:
        None where its files are gone.
    """
    path = storage.join(trained_uri, SERVED_FORM)
    return digest_of(path) if storage.exists(path) else None


def eligibility(candidate: ModelIdentity, blessed: ModelIdentity | None, test_start: int) -> tuple[bool, str]:
    """Whether the latest blessed model may be compared with, and why.

    It must not have learned from a label that it would be asked for. Where the split is a point in time, what
    it trained on must end before; where it is not, only a model of the very same split is known not to have.

    Args:
        candidate: the model that is judged.
        blessed: the latest blessed model, if there is one.
        test_start: when today's test period begins, seconds; where the protocol does not split by time, any.
    """
    if blessed is not None and blessed.digest == candidate.digest:
        return False, "The latest blessed model is this very model."
    if reason := _may_have_seen_labels(candidate, blessed):
        return False, reason
    assert blessed is not None
    if candidate.protocol not in _BY_TIME:
        return True, "The latest blessed model was trained on the same split of the same data."
    if blessed.train_newest_timestamp >= test_start:
        return False, (
            f"The latest blessed model was trained on today's test period: up to "
            f"{blessed.train_newest_timestamp}, and the test period begins at {test_start}."
        )
    return True, "The latest blessed model comes from the same data set and has not seen today's test period."


def starting_point(today: ModelIdentity, blessed: ModelIdentity | None) -> tuple[bool, str]:
    """Whether training may begin from the latest blessed model, and why.

    What it knows stays in the new model, which is validated on eval and judged on test: the one must not have
    trained on anything later than the other's train split.

    Args:
        today: the model that is to be trained, see `ModelIdentity.to_be_trained`.
        blessed: the latest blessed model, if there is one.
    """
    if reason := _may_have_seen_labels(today, blessed):
        return False, reason
    assert blessed is not None
    if blessed.train_newest_timestamp > today.train_newest_timestamp:
        return False, (
            f"The latest blessed model was trained on events up to {blessed.train_newest_timestamp}, and "
            f"today's train split ends at {today.train_newest_timestamp}: it knows labels of today's eval or "
            "test."
        )
    return True, "The latest blessed model has not seen what comes after today's train split."


def _may_have_seen_labels(candidate: ModelIdentity, blessed: ModelIdentity | None) -> str:
    """Why the latest blessed model is none to start with, but for its times; "" if it is."""
    if blessed is None:
        return NO_BLESSED_MODEL
    if blessed.dataset != candidate.dataset:
        return (
            f"The latest blessed model comes from other data: {blessed.dataset}, "
            f"where this one comes from {candidate.dataset}."
        )
    frozen = {blessed.protocol, candidate.protocol} <= set(FROZEN_PROTOCOLS)
    if blessed.protocol != candidate.protocol and not frozen:
        return (
            f"The latest blessed model was trained under the protocol {blessed.protocol}, this "
            f"one under {candidate.protocol}: it may have learned from today's test labels."
        )
    if candidate.protocol in _BY_TIME:
        return ""
    if blessed.data_digest != candidate.data_digest:
        return (
            f"The latest blessed model was trained on another version of the data: under "
            f"{candidate.protocol} it may have learned from today's test labels."
        )
    if blessed.split_digest != candidate.split_digest:
        # Of fewer spans, say, a user has too few events for one to be left out.
        return (
            "The latest blessed model was trained with other settings of the split or other "
            f"spans: under {candidate.protocol} it may have learned from today's test labels."
        )
    return ""
