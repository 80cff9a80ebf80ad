"""Provenance of a served model, and checks against label leakage from the latest blessed model.

The checks run twice: before the comparison with the latest blessed model, and before a warm start from it.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
from collections.abc import Mapping
from typing import Any

from two_tower.base import json_text, storage
from two_tower.base.errors import UserError
from two_tower.data_directory.facts import FROZEN_PROTOCOLS, DataFacts
from two_tower.schema.request_inputs import IdKinds

# Within a served model's directory.
PROVENANCE = os.path.join("assets.extra", "provenance.json")
# Directory of the served form within a model's artifact, named by TFX.
SERVED_FORM = "Format-Serving"
# Bytes of a file that are read at once.
_BLOCK = 1 << 24
# Files of a SavedModel's graph.
_GRAPH = ("saved_model.pb", "fingerprint.pb")
# Custom property of the served model: URI of its towers, the Trainer's model.
TOWERS = "towers_uri"
# Custom property of re-indexed towers, and key of the provenance: digest of the new items.
ITEMS = "items_digest"
LATEST_BLESSED = "latest blessed model"
NO_BLESSED_MODEL = "No model has been blessed yet."
# Protocols that split by time. A model trained before a period has not seen its labels, whatever the data.
_BY_TIME = ("next_event", *FROZEN_PROTOCOLS)


@dataclasses.dataclass(frozen=True)
class ModelIdentity:
    """Identity of a model and of its training data.

    Attributes:
        digest: digest of what the model is, see `identity_of`.
        dataset: the data set's name, which stays the same while the data grows.
        data_digest: digest of the data directory of the training.
        train_newest_timestamp: time of the newest training event, seconds; 0 if the protocol does not split
            by time.
        protocol: the split's protocol, see SplitConfig.
        split_digest: digest of all settings of the split, see DataFacts.
        ids: kinds of the ids.
    """

    digest: str
    dataset: str
    data_digest: str
    train_newest_timestamp: int
    protocol: str
    split_digest: str
    ids: IdKinds = IdKinds()

    @classmethod
    def from_provenance(cls, provenance: Mapping[str, Any], digest: str) -> ModelIdentity:
        """Builds the identity from a model's `provenance.json`.

        Raises:
            UserError: a key is missing.
        """
        needed = ("dataset", "data_digest", "train_newest_timestamp")
        if lacking := [key for key in needed if key not in provenance]:
            raise UserError(
                f"A model's provenance.json lacks the key '{lacking[0]}' (its keys: {sorted(provenance)}). "
                "The copy is incomplete, or of another program: copy the model's whole directory again."
            )
        return cls(
            digest,
            provenance["dataset"],
            provenance["data_digest"],
            provenance["train_newest_timestamp"],
            # The first releases knew this protocol alone and did not record it.
            provenance.get("protocol", "next_event"),
            provenance.get("split_digest", ""),
            # Earlier releases knew integers alone, and numbers of texts that another ingest gave to others.
            IdKinds.of(provenance),
        )

    @classmethod
    def to_be_trained(cls, facts: DataFacts) -> ModelIdentity:
        """Builds the identity of a model to be trained on today's data; its digest is empty."""
        return cls.from_provenance(recorded(facts), "")


def recorded(facts: DataFacts) -> dict[str, Any]:
    """Returns the facts of its training data that a model records in provenance.json.

    `train_newest_timestamp` is 0 if the protocol does not split by time.
    """
    return {**dataclasses.asdict(facts), "train_newest_timestamp": max(facts.train_end - 1, 0)}


# Key that models are compared by → its type.
_COMPARED = {
    "dataset": str,
    "data_digest": str,
    "train_newest_timestamp": int,
    "protocol": str,
    "split_digest": str,
    "user_ids": str,
    "item_ids": str,
    "max_k": int,
}


def read(model_path: str) -> dict[str, Any] | None:
    """Reads the `provenance.json` of a served model; None if the files are gone.

    Raises:
        UserError: the file is damaged.
    """
    path = storage.join(model_path, PROVENANCE)
    storage.check_link(path)
    if not storage.exists(path):
        return None
    try:
        with storage.open_file(path, "r") as file:
            content = dict(json_text.parse(file.read(), allow_nan=True))
        for key in content.keys() & _COMPARED.keys():
            if type(content[key]) is not _COMPARED[key]:
                raise ValueError(f"key '{key}' is {content[key]!r:.60}")
        return content
    except (OSError, ValueError, TypeError) as error:
        raise UserError(
            f"{path} is damaged ({error}). It records what the model was trained on. Restore the file, or "
            "remove the model's whole directory: a model that is gone is not compared with."
        ) from error


