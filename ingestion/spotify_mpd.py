"""Reader of the Spotify Million Playlist Dataset: `mpd.slice.<first>-<last>.json`, a thousand playlists each.

A playlist is a user, and the label is the next track that someone adds. There are no times, so all time
features are off; the track positions give the `order`. A playlist holds a track once: the first position is
kept. No track of a playlist is recommended to it.

Memory holds one slice and the identifiers of all tracks, artists and albums so far.

Source: Chen et al., "RecSys Challenge 2018: Automatic Music Playlist Continuation", 2018.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from two_tower.base import storage
from two_tower.base.errors import UserError
from two_tower.data_directory.manifest import DatasetProperties, Manifest
from two_tower.data_directory.writer import DataDirectoryWriter, Span
from two_tower.ingestion import source_files
from two_tower.ingestion.source_ids import IdEncoder
from two_tower.ingestion.source_values import Place
from two_tower.ingestion.table_rows import SeenIds

_SLICE = re.compile(r"mpd\.slice\.(\d+)-(\d+)\.json")
_EVENT_TYPE = "added"
_INT64_MAX = 2**63 - 1


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= _INT64_MAX


def _is_text(value: Any) -> bool:
    return isinstance(value, str)


def _is_name(value: Any) -> bool:
    return isinstance(value, str) and value != ""


_Checks = Mapping[str, tuple[Callable[[Any], bool], str]]
_COUNT = (_is_count, "a whole number of 0 or more")
_TEXT = (_is_text, "a text")
_URI = (_is_name, "a text that is not empty")

_PLAYLIST_KEYS: _Checks = {
    "pid": _COUNT,
    "name": _TEXT,
    "collaborative": (lambda value: value in ("true", "false", True, False), '"true" or "false"'),
    "modified_at": _COUNT,
    "num_followers": _COUNT,
    "num_edits": _COUNT,
    "tracks": (lambda value: isinstance(value, list), "a list"),
}
_TRACK_KEYS: _Checks = {
    "pos": _COUNT,
    "track_uri": _URI,
    "track_name": _TEXT,
    "artist_uri": _URI,
    "artist_name": _TEXT,
    "album_uri": _URI,
    "duration_ms": _COUNT,
}


def ingest(source: str, out: str, name: str | None = None, span: Span = None) -> Manifest:
    """Writes the data directory `out` from the folder `source` or its folder `data`.

    Raises:
      UserError: there are no slices; a slice is not JSON or cut off; a key is missing or has the wrong type;
        a playlist occurs twice; `span` is given. Events without times belong to no dated span.
    """
    if span is not None:
        raise UserError(
            f"{source}: the events of spotify-mpd have no times, so no dated span: ingest it without --span."
        )
    paths = _slices(source)
    with DataDirectoryWriter(out, DatasetProperties(name or "spotify-mpd", _EVENT_TYPE, False)) as writer:
        slice_of: dict[int, str] = {}
        catalog = _Catalog()
        for path in paths:
            playlists = _read_slice(path)
            for playlist in playlists:
                pid = playlist["pid"]
                if pid in slice_of:
                    raise UserError(
                        f"{path}: playlist {pid}: key 'pid': the playlist is also in {slice_of[pid]}. "
                        "Remove one of the two."
                    )
                slice_of[pid] = path
            writer.write("users", _users(playlists))
            tracks = [track for playlist in playlists for track in playlist["tracks"]]
            item = catalog.ids(tracks, path)
            writer.write("events", _events(playlists, item, writer))
            writer.write("items", catalog.new_items(tracks, item, path, writer))
    return writer.manifest


def _slices(source: str) -> list[str]:
    """Returns the paths of the slices in numerical order."""
    for folder in (source, storage.join(source, "data")):
        found = {
            file: tuple(map(int, match.groups()))
            for file in (
                source_files.matching(folder, _SLICE.fullmatch) if storage.is_directory(folder) else []
            )
            if (match := _SLICE.fullmatch(file))
        }
        if found:
            return [storage.join(folder, file) for file in sorted(found, key=lambda file: found[file])]
    raise UserError(
        f"{source}: neither the folder nor its folder data holds mpd.slice.<first>-<last>.json. Name the "
        "folder of the Million Playlist Dataset."
    )


def _read_slice(path: str) -> list[dict[str, Any]]:
    """Reads the playlists of a slice and checks their keys and types.

    Raises:
      UserError: the file is not complete JSON, or its content is not playlists.
    """
    try:
        with storage.open_file(path) as file:
            content = json.loads(file.read().decode("utf-8"))
    except UnicodeDecodeError as error:
        raise UserError(
            f"{path}: byte {error.start} (0x{error.object[error.start]:02x}) is not UTF-8, so the file is "
            "not JSON. Fetch it again."
        ) from error
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path}: the file is no complete JSON ({error}). Fetch it again.") from error
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error}).") from error
    playlists = content.get("playlists") if isinstance(content, dict) else None
    if not isinstance(playlists, list):
        raise UserError(
            f"{path}: key 'playlists' is missing or no list: a slice has the form "
            '{"info": {...}, "playlists": [...]}. Fetch it again.'
        )
    for number, playlist in enumerate(playlists):
        place = _playlist_label(playlist, number)
        _check(playlist, _PLAYLIST_KEYS, path, place)
        for row, track in enumerate(playlist["tracks"]):
            # The fast check comes first, since there are 66 million tracks.
            if not (isinstance(track, dict) and _TRACK_KEYS.keys() <= track.keys() and _is_plain(track)):
                _check(track, _TRACK_KEYS, path, f"{place}, track {row}")
    return playlists


def _is_plain(track: Mapping[str, Any]) -> bool:
    """Runs a fast check of a track's values; on failure `_check` inspects them and names the fault."""
    return (
        type(track["pos"]) is int
        and type(track["duration_ms"]) is int
        and 0 <= track["pos"] <= _INT64_MAX
        and 0 <= track["duration_ms"] <= _INT64_MAX
        and type(track["track_name"]) is str
        and type(track["artist_name"]) is str
        and bool(track["track_uri"] and track["artist_uri"] and track["album_uri"])
        and type(track["track_uri"]) is type(track["artist_uri"]) is type(track["album_uri"]) is str
    )


