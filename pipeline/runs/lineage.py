"""What a served model was made of, as the metadata store of its run has it.

It reads ML Metadata alone, without TFX, whose import takes half a minute. A model is known by its content, so
that a version that was pushed, or published again, leads to its run as the run's own artifact does.
"""

from __future__ import annotations

import dataclasses
import filecmp
import json
import os
from collections.abc import Iterator
from typing import Any

from two_tower.base.errors import UserError
from two_tower.base.settings import DEFAULT_SEED
from two_tower.pipeline.runs.stored_runs import METADATA, open_store

# Where a served model says what it was made of, see serving/provenance.py, which needs TFX.
_PROVENANCE = os.path.join("assets.extra", "provenance.json")
_TOWERS = "towers_uri"
_SERVED = "Format-Serving"
# A model is served with an index, or in a form that any server loads.
_FORMS = ("model", "exact_model")
_INDEXER, _EVALUATOR, _TRAINER = "ScannIndexer", "RetrievalEvaluator", "Trainer"


@dataclasses.dataclass(frozen=True)
class StoredArtifact:
    """An artifact of a metadata store, with those of its properties that are texts or whole numbers."""

    uri: str
    properties: dict[str, str | int]
    custom_properties: dict[str, str | int]


@dataclasses.dataclass(frozen=True)
class Lineage:
    """How a served model came to be.

    Attributes:
        output: the output directory of the run that served it.
        towers: the Trainer's model; where it was re-indexed since, that of the training nevertheless.
        interactions: the windows of the training's run, all splits.
        transform_graph: Transform's, of the windows.
        catalog_graph: CatalogTransform's.
        trainer: TrainerConfig as JSON.
        features: ResolvedFeatures as JSON.
        history_length: events that a query sees.
        settings: of the index, the evaluation and the gate that the model went through, by section; those of
            a run that did not get as far are missing.
        seed: of the index and the evaluation.
    """

    output: str
    towers: StoredArtifact
    interactions: StoredArtifact
    transform_graph: StoredArtifact
    catalog_graph: StoredArtifact
    trainer: str
    features: str
    history_length: int
    settings: dict[str, dict[str, Any]]
    seed: int


def lineage_of(model_path: str) -> Lineage:
    """How the served model at `model_path` (see `query.find_model`) came to be.

    Raises:
      UserError: no run is found that made it, or what its training left is gone.
    """
    output = _output_above(model_path)
    if output is None:
        raise UserError(
            f"{model_path} lies in no output directory of `two-tower run`: no {METADATA} is in a directory "
            "above it. Pass the run's output directory, or a version in its pushed/."
        )
    store = _Store(output)
    made = [pair for key in _FORMS for pair in store.outputs_of(_INDEXER, key)]
    found = next(
        (pair for pair in made if _is_same_model(os.path.join(pair[1].uri, _SERVED), model_path)), None
    )
    if found is None:
        raise UserError(
            f"{model_path}: {output} has no run whose files are there and that made this model: its "
            f"artifacts/{_INDEXER} was removed, or the model comes from elsewhere."
        )
    execution, model = found
    settings = {"index": json.loads(execution.custom_properties["index"].string_value)}
    judged = store.newest_user_of(model.uri, _EVALUATOR)
    if judged is not None:
        for section in ("evaluation", "gate"):
            settings[section] = json.loads(judged.custom_properties[f"{section}_config"].string_value)
    towers = model.custom_properties.get(_TOWERS)
    if not towers:
        raise UserError(
            f"{model_path}: it does not say what training it came of: it is from before that was kept."
        )
    properties = execution.custom_properties
    seed = properties["seed"].int_value if "seed" in properties else DEFAULT_SEED
    return _of_training(output, str(towers), settings, seed)


def _of_training(output: str, towers: str, settings: dict[str, dict[str, Any]], seed: int) -> Lineage:
    """Follows towers that were given another catalog to those that were trained."""
    gone = f"What the model was trained to is gone: {towers}."
    home = _output_above(towers)
    if home is None or not os.path.isdir(towers):
        raise UserError(f"{gone} It takes the artifacts of its run, which were removed or moved.")
    store = _Store(home)
    made = store.artifact(towers)
    earlier = made.custom_properties.get(_TOWERS) if made else None
    if earlier:
        return _of_training(output, str(earlier), settings, seed)
    execution = store.maker_of(towers, _TRAINER)
    if made is None or execution is None:
        raise UserError(f"{gone} {home} knows no training that made it.")
    inputs = store.inputs_of(execution)
    for name in ("interactions", "transform_graph", "catalog_graph"):
        if name not in inputs or not os.path.isdir(inputs[name].uri):
            where = inputs[name].uri if name in inputs else home
            raise UserError(f"What the model was trained with is gone: {where} ({name}).")
    properties = execution.custom_properties
    return Lineage(
        output,
        made,
        inputs["interactions"],
        inputs["transform_graph"],
        inputs["catalog_graph"],
        properties["trainer"].string_value,
        properties["features"].string_value,
        properties["history_length"].int_value,
        settings,
        seed,
    )


