"""`two-tower clean`: removes artifacts and versions that no run, server or comparison needs.

Kept are the newest runs, the run of the model in service, the runs of the latest blessed model and the latest
approved statistics, and the best released model. Evaluations, blessings and schemas of all runs stay: they
are small, and they answer why a model was not pushed.
"""

from __future__ import annotations

import dataclasses
import datetime
import glob
import os
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from two_tower.base import pointers, storage
from two_tower.base.errors import UserError
from two_tower.components import job_folder
from two_tower.pipeline.runs.job_runs import run_folders
from two_tower.pipeline.runs.stored_runs import (
    ARTIFACTS,
    COMPLETE,
    EVALUATOR,
    INDEXER,
    METADATA,
    PARTIAL_RUN,
    all_runs,
    mark_deleted,
    open_store,
    status,
)
from two_tower.serving import push_record
from two_tower.serving.provenance import SERVED_FORM, TOWERS, identity_of
from two_tower.serving.versions import PUSHED, files_of, remove_version, versions

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
      UserError: there is no run in `output`, its runs wrote elsewhere, or `keep` is below 1.
    """
    if keep < 1:
        raise UserError(f"--keep takes a number of runs from 1, and was given {keep}.")
    output = _real(output)
    runs = all_runs(output)
    every = {_real(uri) for _, nodes in runs for _, uri in _uris(nodes)}
    if every and not any(uri.startswith(f"{output}/") for uri in every):
        raise UserError(
            f"{output}: its runs wrote to other places, such as {min(every)}. The directory was moved or "
            "copied, and nothing in it can be told to be needed. Clean the original."
        )
    pushed = versions(storage.join(output, PUSHED))
    compared = {
        uri
        for pointer in _pointers(output)
        for uri in (pointer.uri, pointer.properties.get(pointers.ANCHOR))
        if uri
    }
    # A version stands in for a model whose artifact is gone.
    needed_versions = {files_of(uri, output) for uri in compared}
    gone_versions = tuple(
        version
        for version in pushed[:-keep]
        if storage.join(output, PUSHED, str(version)) not in needed_versions
    )
    kept = _kept_runs(output, runs, keep, pushed)
    needed = {
        _real(uri)
        for name, nodes in runs
        for node, uri in _uris(nodes)
        if name in kept or node in _ALWAYS_KEPT
    }
    towers = {pointer.properties.get(TOWERS) for pointer in _pointers(output)}
    needed |= {_real(uri) for uri in {*compared, *towers} if uri}
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
    wanted = {_real(pointer.uri) for pointer in _pointers(output)}
    if pushed:
        wanted |= _models_in_service(storage.join(output, PUSHED, str(pushed[-1])), runs)
    for uri in wanted:
        # The run that made it, which is the oldest with it: later ones were cached.
        made = [name for name, nodes in runs if uri in {_real(one) for _, one in _uris(nodes)}]
        kept |= set(made[-1:])
    return kept


def _pointers(output: str) -> list[pointers.Pointer]:
    found = (
        pointers.from_text(pointers.latest(output, one)) for one in (pointers.BLESSED, pointers.APPROVED)
    )
    return [pointer for pointer in found if pointer is not None]


def _models_in_service(version: str, runs: Sequence[tuple[str, Mapping[str, Any]]]) -> set[str]:
    """Returns the URIs of the models that are the version in service: by its record, or else by content."""
    push_directory, _, number = version.rpartition("/")
    if recorded := push_record.read(push_directory, int(number)).model:
        return {_real(recorded)}
    identity = identity_of(version)
    models = {uri for _, nodes in runs for node, uri in _uris(nodes) if node == INDEXER}
    return {
        _real(uri)
        for uri in models
        if storage.is_directory(served := storage.join(uri, SERVED_FORM)) and identity_of(served) == identity
    }


def _real(place: str) -> str:
    """Returns the one name of a place: without links, relative parts and a final slash."""
    return os.path.realpath(storage.absolute(place)) if storage.is_local(place) else place.rstrip("/")


def _uris(nodes: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    for node, one in nodes.items():
        for artifacts in one["outputs"].values():
            for artifact in artifacts:
                yield node, artifact["uri"]


def _holds(folder: str, uris: set[str]) -> bool:
    return any(uri == folder or uri.startswith(folder + "/") for uri in uris)


def _folders(output: str, runs: Sequence[tuple[str, Mapping[str, Any]]]) -> Iterator[str]:
    """Yields the folders that are kept or removed as a whole."""
    if not storage.is_file(storage.join(output, METADATA)):
        # The newest run may still write.
        older = {name for name, _ in runs[1:]}
        steps = {step for _, nodes in runs for step in nodes}
        for folder in run_folders(output):
            if folder.rpartition("/")[2] in older:
                for name in storage.list_names(folder):
                    # Vertex appends a number. Checkpoints of trainings lie beside the steps.
                    if name.rpartition("_")[0] in steps or name in steps or name == ".checkpoints":
                        yield storage.join(folder, name)
        return
    root = os.path.join(output, ARTIFACTS)
    newest_execution = _newest_execution(output)
    # Checkpoints of a killed training serve its repetition, until a later run is complete.
    whole = [nodes for name, nodes in runs if not name.startswith(PARTIAL_RUN)]
    if whole and status(whole[0]) == COMPLETE:
        yield from glob.glob(os.path.join(glob.escape(root), "*", ".checkpoints", "*"))
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