# Key that a query needs → its type.
_NEEDED = {
    "data": str,
    "label_event": str,
    "repeats_recommendable": bool,
    "train_newest_timestamp": int,
    "history_length": int,
    "max_k": int,
}


def read_whole(model_path: str) -> dict[str, Any]:
    """Reads the `provenance.json` of a model that is to be asked.

    Raises:
        UserError: the file is missing or damaged, or a key is missing or of another type.
    """
    path = storage.join(model_path, PROVENANCE)
    content = read(model_path)
    if content is None:
        raise UserError(
            f"{path} cannot be read: there is no such file. The directory is no model of this pipeline, or "
            "an incomplete copy: copy the whole directory."
        )
    for key, kind in _NEEDED.items():
        value = content.get(key)
        if type(value) is not kind or (isinstance(value, int) and not 0 <= value < 2**63):
            raise UserError(
                f"{path}: key '{key}' is {value!r:.60}, and needs a value of type {kind.__name__}. Copy the "
                "whole directory of the model again."
            )
    if not isinstance(content.get("index", {}), dict):
        raise UserError(
            f"{path}: key 'index' is {content['index']!r:.60}, and needs an object. Copy it again."
        )
    return content


def takes_items_back(candidate: Mapping[str, Any] | None, in_service: Mapping[str, Any] | None) -> bool:
    """Tells if publishing a model would undo a re-indexing.

    A re-indexed model of the same data has later items. The candidate would drop items that it released, and
    recommend items that it withdrew.

    Args:
        candidate: the `provenance.json` of the model to be published.
        in_service: the `provenance.json` of the newest published model.
    """
    if candidate is None or in_service is None:
        return False
    return (
        ITEMS in in_service
        and ITEMS not in candidate
        and candidate.get("data_digest") == in_service.get("data_digest")
    )


def is_of_older_data(candidate: Mapping[str, Any] | None, in_service: Mapping[str, Any] | None) -> bool:
    """Tells if a model's training data ends before that of the model in service, of the same data set.

    Protocols without a split in time record no end, and never make a model older.

    Args:
        candidate: see `takes_items_back`.
        in_service: see `takes_items_back`.
    """
    if candidate is None or in_service is None or candidate.get("dataset") != in_service.get("dataset"):
        return False
    ends = [one.get("train_newest_timestamp", 0) for one in (candidate, in_service)]
    return 0 < ends[0] < ends[1]


def digest_of(model_path: str) -> str:
    """Computes sha256 over the names and bytes of a model's files; equal digests mean the same files."""
    return _digest(model_path)


def _digest(model_path: str, without: tuple[str, ...] = ()) -> str:
    digest = hashlib.sha256()
    names = (name for name in storage.list_files(model_path) if name not in without)
    for name in sorted(names, key=os.path.split):
        digest.update(name.encode() + b"\0")
        path = storage.join(model_path, name)
        if without and name == PROVENANCE:
            with storage.open_file(path) as file:
                content = _without_times(file.read())
            digest.update(len(content).to_bytes(8, "big") + content)
            continue
        digest.update(storage.size(path).to_bytes(8, "big"))
        with storage.open_file(path) as file:
            while content := file.read(_BLOCK):
                digest.update(content)
    return "sha256:" + digest.hexdigest()


def identity_of(model_path: str) -> str:
    """Computes the digest of a model's weights, assets and provenance; equal ones mean equal answers.

    The files of the graph are left out: the same training in another place writes other bytes. Transform's
    graph holds paths of its run, and its inputs in an order that varies. `provenance.json` stands for the
    graph, with the digest of the code that drew it.
    """
    return _digest(model_path, without=_GRAPH)


