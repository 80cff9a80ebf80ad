"""Words and content vectors of a data directory's items, for baselines that need no plays."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from two_tower.base import storage
from two_tower.base.errors import UserError
from two_tower.data_directory.manifest import Manifest, item_files
from two_tower.evaluation.queries import Ints
from two_tower.schema import features

if TYPE_CHECKING:
    import pyarrow as pa

# Columns of words. `artist`, which a data set may have beside `artist_id`, holds names.
_TEXTS = ("title", "artist", "tags")
_EMBEDDING = "embedding"
_ROWS_PER_BATCH = 65_536
# Words end at all but letters, marks and digits.
_BETWEEN_WORDS = r"[^\pL\pM\pN]+"


@dataclasses.dataclass(frozen=True)
class Catalog:
    """The items that can be recommended, with their words and content vectors.

    Attributes:
        items: [I] ids, ascending.
        token_item: [n] the item of each token, as its place in `items`. An item's tokens are the words of its
            title, artists' names and tags in lower case, and one token for each of its artists' ids.
        token: [n] numbers of the tokens, from 0. Empty where the data has no such column.
        embeddings: [I, d] float32 content vectors of unit length, zeros where an item has none. None where
            the data has none, or they were not asked for.
    """

    items: Ints
    token_item: Ints
    token: Ints
    embeddings: npt.NDArray[np.float32] | None = None

    @classmethod
    def read(cls, data: str, data_digest: str, embeddings: bool = True) -> Catalog:
        """Reads a data directory's items, without those that are withdrawn.

        Args:
            data: the data directory.
            data_digest: digest of the manifest that the windows were cut from.
            embeddings: reads content vectors too: for a million items they take half a gigabyte.

        Raises:
            UserError: the directory cannot be read, or holds other data now.
        """
        manifest = Manifest.load(data)
        if manifest.digest != data_digest:
            raise UserError(
                f"{data} holds other data now than the windows were cut from "
                f"({manifest.digest[:19]} instead of {data_digest[:19]}): run the pipeline again."
            )
        parts = [part for path in item_files(data) for part in _parts_of(path, embeddings)]
        ids = np.concatenate([part.items for part in parts]) if parts else np.empty(0, np.int64)
        order = np.argsort(ids, kind="stable")
        place = np.empty_like(order)
        place[order] = np.arange(len(order))
        starts = np.cumsum([0, *(len(part.items) for part in parts)])
        rows = [part.token_item + start for part, start in zip(parts, starts, strict=False)]
        vectors = [part.embeddings for part in parts if part.embeddings is not None]
        return cls(
            items=ids[order],
            token_item=place[np.concatenate(rows)] if rows else np.empty(0, np.int64),
            token=_numbered([part.words for part in parts]),
            embeddings=_unit(np.concatenate(vectors)[order]) if len(vectors) == len(parts) > 0 else None,
        )


@dataclasses.dataclass(frozen=True)
class _Part:
    """Some rows of items/: as in `Catalog`, with words for numbers, and vectors of any length."""

    items: Ints
    token_item: Ints
    words: Any
    embeddings: npt.NDArray[np.float32] | None


def _parts_of(path: str, embeddings: bool) -> list[_Part]:
    import pyarrow as pa
    import pyarrow.compute as pc
    import pyarrow.parquet as pq

    parts = []
    with storage.open_file(path) as file:
        parquet = pq.ParquetFile(file)
        wanted = (features.ITEM_ID, features.ARTIST_ID, *_TEXTS, "available", *[_EMBEDDING] * embeddings)
        columns = [name for name in parquet.schema_arrow.names if name in wanted]
        for batch in parquet.iter_batches(_ROWS_PER_BATCH, columns=columns):
            table = pa.Table.from_batches([batch])
            if "available" in columns:
                table = table.filter(pc.fill_null(table["available"], True))
            tokens = [
                _words(table[name]) for name in _TEXTS if name in columns and _is_text(table[name].type)
            ]
            if features.ARTIST_ID in columns:
                tokens.append(_artist_ids(table[features.ARTIST_ID]))
            parts.append(
                _Part(
                    items=table[features.ITEM_ID].to_numpy().astype(np.int64),
                    token_item=np.concatenate([rows for rows, _ in tokens] or [np.empty(0, np.int64)]),
                    words=pa.concat_arrays([words for _, words in tokens] or [pa.array([], pa.string())]),
                    embeddings=_vectors(table[_EMBEDDING]) if _EMBEDDING in columns else None,
                )
            )
    return parts


def _is_text(kind: pa.DataType) -> bool:
    """Tells whether a column holds texts: a data set's own column may be called artist and hold no name."""
    import pyarrow.types as pt

    return bool(pt.is_string(kind.value_type if pt.is_list(kind) else kind))


def _words(column: pa.ChunkedArray) -> tuple[Ints, pa.Array]:
    """Splits texts, or lists of texts, into words: returns the row of each, and the words."""
    import pyarrow as pa
    import pyarrow.compute as pc
    import pyarrow.types as pt

    values = column.combine_chunks()
    if pt.is_list(values.type):
        row, values = _members(values)
    else:
        row = np.arange(len(values))
    plain = pc.replace_substring_regex(pc.utf8_lower(values), pattern=_BETWEEN_WORDS, replacement=" ")
    place, words = _members(pc.utf8_split_whitespace(pc.utf8_trim_whitespace(plain)))
    filled = pc.not_equal(words, "").to_numpy(zero_copy_only=False)
    return row[place[filled]], words.filter(pa.array(filled)).cast(pa.string())


def _artist_ids(column: pa.ChunkedArray) -> tuple[Ints, pa.Array]:
    """Returns the row of each artist, and a token that is no word: "artist 7"."""
    import pyarrow as pa
    import pyarrow.compute as pc

    row, ids = _members(column.combine_chunks())
    known = ids.is_valid().to_numpy(zero_copy_only=False)
    return row[known], pc.binary_join_element_wise("artist", ids.drop_null().cast(pa.string()), " ")


def _members(lists: pa.Array) -> tuple[Ints, pa.Array]:
    """Returns the row of each list's member, and the members."""
    import pyarrow.compute as pc

    lengths = pc.fill_null(pc.list_value_length(lists), 0).to_numpy(zero_copy_only=False)
    return np.repeat(np.arange(len(lists)), lengths), pc.list_flatten(lists)


def _numbered(words: list[Any]) -> Ints:
    import pyarrow as pa

    if not words:
        return np.empty(0, np.int64)
    indices = pa.concat_arrays(words).dictionary_encode().indices
    return np.asarray(indices.to_numpy(zero_copy_only=False), np.int64)


def _vectors(column: pa.ChunkedArray) -> npt.NDArray[np.float32]:
    """Converts a column of vectors to an array [rows, width], zeros where a row has none."""
    import pyarrow as pa

    values = column.combine_chunks()
    width = values.type.list_size
    known = values.is_valid().to_numpy(zero_copy_only=False)
    vectors = np.zeros([len(values), width], np.float32)
    flat = values.drop_null().flatten().cast(pa.float32()).to_numpy(zero_copy_only=False)
    vectors[known] = flat.reshape(-1, width)
    return np.nan_to_num(vectors, nan=0.0, posinf=0.0, neginf=0.0)


def _unit(vectors: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    norms = np.linalg.norm(vectors, axis=1, keepdims=True)
    vectors /= np.where(norms > 0, norms, 1)
    return vectors
