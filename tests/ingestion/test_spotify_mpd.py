from __future__ import annotations

import json
import pathlib
from collections.abc import Callable
from typing import Any

import pyarrow.parquet as pq
import pytest

from two_tower.base.errors import UserError
from two_tower.data_directory import writer
from two_tower.data_directory.manifest import Manifest, event_files, item_files, user_files
from two_tower.data_directory.verification import verify
from two_tower.ingestion import FORMATS
from two_tower.schema.text_ids import number_of


def track(pos: int, name: str, **changes: Any) -> dict[str, Any]:
    """Returns a track in the form of the slices; equal names are one track, and the first letter names the
    artist.
    """
    return {
        "pos": pos,
        "artist_name": f"Artist {name[0]}",
        "track_uri": f"spotify:track:{name}",
        "artist_uri": f"spotify:artist:{name[0]}",
        "track_name": name,
        "album_uri": f"spotify:album:{name[0]}1",
        "duration_ms": 200_500,
        "album_name": "First",
        **changes,
    }


def playlist(pid: int, *tracks: dict[str, Any], **changes: Any) -> dict[str, Any]:
    return {
        "name": f"list {pid}",
        "collaborative": "false",
        "pid": pid,
        "modified_at": 1_493_424_000,
        "num_tracks": len(tracks),
        "num_albums": len(tracks),
        "num_followers": 2,
        "tracks": list(tracks),
        "num_edits": 3,
        "duration_ms": 200_500 * len(tracks),
        "num_artists": len(tracks),
        **changes,
    }


def write_slice(folder: pathlib.Path, first: int, last: int, *playlists: dict[str, Any]) -> pathlib.Path:
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"mpd.slice.{first}-{last}.json"
    info = {"generated_on": "2017-12-03 08:41:42.057563", "slice": f"{first}-{last}", "version": "v1"}
    path.write_text(json.dumps({"info": info, "playlists": list(playlists)}, indent=4))
    return path


def ingest(source: pathlib.Path, out: pathlib.Path) -> Manifest:
    return FORMATS["spotify-mpd"](str(source), str(out))


def rows_of(files: list[str]) -> list[dict[str, Any]]:
    return [row for file in files for row in pq.read_table(file).to_pylist()]


def lists_of(out: pathlib.Path) -> dict[int, list[str]]:
    """Returns playlist → the names of its tracks in their order."""
    uris = {row["item_id"]: row["original_id"] for row in rows_of(item_files(str(out)))}
    found: dict[int, list[tuple[int, str]]] = {}
    for row in rows_of(event_files(str(out))):
        found.setdefault(row["user_id"], []).append((row["order"], uris[row["item_id"]].split(":")[2]))
    for places in found.values():
        assert sorted(place for place, _ in places) == list(range(len(places)))
    return {pid: [name for _, name in sorted(places)] for pid, places in found.items()}


@pytest.fixture
def source(tmp_path: pathlib.Path) -> pathlib.Path:
    folder = tmp_path / "mpd"
    write_slice(folder / "data", 1000, 1999, playlist(1000, track(0, "ba"), track(1, "xa"), track(2, "xb")))
    write_slice(
        folder / "data",
        0,
        999,
        playlist(0, track(0, "xa"), track(1, "xb"), track(2, "ya", duration_ms=0)),
        playlist(7, track(0, "ya"), collaborative="true", name="é \ud83d"),
    )
    return folder


def test_playlists_become_users_and_positions_the_order(source: pathlib.Path, tmp_path: pathlib.Path) -> None:
    out = tmp_path / "data"
    manifest = ingest(source, out)
    assert verify(str(out)) == manifest
    assert not manifest.has_timestamps and not manifest.repeats_recommendable
    assert manifest.label_event == "added"
    assert manifest.counts == {"events": 7, "label_events": 7, "users": 3, "items": 4, "user_rows": 3}
    assert lists_of(out) == {0: ["xa", "xb", "ya"], 7: ["ya"], 1000: ["ba", "xa", "xb"]}
    items = {row["original_id"]: row for row in rows_of(item_files(str(out)))}
    # Slices are read in numerical order, 0-999 before 1000-1999.
    assert list(items) == [f"spotify:track:{name}" for name in ("xa", "xb", "ya", "ba")]
    assert all(row["item_id"] == number_of(uri) for uri, row in items.items())
    of_x = [number_of("spotify:artist:x")]
    assert items["spotify:track:xa"]["artist_id"] == items["spotify:track:xb"]["artist_id"] == of_x
    assert items["spotify:track:ba"]["album_id"] == [number_of("spotify:album:b1")]
    assert items["spotify:track:xa"]["title"] == "xa — Artist x"
    assert [items[f"spotify:track:{name}"]["item_length"] for name in ("xa", "ya")] == [200.5, None]
    assert manifest.repaired == {"item_length_zero_to_unknown": 1}
    users = {row["user_id"]: row for row in rows_of(user_files(str(out)))}
    assert users[7] == {
        "user_id": 7,
        "name": "é ?",
        "collaborative": True,
        "modified_at": 1_493_424_000,
        "num_followers": 2,
        "num_edits": 3,
    }
    assert not users[0]["collaborative"]


