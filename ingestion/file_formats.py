"""Formats of files by their first bytes: those that no text reader takes are named, with what to do."""

from __future__ import annotations

import re
from collections.abc import Mapping

from two_tower.base.errors import UserError

# Number of first bytes that suffice to tell a format.
FIRST_BYTES = 4096
BYTE_ORDER_MARK = b"\xef\xbb\xbf"
GZIP = b"\x1f\x8b"

_UNPACK = "unpack it first, for example with `{}`"
_PANDAS = "write it as Parquet first, for example with `pandas.{}(...).to_parquet(...)`"
# First bytes → format and remedy.
_MAGIC: Mapping[bytes, tuple[str, str]] = {
    b"PK\x03\x04": ("a zip archive", _UNPACK.format("unzip")),
    b"PK\x05\x06": ("a zip archive without files", "fetch it again"),
    b"\xfd7zXZ\x00": ("compressed with xz", _UNPACK.format("unxz")),
    b"BZh": ("compressed with bzip2", _UNPACK.format("bunzip2")),
    b"\x28\xb5\x2f\xfd": ("compressed with Zstandard", _UNPACK.format("unzstd")),
    b"\x04\x22\x4d\x18": ("compressed with LZ4", _UNPACK.format("unlz4")),
    b"\xff\x06\x00\x00sNaPpY": ("compressed with Snappy", "unpack it first"),
    b"7z\xbc\xaf\x27\x1c": ("a 7-Zip archive", _UNPACK.format("7z x")),
    b"Rar!": ("a RAR archive", _UNPACK.format("unrar x")),
    b"ARROW1": ("an Arrow file (Feather)", _PANDAS.format("read_feather")),
    b"FEA1": ("a Feather file", _PANDAS.format("read_feather")),
    b"\xff\xff\xff\xff": ("an Arrow stream", "write it as Parquet first"),
    b"ORC": ("an ORC file", _PANDAS.format("read_orc")),
    b"Obj\x01": ("an Avro file", "write it as Parquet first"),
    b"\x89HDF\r\n\x1a\n": ("an HDF5 file", _PANDAS.format("read_hdf")),
    b"SQLite format 3\x00": ("an SQLite database", _PANDAS.format("read_sql")),
    b"\xd0\xcf\x11\xe0": ("an Excel workbook", _PANDAS.format("read_excel")),
    b"\x93NUMPY": ("a NumPy array", "write it as Parquet or CSV first"),
    b"RDX": ("an R workspace", "write it as Parquet or CSV first"),
    b"\x80\x02": ("a Python pickle", _PANDAS.format("read_pickle")),
    b"\x80\x03": ("a Python pickle", _PANDAS.format("read_pickle")),
    b"\x80\x04": ("a Python pickle", _PANDAS.format("read_pickle")),
    b"\x80\x05": ("a Python pickle", _PANDAS.format("read_pickle")),
}
# A first name within a zip archive → the format that the archive is.
_IN_ZIP: Mapping[bytes, tuple[str, str]] = {
    b"[Content_Types].xml": ("an Excel workbook", _PANDAS.format("read_excel")),
    **{
        name: ("an Excel workbook", _PANDAS.format("read_excel"))
        for name in (b"_rels/", b"docProps/", b"xl/")
    },
    b"mimetypeapplication/vnd.oasis": ("an OpenDocument file", _PANDAS.format("read_excel")),
}
_PYTHON = (
    "Python dictionaries, which are not JSON",
    "write them as JSON lines first, for example with "
    '`python3 -c "import ast, json, sys; [print(json.dumps(ast.literal_eval(line))) for line in sys.stdin]"`',
)
_HTML = re.compile(rb"<(!doctype html|html)\b", re.IGNORECASE)


def refuse_others(path: str, start: bytes) -> None:
    """Raises UserError for a format that is neither text nor read otherwise.

    Args:
      path: the file, for the message.
      start: its first FIRST_BYTES bytes.
    """
    if found := _format_of(start):
        name, remedy = found
        raise UserError(f"{path}: the file is {name}: {remedy}.")


def refuse_others_within_gzip(path: str, start: bytes) -> None:
    """Raises UserError for a format that gzip packed and that is no text; `start` is unpacked."""
    for magic, what in ((b"PAR1", "a Parquet file"), (GZIP, "a file compressed with gzip")):
        if start.startswith(magic):
            raise UserError(f"{path}: gzip packs {what}: {_UNPACK.format('gunzip')}.")
    refuse_others(path, start)


def _format_of(start: bytes) -> tuple[str, str] | None:
    """Returns the name of a format and its remedy; None for text, gzip and Parquet."""
    if start.startswith(b"PK\x03\x04"):
        # A zip archive's first local header: 30 bytes, then the file's name.
        inner = next((what for name, what in _IN_ZIP.items() if start[30:].startswith(name)), None)
        if inner is not None:
            return inner
    for magic, what in _MAGIC.items():
        if start.startswith(magic):
            # A column's name may begin so: binary files have zeros or other control characters soon after.
            if magic.isalnum() and not re.search(rb"[\x00-\x08\x0e-\x1f]", start[:512]):
                continue
            return what
    if start[257:262] == b"ustar":
        return "a tar archive", _UNPACK.format("tar -xf")
    text = start.removeprefix(BYTE_ORDER_MARK).lstrip()
    if _HTML.match(text):
        return "a web page", "its address asks for a login or is wrong: fetch the data itself"
    if re.match(rb"\{\s*u?'", text):
        return _PYTHON
    return None


def is_json(start: bytes, path: str = "") -> bool:
    """Returns whether a text is JSON: by its name, or by an object or an array of them at its beginning."""
    if re.search(r"\.(jsonl|ndjson|json)(\.gz)?$", path, re.IGNORECASE) and start.strip():
        return True
    text = start.removeprefix(BYTE_ORDER_MARK).lstrip()
    return re.match(rb'\{\s*("|\}|$)|\[\s*(\{|\[|$)', text) is not None
