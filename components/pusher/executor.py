"""Executor of Pusher: TFX's Pusher with four differences.

A push becomes visible as a whole. The copy must hold the evaluated files and answer recorded queries as they
did in the evaluation. The same model is not pushed twice. Newer items or data are not replaced by older ones.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Mapping
from typing import Any

from tfx import types
from tfx.components.pusher import executor as tfx_pusher
from tfx.dsl.io import fileio
from tfx.types import artifact_utils

from two_tower.base import pointers, storage
from two_tower.base.errors import UserError
from two_tower.base.pointers import Pointer
from two_tower.serving import canary, provenance, push_record
from two_tower.serving.push_record import PushRecord
from two_tower.serving.versions import PUSHED, NotPublished, publish, version_before

# Custom property of `pushed_model` for a blessed model: "not pushed: ..." and the reason.
NOT_PUSHED = "not_pushed_because"
# Custom property of the blessing, by the RetrievalEvaluator: digest of the files that it evaluated. Another
# one, `pointers.ANCHOR`, is the URI of the best released model if this one is pushed.
EVALUATED_DIGEST = "evaluated_digest"


class Executor(tfx_pusher.Executor):
    """Executor that publishes a blessed model, unless the one in service is the same or newer."""

    def Do(
        self,
        input_dict: dict[str, list[types.Artifact]],
        output_dict: dict[str, list[types.Artifact]],
        exec_properties: dict[str, Any],
    ) -> None:
        """Pushes the model and records the result on `pushed_model`.

        Its `pushed_destination` is the model in service. NOT_PUSHED is the reason for a blessed model that
        was not pushed. The pointer under the root then names the model in service, see `base/pointers.py`.

        Raises:
            CanaryFailed: the copy is not the evaluated model, or does not load, or answers differently;
                nothing was published.
        """
        pushed = artifact_utils.get_single_instance(output_dict["pushed_model"])
        if not self.CheckBlessing(input_dict):
            self._MarkNotPushed(pushed)
            return
        root = exec_properties["root"]
        model_path = self.GetModelPath(input_dict)
        record = _record(input_dict)
        try:
            path = publish(
                model_path, storage.join(root, PUSHED), record, lambda newest: _why_not(model_path, newest)
            )
            self._MarkPushed(pushed, pushed_destination=path, pushed_version=os.path.basename(path))
        except NotPublished as objection:
            self._MarkNotPushed(pushed)
            pushed.set_string_custom_property("pushed_destination", objection.newest)
            pushed.set_string_custom_property(NOT_PUSHED, str(objection))
            if not _is_in_service(model_path, objection.newest):
                return
            # A push that was killed behind its last step has not moved the pointer.
            directory, version = os.path.split(objection.newest)
            in_service = push_record.read(directory, int(version))
            record = in_service if in_service.model else record
        properties = {provenance.TOWERS: record.towers, pointers.ANCHOR: record.anchor}
        pointers.point(root, pointers.BLESSED, Pointer(record.model, properties, exec_properties["run"]))


def _why_not(model_path: str, newest: str) -> str:
    """Returns the reason not to publish a blessed model, or ""; `newest` is a path or ""."""
    if not newest:
        return ""
    try:
        in_service = provenance.read(newest)
        if _is_in_service(model_path, newest):
            return f"not pushed again: the same model is in service already, in {newest}."
    except (UserError, OSError):
        # What is damaged is no reason to keep it in service.
        return ""
    candidate = provenance.read(model_path)
    if provenance.takes_items_back(candidate, in_service):
        return (
            f"not pushed: {newest} is in service with the same data and newer items (`two-tower reindex`). "
            "This push would replace them. Re-index this model too: `two-tower reindex "
            f"--model {model_path} --items DIR`."
        )
    if provenance.is_of_older_data(candidate, in_service):
        return (
            f"not pushed: {newest} is in service, and its training data ends later than this model's. Train "
            f"on newer data. To serve older data on purpose, {_way_to_older_data(candidate, newest)}."
        )
    return ""


def _way_to_older_data(candidate: Mapping[str, Any] | None, newest: str) -> str:
    """Says what to do before a model is pushed over one of newer data."""
    push_directory = os.path.dirname(newest)
    # Without an earlier version, or with a damaged one, a rollback does not help.
    with contextlib.suppress(UserError):
        before = storage.join(push_directory, str(version_before(push_directory)))
        if not provenance.is_of_older_data(candidate, provenance.read(before)):
            return "run `two-tower rollback` first, then this run again"
    return "run with another output directory, which has its own pushed/"


def _is_in_service(model_path: str, newest: str) -> bool:
    return provenance.identity_of(newest) == provenance.identity_of(model_path)


def _record(input_dict: dict[str, list[types.Artifact]]) -> PushRecord:
    """Returns what the evaluator recorded of the model that it blessed."""
    model = artifact_utils.get_single_instance(input_dict["model"])
    blessing = artifact_utils.get_single_instance(input_dict["model_blessing"])
    path = os.path.join(blessing.uri, canary.FILE_NAME)
    content = None
    if fileio.exists(path):
        with fileio.open(path) as file:
            content = json.loads(file.read())
    digest = blessing.get_string_custom_property(EVALUATED_DIGEST)
    if content is None or not digest:
        raise canary.CanaryFailed(
            f"Nothing was published: {blessing.uri} holds no recorded queries or no digest to check the copy "
            "with. The evaluation is of an older version, or had no queries: run it again."
        )
    return PushRecord(
        canary=content,
        digest=digest,
        model=model.uri,
        towers=model.get_string_custom_property(provenance.TOWERS) or "",
        anchor=blessing.get_string_custom_property(pointers.ANCHOR) or model.uri,
    )
