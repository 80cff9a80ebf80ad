"""Oracle of simulated data, which ingest carries into the data directory."""

from __future__ import annotations

from two_tower.base import storage
from two_tower.data_directory.manifest import ORACLE
from two_tower.data_directory.writer import DataDirectoryWriter
from two_tower.ingestion import source_files

_SIMULATION = "simulation.json"


def copy_oracle(source: str, writer: DataDirectoryWriter) -> None:
    """Copies the folder oracle/ of a simulation to the data directory.

    A folder without `simulation.json` is no simulation, and its folder oracle/, if any, is not read.

    Args:
      source: folder of the source's files; a single file has no oracle.
      writer: writer of the data directory.
    """
    if not storage.is_directory(source) or not source_files.is_there(storage.join(source, _SIMULATION)):
        return
    oracle = storage.join(source, ORACLE)
    for file in storage.list_files(oracle) if storage.is_directory(oracle) else []:
        writer.copy(storage.join(oracle, file), f"{ORACLE}/{file}")
