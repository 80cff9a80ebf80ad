"""TFX's Pusher with two differences: a push becomes visible whole, and the same model is not pushed twice."""

from __future__ import annotations

import os
from typing import Any

from tfx import types
from tfx.components.pusher import executor as tfx_pusher
from tfx.types import artifact_utils

from components.pusher.versions import digest_of, publish, versions


class Executor(tfx_pusher.Executor):
    """Publishes a blessed model unless the newest published one is the same."""

    def Do(
        self,
        input_dict: dict[str, list[types.Artifact]],
        output_dict: dict[str, list[types.Artifact]],
        exec_properties: dict[str, Any],
    ) -> None:
        """`pushed_model` says whether it was pushed, and its `pushed_destination` what is in service."""
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
        path = publish(model_path, directory)
        self._MarkPushed(pushed, pushed_destination=path, pushed_version=os.path.basename(path))
