"""TFX's Pusher with three differences.

A push becomes visible whole, and only once the copy has answered as the model did when it was evaluated; and
the same model is not pushed twice.
"""

from __future__ import annotations

import json
import os
from typing import Any

from tfx import types
from tfx.components.pusher import executor as tfx_pusher
from tfx.dsl.io import fileio
from tfx.types import artifact_utils

from components.pusher import canary
from components.pusher.versions import publish, versions
from components.scann_indexer.provenance import digest_of


class Executor(tfx_pusher.Executor):
    """Publishes a blessed model unless the newest published one is the same."""

    def Do(
        self,
        input_dict: dict[str, list[types.Artifact]],
        output_dict: dict[str, list[types.Artifact]],
        exec_properties: dict[str, Any],
    ) -> None:
        """`pushed_model` says whether it was pushed, and its `pushed_destination` what is in service.

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
        if newest and digest_of(newest) == digest_of(model_path):
            self._MarkNotPushed(pushed)
            pushed.set_string_custom_property("pushed_destination", newest)
            return
        path = publish(model_path, directory, _recorded(input_dict))
        self._MarkPushed(pushed, pushed_destination=path, pushed_version=os.path.basename(path))


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