def test_a_playlist_holds_a_track_once_in_the_order_of_positions(tmp_path: pathlib.Path) -> None:
    write_slice(
        tmp_path / "mpd",
        0,
        999,
        playlist(1, track(2, "c"), track(0, "a"), track(1, "b"), track(5, "a"), track(0, "a")),
        playlist(2, track(0, "a"), track(0, "b"), track(1, "c")),
        playlist(3),
    )
    manifest = ingest(tmp_path / "mpd", tmp_path / "data")
    assert lists_of(tmp_path / "data") == {1: ["a", "b", "c"], 2: ["a", "b", "c"]}
    assert manifest.dropped == {"duplicate_events": 1, "repeated_tracks": 1}
    assert manifest.repaired == {"playlists_not_sorted_by_position": 1, "tracks_at_a_taken_position": 1}
    assert manifest.noted == {"playlists_without_tracks": 1}
    assert manifest.counts["users"] == 2 and manifest.counts["user_rows"] == 3


def test_slices_make_no_difference(tmp_path: pathlib.Path) -> None:
    lists = [playlist(pid, *(track(at, f"t{pid * 3 + at}") for at in range(5))) for pid in range(12)]
    write_slice(tmp_path / "one", 0, 11, *lists)
    for first in range(0, 12, 3):
        write_slice(tmp_path / "four", first, first + 2, *lists[first : first + 3])
    assert ingest(tmp_path / "one", tmp_path / "a").digest == ingest(tmp_path / "four", tmp_path / "b").digest


def test_no_more_than_a_slice_is_written_at_a_time(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for first in range(0, 40, 2):
        lists = (playlist(pid, *(track(at, f"t{at}") for at in range(50))) for pid in (first, first + 1))
        write_slice(tmp_path / "mpd", first, first + 1, *lists)
    tables: list[int] = []
    write = writer.DataDirectoryWriter.write

    def counted(self: Any, table: str, rows: Any) -> None:
        tables.append(rows.num_rows)
        write(self, table, rows)

    monkeypatch.setattr(writer.DataDirectoryWriter, "write", counted)
    assert ingest(tmp_path / "mpd", tmp_path / "data").counts["events"] == 2_000
    assert max(tables) == 100


def cut_off(path: pathlib.Path) -> None:
    path.write_text(path.read_text()[:-300])


def latin_1(path: pathlib.Path) -> None:
    path.write_bytes(path.read_bytes().replace(b"list 5", b"list \xe9"))


def no_tracks(path: pathlib.Path) -> None:
    path.write_text(json.dumps({"info": {}}))


def changed(place: str, key: str, *value: Any) -> Callable[[pathlib.Path], None]:
    """Removes a key of a playlist or of its second track, or replaces its value."""

    def change(path: pathlib.Path) -> None:
        content = json.loads(path.read_text())
        found = content["playlists"][0]
        found = found if place == "playlist" else found["tracks"][1]
        found.pop(key)
        found |= {key: value[0]} if value else {}
        path.write_text(json.dumps(content))

    return change


@pytest.mark.parametrize(
    ("damage", "told"),
    [
        (cut_off, "no complete JSON"),
        (latin_1, "byte .* \\(0xe9\\) is not UTF-8"),
        (no_tracks, "key 'playlists' is missing"),
        (changed("playlist", "pid"), "playlist number 0 of the file .*: key 'pid' is missing"),
        (changed("playlist", "pid", -5), "key 'pid' is -5, but must be a whole number of 0 or more"),
        (changed("playlist", "tracks"), "playlist 5: key 'tracks' is missing"),
        (changed("playlist", "tracks", {}), "playlist 5: key 'tracks' is {}, but must be a list"),
        (changed("playlist", "num_followers", "many"), "playlist 5: key 'num_followers' is 'many'"),
        (changed("playlist", "collaborative", "no"), "playlist 5: key 'collaborative' is 'no'"),
        (changed("track", "track_uri"), "playlist 5, track 1: key 'track_uri' is missing"),
        (changed("track", "artist_uri", None), "playlist 5, track 1: key 'artist_uri' is None"),
        (changed("track", "track_uri", ""), "playlist 5, track 1: key 'track_uri' is ''"),
        (changed("track", "pos", -1), "playlist 5, track 1: key 'pos' is -1"),
        (changed("track", "pos", 1.5), "playlist 5, track 1: key 'pos' is 1.5"),
        (
            changed("track", "duration_ms", 2**63),
            "playlist 5, track 1: key 'duration_ms' is 9223372036854775808",
        ),
    ],
)
def test_bad_slices_are_named(
    damage: Callable[[pathlib.Path], None], told: str, tmp_path: pathlib.Path
) -> None:
    path = write_slice(tmp_path / "mpd", 5, 6, playlist(5, track(0, "a"), track(1, "b")))
    damage(path)
    with pytest.raises(UserError, match=told) as found:
        ingest(tmp_path / "mpd", tmp_path / "data")
    assert str(path) in str(found.value)
    assert not (tmp_path / "data").exists()


def test_a_playlist_in_two_slices_is_refused(tmp_path: pathlib.Path) -> None:
    first = write_slice(tmp_path / "mpd", 0, 1, playlist(1, track(0, "a")))
    second = write_slice(tmp_path / "mpd", 1, 2, playlist(1, track(0, "b")))
    with pytest.raises(UserError, match="playlist 1: key 'pid': the playlist is also in") as found:
        ingest(tmp_path / "mpd", tmp_path / "data")
    assert str(first) in str(found.value) and str(second) in str(found.value)


def test_a_folder_without_slices_is_refused(tmp_path: pathlib.Path) -> None:
    with pytest.raises(UserError, match="neither the folder nor its folder data holds mpd"):
        ingest(tmp_path, tmp_path / "data")


def test_there_are_no_spans_without_times(source: pathlib.Path, tmp_path: pathlib.Path) -> None:
    with pytest.raises(UserError, match="no dated span"):
        FORMATS["spotify-mpd"](str(source), str(tmp_path / "data"), span=3)