def _without_surrogates(text: str) -> str:
    """Replaces lone surrogates, which JSON can hold and UTF-8 cannot."""
    return text if text.isascii() else text.encode("utf-8", "replace").decode("utf-8")


def _playlist_label(playlist: Any, number: int) -> str:
    pid = playlist.get("pid") if isinstance(playlist, dict) else None
    return f"playlist {pid}" if _is_count(pid) else f"playlist number {number} of the file (from 0)"


def _check(found: Any, keys: _Checks, path: str, place: str) -> None:
    if not isinstance(found, dict):
        raise UserError(f"{path}: {place}: {found!r:.60} is no JSON object. Fetch the file again.")
    for key, (is_right, kind) in keys.items():
        if key not in found:
            raise UserError(f"{path}: {place}: key '{key}' is missing. Fetch the file again.")
        if not is_right(found[key]):
            raise UserError(f"{path}: {place}: key '{key}' is {found[key]!r:.60}, but must be {kind}.")


def _users(playlists: Sequence[Mapping[str, Any]]) -> pa.Table:
    """Builds the table of playlists.

    It omits the source's counts and durations of tracks: they describe the tracks that are to be predicted.
    """

    def counts(key: str) -> pa.Array:
        return pa.array([playlist[key] for playlist in playlists], pa.int64())

    return pa.table(
        {
            "user_id": counts("pid"),
            "name": pa.array([_without_surrogates(playlist["name"]) for playlist in playlists], pa.string()),
            "collaborative": pa.array([p["collaborative"] in ("true", True) for p in playlists], pa.bool_()),
            "modified_at": counts("modified_at"),
            "num_followers": counts("num_followers"),
            "num_edits": counts("num_edits"),
        }
    )


