"""Executor of AutoSettings: settles the settings and writes a section to each output."""

from __future__ import annotations

import dataclasses
import json
import logging
from typing import Any

from tfx import types
from tfx.dsl.components.base import base_executor
from tfx.types import artifact_utils

from two_tower.base.settings import to_plain
from two_tower.components.auto_settings import settled
from two_tower.components.per_run_settings import with_submitted
from two_tower.data_directory.feature_columns import ResolvedFeatures
from two_tower.data_directory.manifest import Manifest

_log = logging.getLogger(__name__)


class Executor(base_executor.BaseExecutor):
    """Executor that raises UserError if a file of the data cannot be read."""

    def Do(
        self,
        input_dict: dict[str, list[types.Artifact]],
        output_dict: dict[str, list[types.Artifact]],
        exec_properties: dict[str, Any],
    ) -> None:
        """Writes the settled settings."""
        data = exec_properties["data"]
        given = settled.Sections.from_json(exec_properties["settings"])
        manifest = Manifest.load(data)
        windows = with_submitted(given.windows, "windows", exec_properties)
        latest = exec_properties.get("latest_blessed")
        sections, choices = settled.settle(
            data,
            manifest,
            dataclasses.replace(given, windows=windows),
            json.loads(exec_properties["automatic"]),
            settled.kept_by_warm_start(given.trainer, manifest, latest),
        )
        for line in settled.lines(choices):
            _log.info(line)
        resolved = ResolvedFeatures.from_json(exec_properties["features"])
        values: dict[str, str | int] = {
            **{
                name: _json(getattr(sections, name))
                for name in ("split", "windows", "trainer", "evaluation", "gate")
            },
            "made_with": _made_with(sections, resolved),
            "preprocessing": preprocessing(sections, resolved, exec_properties["preprocessing_digest"]),
            "choices": json.dumps([dataclasses.asdict(choice) for choice in choices]),
            "history_length": sections.windows.history_length,
            "cutoff": sections.gate.cutoff,
        }
        for name, value in values.items():
            artifact_utils.get_single_instance(output_dict[name]).write(value)


def _json(section: Any) -> str:
    """Formats settings as a parameter. Equal settings give equal text, which caching relies on."""
    return json.dumps(to_plain(section), sort_keys=True)


def _made_with(sections: settled.Sections, resolved: ResolvedFeatures) -> str:
    """Returns the settings that must agree before statistics are compared; then only the data differs."""
    return json.dumps(
        {
            "split.protocol": sections.split.protocol,
            "windows.history_length": sections.windows.history_length,
            "windows.positions": sections.windows.positions,
            "features.users": [f"{spec.column}:{spec.kind}" for spec in resolved.users],
        },
        sort_keys=True,
    )


def preprocessing(sections: settled.Sections, resolved: ResolvedFeatures, source_digest: str) -> str:
    """Returns the `custom_config` of the windows' Transform, as JSON; see `preprocessing.preprocessing_fn`.

    Args:
      sections: the settled settings.
      resolved: the features.
      source_digest: digest of the preprocessing's sources, so that edited code runs again.
    """
    return json.dumps(
        {
            "history_length": sections.windows.history_length,
            "aggregates": list(resolved.history),
            "has_timestamps": resolved.has_timestamps,
            "users": [dataclasses.asdict(spec) for spec in resolved.users],
            "source_digest": source_digest,
        },
        sort_keys=True,
    )
