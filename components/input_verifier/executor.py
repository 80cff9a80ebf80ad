"""Executor of InputVerifier: reads and verifies the manifest, and tries the root."""

from __future__ import annotations

import hashlib
import json
import uuid
from collections.abc import Mapping
from typing import Any

from tfx import types
from tfx.dsl.components.base import base_executor
from tfx.types import artifact_utils

from two_tower.base import pointers, storage
from two_tower.base.errors import UserError
from two_tower.base.settings import from_plain, known_part
from two_tower.components import job_folder
from two_tower.components.per_run_settings import PER_RUN, checked, parameter_name, with_submitted
from two_tower.data_directory.feature_columns import FeatureSpec, ResolvedFeatures, resolve
from two_tower.data_directory.manifest import Manifest
from two_tower.data_directory.settings import FeaturesConfig
from two_tower.data_directory.verification import verify
from two_tower.evaluation.gate.judge import check_slice_names
from two_tower.evaluation.settings import GateConfig, slice_limits


class Executor(base_executor.BaseExecutor):
    """Executor that raises UserError for whatever would stop a later step, if it can be known now."""

    def Do(
        self,
        input_dict: dict[str, list[types.Artifact]],
        output_dict: dict[str, list[types.Artifact]],
        exec_properties: dict[str, Any],
    ) -> None:
        """Checks parameters, root and data in this order, and writes the three texts.

        Raises:
          UserError: a parameter has a wrong type or value, the root cannot be written or is not the job's,
            the data differs from its manifest or is gone, or its columns are not those of the compilation.
        """
        root, data = exec_properties["root"], exec_properties["data"]
        submitted = _submitted(exec_properties)
        outputs = {name: artifact_utils.get_single_instance(found) for name, found in output_dict.items()}
        _check_root(root, outputs["data_digest"].uri)
        _check_settings(exec_properties)
        manifest = _verified(data)
        if submitted.get("windows.spans") and not manifest.spans:
            raise UserError(
                f"{data}: the job's parameter windows_spans is {submitted['windows.spans']}, and the events "
                "have no spans. Submit the job with 0."
            )
        _check_features(data, manifest, exec_properties)
        decisive = [exec_properties[name] for name in ("settings", "features", "code")]
        digest = _cache_key(manifest.digest, root)
        content = json.dumps([digest, submitted, *decisive], sort_keys=True)
        run = hashlib.sha256(content.encode()).hexdigest()
        others = {
            name: pointers.latest_of_others(root, name, run) for name in (pointers.BLESSED, pointers.APPROVED)
        }
        outputs["data_digest"].write(digest)
        outputs["run"].write(run)
        outputs["pointers_of_others"].write(json.dumps(others, sort_keys=True))


def _cache_key(digest: str, root: str) -> str:
    """Returns the data's digest, with the time of the root's last cleaning if there was one."""
    path = storage.join(root, job_folder.CLEANED)
    if not storage.exists(path):
        return digest
    with storage.open_file(path, "r") as file:
        return f"{digest} after {file.read().strip()}"


def _submitted(exec_properties: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the submission's settings by dotted name, checked."""
    return {
        name: checked(name, exec_properties[parameter_name(name)])
        for name in PER_RUN
        if exec_properties.get(parameter_name(name)) is not None
    }


def _check_settings(exec_properties: Mapping[str, Any]) -> None:
    settings = json.loads(exec_properties["settings"])
    gate = with_submitted(from_plain(GateConfig, settings["gate"], "gate"), "gate", exec_properties)
    slice_limits(gate)
    resolved = ResolvedFeatures.from_json(exec_properties["features"])
    check_slice_names(gate, [spec.name for spec in (*resolved.users, *resolved.items)])


def _check_root(root: str, output: str) -> None:
    """Raises UserError for a root that cannot be written, or under which the job does not write."""
    if not root:
        raise UserError("The job's parameter root is empty. Submit the job with a directory, as in gs://...")
    root = root.rstrip("/")
    if not output.startswith(f"{root}/"):
        raise UserError(
            f"The job's parameter root is {root}, and its pipeline root is another: this step writes to "
            f"{output}. Submit the job with one directory for both."
        )
    probe = storage.join(root, f".probe-{uuid.uuid4().hex}")
    try:
        storage.make_directories(root)
        with storage.open_file(probe, "w") as file:
            file.write("")
        storage.remove_file(probe)
    except OSError as error:
        raise UserError(
            f"{root}: the job's root cannot be written ({error.strerror or error}). Give the job's account "
            "the right to write there, or submit the job with another root."
        ) from error


def _verified(data: str) -> Manifest:
    try:
        return verify(data)
    except OSError as error:
        raise UserError(
            f"{data}: the data directory cannot be read ({error.strerror or error}). Give the job's account "
            "the right to read it, or submit the job with another parameter data."
        ) from error


def _check_features(data: str, manifest: Manifest, exec_properties: Mapping[str, Any]) -> None:
    """Raises UserError if the data has other columns than the compiled job expects."""
    compiled = ResolvedFeatures.from_json(exec_properties["features"])
    settings = json.loads(exec_properties["settings"])["features"]
    found = resolve(
        from_plain(FeaturesConfig, known_part(FeaturesConfig, settings), "features"),
        manifest,
        with_aggregates=bool(compiled.history),
    )
    if found == compiled:
        return
    if found.has_timestamps != compiled.has_timestamps:
        has = {True: "timestamps", False: "an order without timestamps"}
        raise UserError(
            f"{data}: the events have {has[found.has_timestamps]}, and the job was compiled for "
            f"{has[compiled.has_timestamps]}. Compile the job again with this --data."
        )
    before, now = ({spec.name: spec for spec in (*one.users, *one.items)} for one in (compiled, found))
    name = next(name for name in now if now[name] != before.get(name))
    raise UserError(
        f"{data}: the column {now[name].column} is {_described(now[name])}, and the job was compiled for "
        f"{_described(before[name])}. Compile the job again with this --data."
    )


def _described(spec: FeatureSpec) -> str:
    return f"{spec.kind} of width {spec.width}" if spec.width else spec.kind
