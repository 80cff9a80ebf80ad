"""Executor of Pusher: TFX's Pusher with four differences.

A push becomes visible as a whole. The copy must first answer recorded queries as the model did in the
evaluation. The same model is not pushed twice. A re-indexed model is not replaced by older items.
"""

from __future__ import annotations

import json
import os
from typing import Any

from tfx import types
from tfx.components.pusher import executor as tfx_pusher
from tfx.dsl.io import fileio
from tfx.types import artifact_utils

from two_tower.base import storage
from two_tower.serving import canary, provenance
from two_tower.serving.versions import PUSHED, publish, versions

# Custom property of `pushed_model` for a blessed model: "not pushed: ..." and the reason.
NOT_PUSHED = "not_pushed_because"


class Executor(tfx_pusher.Executor):
    """Executor that publishes a blessed model, unless the newest one is the same or has newer items."""

    def Do(
        self,
        input_dict: dict[str, list[types.Artifact]],
        output_dict: dict[str, list[types.Artifact]],
        exec_properties: dict[str, Any],
    ) -> None:
        """Pushes the model and records the result on `pushed_model`.

        Its `pushed_destination` is the model in service. NOT_PUSHED is the reason for a blessed model that
        was not pushed.

        Raises:
            CanaryFailed: the copy does not load or answers differently; nothing was published.
        """
        pushed = artifact_utils.get_single_instance(output_dict["pushed_model"])
        if not self.CheckBlessing(input_dict):
            self._MarkNotPushed(pushed)
            return
        directory = storage.join(exec_properties["root"], PUSHED)
        model_path = self.GetModelPath(input_dict)
        published = versions(directory)
        newest = os.path.join(directory, str(published[-1])) if published else ""
        if reason := _why_not(model_path, newest):
            self._MarkNotPushed(pushed)
            pushed.set_string_custom_property("pushed_destination", newest)
            pushed.set_string_custom_property(NOT_PUSHED, reason)
            return
        path = publish(model_path, directory, _recorded(input_dict))
        self._MarkPushed(pushed, pushed_destination=path, pushed_version=os.path.basename(path))


def _why_not(model_path: str, newest: str) -> str:
    """Returns the reason not to publish a blessed model, or ""; `newest` is a path or ""."""
    if not newest:
        return ""
    if provenance.identity_of(newest) == provenance.identity_of(model_path):
        return f"not pushed again: the same model is in service already, in {newest}."
    if provenance.takes_items_back(provenance.read(model_path), provenance.read(newest)):
        return (
            f"not pushed: {newest} is in service with the same data and newer items (`two-tower reindex`). "
            "This push would replace them. Re-index this model too: `two-tower reindex "
            f"--model {model_path} --items DIR`."
        )
    return ""


def _recorded(input_dict: dict[str, list[types.Artifact]]) -> dict[str, Any]:
    """Returns the queries with answers that the evaluator recorded beside its blessing."""
    blessing = artifact_utils.get_single_instance(input_dict["model_blessing"])
    path = os.path.join(blessing.uri, canary.FILE_NAME)
    if fileio.exists(path):
        with fileio.open(path) as file:
            content = json.loads(file.read())
        if content is not None:
            return dict(content)
    raise canary.CanaryFailed(
        f"Nothing was published: {path} holds no recorded queries to check the copy with. The evaluation is "
        "of an older version, or had no queries: run it again."
    )