def _without_times(content: bytes) -> bytes:
    """Returns the content of provenance.json without the index's tuning, whose times are measured anew."""
    try:
        recorded = dict(json_text.parse(content.decode(), allow_nan=True))
    except (ValueError, TypeError):
        return content
    if isinstance(recorded.get("index"), dict):
        recorded["index"] = {key: value for key, value in recorded["index"].items() if key != "tuning"}
    return json.dumps(recorded, sort_keys=True).encode()


def towers_digest(trained_uri: str) -> str | None:
    """Computes the identity of a Trainer's towers, which the index built from them records.

    Args:
        trained_uri: URI of the Trainer's artifact, see TOWERS.

    Returns:
        The digest; None if the files are gone.
    """
    path = storage.join(trained_uri, SERVED_FORM)
    return identity_of(path) if storage.exists(path) else None


def eligibility(
    candidate: ModelIdentity, blessed: ModelIdentity | None, test_start: int, who: str = LATEST_BLESSED
) -> tuple[bool, str]:
    """Decides if a released model is eligible for the comparison, and gives the reason.

    The blessed model must not have trained on today's test labels. With a split by time, its training data
    must end before the test period. With any other split, only a model of the very same split is eligible.

    Args:
        candidate: the judged model.
        blessed: the released model, if there is one.
        test_start: begin of today's test period, seconds; ignored if the protocol does not split by time.
        who: the released model in words, for the reason.
    """
    if blessed is not None and blessed.digest == candidate.digest:
        return False, f"The {who} is this very model."
    if reason := _may_have_seen_labels(candidate, blessed, who):
        return False, reason
    assert blessed is not None
    if candidate.protocol not in _BY_TIME:
        return True, f"The {who} was trained on the same split of the same data."
    if blessed.train_newest_timestamp >= test_start:
        return False, (
            f"The {who} was trained on today's test period. Its events end at "
            f"{blessed.train_newest_timestamp}, and the period begins at {test_start}."
        )
    return True, f"The {who} comes from the same data set and has not seen today's test period."


def starting_point(today: ModelIdentity, blessed: ModelIdentity | None) -> tuple[bool, str]:
    """Decides if training may start warm from the latest blessed model, and gives the reason.

    The new model keeps the blessed model's knowledge, and is validated on eval and judged on test. So the
    blessed model's training data must not end after today's train split.

    Args:
        today: the model to be trained, see `ModelIdentity.to_be_trained`.
        blessed: the latest blessed model, if there is one.
    """
    if reason := _may_have_seen_labels(today, blessed, LATEST_BLESSED):
        return False, reason
    assert blessed is not None
    if blessed.train_newest_timestamp > today.train_newest_timestamp:
        return False, (
            f"The latest blessed model was trained on events up to {blessed.train_newest_timestamp}, and "
            f"today's train split ends at {today.train_newest_timestamp}. It knows labels of today's eval or "
            "test."
        )
    return True, "The latest blessed model has not seen events after today's train split."


def _may_have_seen_labels(candidate: ModelIdentity, blessed: ModelIdentity | None, who: str) -> str:
    """Returns why a released model may have seen today's labels, times apart; "" if it has not."""
    if blessed is None:
        return NO_BLESSED_MODEL
    if blessed.dataset != candidate.dataset:
        return f"The {who} comes from other data: {blessed.dataset}. This one comes from {candidate.dataset}."
    for whose, one in (("users", "user_id"), ("items", "item_id")):
        then, now = getattr(blessed.ids, one), getattr(candidate.ids, one)
        if then != now:
            return f"The {who} knows {whose} by other ids ({then}) than today's data ({now})."
    frozen = {blessed.protocol, candidate.protocol} <= set(FROZEN_PROTOCOLS)
    if blessed.protocol != candidate.protocol and not frozen:
        return (
            f"The {who} was trained under the protocol {blessed.protocol}, this one under "
            f"{candidate.protocol}. It may have learned from today's test labels."
        )
    if candidate.protocol in _BY_TIME:
        return ""
    if blessed.data_digest != candidate.data_digest:
        return (
            f"The {who} was trained on another version of the data. Under "
            f"{candidate.protocol} it may have learned from today's test labels."
        )
    if blessed.split_digest != candidate.split_digest:
        # With fewer spans, for example, a user may have too few events for leave_one_out.
        return (
            f"The {who} was trained with other settings of the split or other spans. Under "
            f"{candidate.protocol} it may have learned from today's test labels."
        )
    return ""