def _output_above(path: str) -> str | None:
    """The nearest directory at or above `path` that holds a metadata store."""
    directory = os.path.abspath(path)
    while not os.path.isfile(os.path.join(directory, METADATA)):
        directory, below = os.path.dirname(directory), directory
        if directory == below:
            return None
    return directory


def _is_same_model(one: str, other: str) -> bool:
    """Whether two SavedModels are the same, file by file; the small ones are looked at first."""
    if os.path.realpath(one) == os.path.realpath(other):
        return True
    files = _files(one)
    if not files or files != _files(other):
        return False
    names = sorted(files, key=lambda name: (name != _PROVENANCE, files[name]))
    return all(
        filecmp.cmp(os.path.join(one, name), os.path.join(other, name), shallow=False) for name in names
    )


def _files(directory: str) -> dict[str, int]:
    """Sizes of all files below a directory, by their relative paths."""
    paths = [os.path.join(parent, name) for parent, _, names in os.walk(directory) for name in names]
    return {os.path.relpath(path, directory): os.path.getsize(path) for path in paths}


class _Store:
    """A run's metadata store, read only."""

    def __init__(self, output: str) -> None:
        from ml_metadata.proto import metadata_store_pb2 as pb

        self._store, _ = open_store(output)
        self._inputs, self._outputs = pb.Event.INPUT, pb.Event.OUTPUT
        self._complete = pb.Execution.COMPLETE

    def outputs_of(self, component: str, key: str) -> Iterator[tuple[Any, StoredArtifact]]:
        """Executions of a component that gave an output of that name, and the output, newest first."""
        for execution in self._executions(component):
            if (found := self._artifacts(execution, self._outputs)) and key in found:
                yield execution, found[key]

    def inputs_of(self, execution: Any) -> dict[str, StoredArtifact]:
        """What an execution took, by name."""
        return self._artifacts(execution, self._inputs)

    def maker_of(self, uri: str, component: str) -> Any | None:
        """The execution of a component that made what lies at a URI."""
        return self._newest_with(uri, component, self._outputs)

    def newest_user_of(self, uri: str, component: str) -> Any | None:
        """The newest execution of a component that took what lies at a URI."""
        return self._newest_with(uri, component, self._inputs)

    def artifact(self, uri: str) -> StoredArtifact | None:
        """The artifact at a URI."""
        found = self._store.get_artifacts_by_uri(uri)
        return _stored(max(found, key=lambda one: one.id)) if found else None

    def _newest_with(self, uri: str, component: str, kind: int) -> Any | None:
        ids = [artifact.id for artifact in self._store.get_artifacts_by_uri(uri)]
        events = self._store.get_events_by_artifact_ids(ids) if ids else []
        wanted = {event.execution_id for event in events if event.type == kind}
        return next((one for one in self._executions(component) if one.id in wanted), None)

    def _executions(self, component: str) -> list[Any]:
        """Those of a component that ended well, by itself and not from a cache, newest first."""
        contexts = [
            context
            for context in self._store.get_contexts_by_type("node")
            if context.name.endswith(f".{component}")
        ]
        found = [one for context in contexts for one in self._store.get_executions_by_context(context.id)]
        found = [one for one in found if one.last_known_state == self._complete]
        return sorted(found, key=lambda one: -one.id)

    def _artifacts(self, execution: Any, kind: int) -> dict[str, StoredArtifact]:
        """What an execution took or gave, by name: the first of each."""
        events = [
            event for event in self._store.get_events_by_execution_ids([execution.id]) if event.type == kind
        ]
        by_id = {
            one.id: one for one in self._store.get_artifacts_by_id([event.artifact_id for event in events])
        }
        found: dict[str, StoredArtifact] = {}
        for event in events:
            found.setdefault(event.path.steps[0].key, _stored(by_id[event.artifact_id]))
        return found


def _stored(artifact: Any) -> StoredArtifact:
    return StoredArtifact(artifact.uri, _plain(artifact.properties), _plain(artifact.custom_properties))


def _plain(properties: Any) -> dict[str, str | int]:
    """Texts and whole numbers of a map of ML Metadata's values."""
    return {
        name: getattr(value, kind)
        for name, value in properties.items()
        if (kind := value.WhichOneof("value")) in ("string_value", "int_value")
    }
