"""Readers of public data sets by format name; each is imported on its first call."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from two_tower.data_directory.manifest import Manifest


def _reader(module: str) -> Callable[..., Manifest]:
    def ingest(source: str, out: str, name: str | None = None, **options: Any) -> Manifest:
        reader = importlib.import_module(f"two_tower.ingestion.{module}")
        given = {option: value for option, value in options.items() if value is not None}
        return reader.ingest(source, out, name, **given)

    return ingest


# Format name → ingest(source, out, name=None, span=None). The function writes the data directory `out` and
# returns its manifest. It raises UserError for unreadable input. `name` overrides the data set's name; `span`
# is DataDirectoryWriter's. The format "table" also takes `columns`, the path of its column map.
FORMATS: Mapping[str, Callable[..., Manifest]] = {
    "movielens": _reader("movielens"),
    "movietweetings": _reader("movietweetings"),
    "sequences": _reader("sequences"),
    "spotify-mpd": _reader("spotify_mpd"),
    "table": _reader("tabular"),
    "yambda": _reader("yambda"),
}

# Format name → one line about its input.
FORMAT_HELP: Mapping[str, str] = {
    "yambda": "Yambda, any size, flat or sequential; `simulate` writes it",
    "movielens": "MovieLens 100K, 1M, 10M, 20M, 25M, 32M or latest",
    "movietweetings": "ratings.dat and movies.dat of MovieTweetings",
    "sequences": "lines `user item` or `user item item ...`, in order",
    "spotify-mpd": "the Spotify Million Playlist Dataset, mpd.slice.*.json",
    "table": "Parquet, CSV, JSON lines; a YAML column map explains them",
}