def _events(
    playlists: Sequence[Mapping[str, Any]], item: np.ndarray, writer: DataDirectoryWriter
) -> pa.Table:
    """Builds the events of a slice, sorted by playlist and position, with each track of a playlist once.

    Args:
      item: int64[n], the ids of all tracks of all playlists, in their order.
    """
    sizes = [len(playlist["tracks"]) for playlist in playlists]
    writer.noted["playlists_without_tracks"] += sizes.count(0)
    place = np.repeat(np.arange(len(playlists)), sizes)
    position = np.array([t["pos"] for playlist in playlists for t in playlist["tracks"]], np.int64)
    same_playlist = np.diff(place) == 0
    turned = np.unique(place[1:][same_playlist & (np.diff(position) < 0)])
    writer.repaired["playlists_not_sorted_by_position"] += len(turned)
    order = np.lexsort((position, place))
    place, position, item = place[order], position[order], item[order]
    same_place = (np.diff(place) == 0) & (np.diff(position) == 0)
    writer.repaired["tracks_at_a_taken_position"] += int((same_place & (np.diff(item) != 0)).sum())
    # Deduplication: the first of a playlist's rows of a track stays.
    again = np.zeros(len(item), bool)
    by_item = np.lexsort((np.arange(len(item)), item, place))
    same = (np.diff(place[by_item]) == 0) & (np.diff(item[by_item]) == 0)
    again[by_item[1:][same]] = True
    at_one_position = int((same & (np.diff(position[by_item]) == 0)).sum())
    writer.dropped["duplicate_events"] += at_one_position
    writer.dropped["repeated_tracks"] += int(same.sum()) - at_one_position
    place, item = place[~again], item[~again]
    # Positions may have gaps or duplicates; the ranks of the remaining tracks have neither.
    start = np.searchsorted(place, np.arange(len(playlists)))
    pid = np.array([playlist["pid"] for playlist in playlists], np.int64)
    return pa.table(
        {
            "user_id": pid[place],
            "item_id": item,
            "order": np.arange(len(place)) - start[place],
            "event_type": pa.array([_EVENT_TYPE]).take(pa.array(np.zeros(len(place), np.int64))),
        }
    )


class _Catalog:
    """Catalog of tracks, which numbers of their URIs identify, as artists and albums (`schema.text_ids`).

    The first appearance of a track also provides its description.
    """

    def __init__(self) -> None:
        self._encoders = {key: IdEncoder(is_text=True) for key in ("track_uri", "artist_uri", "album_uri")}
        self._written = SeenIds()

    def ids(self, tracks: Sequence[Mapping[str, Any]], path: str) -> np.ndarray:
        """Returns the tracks' ids, int64[n]; `path` is the slice, for messages."""
        return self._numbers(tracks, "track_uri", path)

    def new_items(
        self, tracks: Sequence[Mapping[str, Any]], item: np.ndarray, path: str, writer: DataDirectoryWriter
    ) -> pa.Table:
        """Returns rows of the tracks that have not been written yet; `item` holds the tracks' ids."""
        new = np.flatnonzero(self._written.add(item))
        rows = [tracks[at] for at in new]
        length = np.array([row["duration_ms"] for row in rows], np.float64) / 1000
        titles = [_without_surrogates(f"{row['track_name']} — {row['artist_name']}") for row in rows]
        writer.repaired["item_length_zero_to_unknown"] += int((length == 0).sum())

        def owners(key: str) -> pa.Array:
            numbers = pa.array(self._numbers(rows, key, path), pa.int64())
            return pa.ListArray.from_arrays(pa.array(np.arange(len(rows) + 1), pa.int32()), numbers)

        return pa.table(
            {
                "item_id": item[new],
                "original_id": self._encoders["track_uri"].decode(item[new]),
                "artist_id": owners("artist_uri"),
                "album_id": owners("album_uri"),
                "item_length": pa.array(length.astype(np.float32), mask=length == 0),
                "title": pa.array(titles, pa.string()),
            }
        )

    def _numbers(self, tracks: Sequence[Mapping[str, Any]], key: str, path: str) -> np.ndarray:
        texts = pa.array([_without_surrogates(track[key]) for track in tracks], pa.string())
        return self._encoders[key].encode(texts, Place(path, key, 0))
