"""`two-tower clean`: removes artifacts and versions that no run, server or comparison needs.

Kept are the newest runs, the run of the model in service, and the runs of the latest blessed model and the
latest approved statistics. Evaluations, blessings and schemas of all runs stay: they are small, and they
answer why a model was not pushed.
"""

from __future__ import annotations

import dataclasses
import datetime
import os
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from two_tower.base import pointers, storage
from two_tower.base.errors import UserError
from two_tower.components import job_folder
from two_tower.pipeline.runs.job_runs import run_folders
from two_tower.pipeline.runs.stored_runs import (
    EVALUATOR,
    METADATA,
    PARTIAL_RUN,
    PUSHER,
    all_runs,
    mark_deleted,
    open_store,
)
from two_tower.serving.versions import PUSHED, remove_version, versions

_ALWAYS_KEPT = (EVALUATOR, "InteractionSchema", "CatalogSchema")


@dataclasses.dataclass(frozen=True)
class Cleaning:
    """List of what a cleaning removes.

    Attributes:
        output: the output directory, or the job's root.
        folders: artifacts' folders, and what killed steps left.
        versions: pushed versions.
        bytes: size of both.
        kept_runs: names of the runs whose artifacts stay, the newest first.
    """

    output: str
    folders: tuple[str, ...]
    versions: tuple[int, ...]
    bytes: int
    kept_runs: tuple[str, ...]


def plan(output: str, keep: int) -> Cleaning:
    """Finds what a cleaning would remove.

    Args:
      output: an output directory of runs, or a job's root; a path or URL.
      keep: number of newest runs whose artifacts stay, and of newest versions; at least 1.

    Raises:
      UserError: there is no run in `output`, or `keep` is below 1.
    """
    if keep < 1:
        raise UserError(f"--keep takes a number of runs from 1, and was given {keep}.")
    runs = all_runs(output)
    pushed = versions(storage.join(output, PUSHED))
    gone_versions = tuple(pushed[:-keep])
    kept = _kept_runs(output, runs, keep, pushed)
    needed = {
        uri for name, nodes in runs for node, uri in _uris(nodes) if name in kept or node in _ALWAYS_KEPT
    }
    folders = tuple(folder for folder in _folders(output, runs) if not _holds(folder, needed))
    removed = [*folders, *(storage.join(output, PUSHED, str(version)) for version in gone_versions)]
    size = sum(sum(storage.list_sizes(place).values()) for place in removed)
    return Cleaning(output, folders, gone_versions, size, tuple(name for name, _ in runs if name in kept))


def clean(cleaning: Cleaning) -> None:
    """Removes what `plan` found. A killed cleaning leaves nothing that a later run would take for whole."""
    local = storage.is_file(storage.join(cleaning.output, METADATA))
    if cleaning.folders:
        if local:
            mark_deleted(cleaning.output, cleaning.folders)
        else:
            now = datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds")
            storage.write_whole(storage.join(cleaning.output, job_folder.CLEANED), now + "\n")
    for folder in cleaning.folders:
        storage.remove_tree(folder)
    for version in cleaning.versions:
        remove_version(storage.join(cleaning.output, PUSHED), version)


def _kept_runs(
    output: str, runs: Sequence[tuple[str, Mapping[str, Any]]], keep: int, pushed: list[int]
) -> set[str]:
    whole = [name for name, _ in runs if not name.startswith(PARTIAL_RUN)]
    kept = {runs[0][0], *whole[:keep]}
    wanted = {
        pointer.uri
        for name in (pointers.BLESSED, pointers.APPROVED)
        if (pointer := pointers.from_text(pointers.latest(output, name)))
    }
    if pushed:
        wanted.add(storage.join(output, PUSHED, str(pushed[-1])))
    for uri in wanted:
        # The run that made it, which is the oldest with it: later ones were cached.
        made = [name for name, nodes in runs if uri in _all_uris(nodes)]
        kept |= set(made[-1:])
    return kept


def _uris(nodes: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    for node, one in nodes.items():
        for artifacts in one["outputs"].values():
            for artifact in artifacts:
                yield node, artifact["uri"]


def _all_uris(nodes: Mapping[str, Any]) -> set[str]:
    """Returns the URIs of a run's artifacts, and the place that it pushed to."""
    found = {uri for _, uri in _uris(nodes)}
    for artifact in nodes.get(PUSHER, {}).get("outputs", {}).get("pushed_model", []):
        if artifact["properties"].get("pushed") == 1:
            found.add(str(artifact["properties"]["pushed_destination"]))
    return found


def _holds(folder: str, uris: set[str]) -> bool:
    return any(uri == folder or uri.startswith(folder + "/") for uri in uris)


def _folders(output: str, runs: Sequence[tuple[str, Mapping[str, Any]]]) -> Iterator[str]:
    """Yields the folders that are kept or removed as a whole."""
    if not storage.is_file(storage.join(output, METADATA)):
        newest = runs[0][0]
        for folder in run_folders(output):
            # The newest run may still write.
            if folder.rpartition("/")[2] != newest:
                for name in storage.list_names(folder):
                    if name != job_folder.RECORDS and storage.is_directory(
                        place := storage.join(folder, name)
                    ):
                        yield place
        return
    root = os.path.join(output, "artifacts")
    newest_execution = _newest_execution(output)
    for component in storage.list_names(root):
        for key in storage.list_names(os.path.join(root, component)):
            for execution in storage.list_names(os.path.join(root, component, key)):
                # What a run in progress writes has a number that no finished execution has.
                if execution.isdecimal() and int(execution) <= newest_execution:
                    yield os.path.join(root, component, key, execution)


def _newest_execution(output: str) -> int:
    store, _ = open_store(output)
    from ml_metadata.proto import metadata_store_pb2 as pb

    finished = [one.id for one in store.get_executions() if one.last_known_state != pb.Execution.RUNNING]
    return max(finished, default=0)
