"""Metadata stores of runs that never took place, for tests of what reads them."""

from __future__ import annotations

import time
from pathlib import Path

from ml_metadata.metadata_store import MetadataStore
from ml_metadata.proto import metadata_store_pb2 as pb


class Store:
    """Metadata store as TFX's local runner writes it: contexts, executions and output artifacts."""

    def __init__(self, output: Path) -> None:
        connection = pb.ConnectionConfig()
        connection.sqlite.filename_uri = str(output / "metadata.sqlite")
        connection.sqlite.connection_mode = pb.SqliteMetadataSourceConfig.READWRITE_OPENCREATE
        self._store = MetadataStore(connection)
        self._pipeline = self._context("pipeline", "two-tower")
        self._run = 0
        self._nodes: dict[str, int] = {}

    def begin(self, name: str) -> None:
        self._run = self._context("pipeline_run", name)

    def execution(
        self,
        node: str,
        state: str,
        artifacts: dict[str, int] | None = None,
        seconds: float = 0,
        parameters: dict[str, str] | None = None,
    ) -> None:
        if node not in self._nodes:
            self._nodes[node] = self._context("node", f"two-tower.{node}")
        execution = pb.Execution(
            type_id=self._store.put_execution_type(pb.ExecutionType(name=node)),
            last_known_state=pb.Execution.State.Value(state),
        )
        for name, value in (parameters or {}).items():
            execution.custom_properties[name].string_value = value
        (execution_id,) = self._store.put_executions([execution])
        if seconds:  # The store records the times of the first and the last write.
            time.sleep(seconds)
            (written,) = self._store.get_executions_by_id([execution_id])
            written.custom_properties["done"].int_value = 1
            self._store.put_executions([written])
        contexts = (self._pipeline, self._run, self._nodes[node])
        self._store.put_attributions_and_associations(
            [], [pb.Association(execution_id=execution_id, context_id=context) for context in contexts]
        )
        for key, artifact_id in (artifacts or {}).items():
            event = pb.Event(artifact_id=artifact_id, execution_id=execution_id, type=pb.Event.OUTPUT)
            event.path.steps.add().key = key
            event.path.steps.add().index = 0
            self._store.put_events([event])

    def artifact(self, kind: str, uri: Path, **properties: int | float | str) -> int:
        type_id = self._store.put_artifact_type(pb.ArtifactType(name=kind))
        artifact = pb.Artifact(type_id=type_id, uri=str(uri))
        for name, value in properties.items():
            if isinstance(value, int):
                artifact.custom_properties[name].int_value = value
            elif isinstance(value, float):
                artifact.custom_properties[name].double_value = value
            else:
                artifact.custom_properties[name].string_value = value
        (artifact_id,) = self._store.put_artifacts([artifact])
        return int(artifact_id)

    def _context(self, kind: str, name: str) -> int:
        type_id = self._store.put_context_type(pb.ContextType(name=kind))
        (context_id,) = self._store.put_contexts([pb.Context(type_id=type_id, name=name)])
        return int(context_id)
