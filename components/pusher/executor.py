"""TFX's Pusher with four differences.

A push becomes visible whole, and only once the copy has answered as the model did when it was evaluated; the
same model is not pushed twice; and a model that was re-indexed since is not replaced by its training's items.
"""

from __future__ import annotations

import json
import os
from typing import Any

from tfx import types
from tfx.components.pusher import executor as tfx_pusher
from tfx.dsl.io import fileio
from tfx.types import artifact_utils

from two_tower.serving import canary, provenance
from two_tower.serving.versions import publish, versions

# Custom property of `pushed_model`, of a blessed model: "not pushed: ..." and why.
NOT_PUSHED = "not_pushed_because"


class Executor(tfx_pusher.Executor):
    """Publishes a blessed model unless the newest published one is the same, or has newer items."""

    def Do(
        self,
        input_dict: dict[str, list[types.Artifact]],
        output_dict: dict[str, list[types.Artifact]],
        exec_properties: dict[str, Any],
    ) -> None:
        """`pushed_model` says whether it was pushed, and its `pushed_destination` what is in service.

        Of a blessed model that was not, NOT_PUSHED says why.

        Raises:
            CanaryFailed: the copy does not load, or answers otherwise; nothing was published.
        """
        pushed = artifact_utils.get_single_instance(output_dict["pushed_model"])
        if not self.CheckBlessing(input_dict):
            self._MarkNotPushed(pushed)
            return
        directory = exec_properties["push_directory"]
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
    """Why a blessed model does not follow the newest published one, "" where that is none; "" if it does."""
    if not newest:
        return ""
    if provenance.digest_of(newest) == provenance.digest_of(model_path):
        return f"not pushed again: this very model is in service already, in {newest}."
    if provenance.takes_items_back(provenance.read(model_path), provenance.read(newest)):
        return (
            f"not pushed: {newest} is in service, of the same data, and was given newer items since "
            "(`two-tower reindex`), which this model's would replace. Give it these, too: `two-tower reindex "
            f"--model {model_path} --items DIR`."
        )
    return ""


def _recorded(input_dict: dict[str, list[types.Artifact]]) -> dict[str, Any]:
    """The queries that the evaluator has left beside its blessing, with their answers."""
    blessing = artifact_utils.get_single_instance(input_dict["model_blessing"])
    path = os.path.join(blessing.uri, canary.FILE_NAME)
    if fileio.exists(path):
        with fileio.open(path) as file:
            content = json.loads(file.read())
        if content is not None:
            return dict(content)
    raise canary.CanaryFailed(
        f"Nothing was published: {path} holds no recorded queries to ask the model again. The evaluation is "
        "of an older version, or had no queries: run it again."
    )
