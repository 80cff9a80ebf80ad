"""Import format of Vertex AI Vector Search: JSON lines in files *.json directly in one folder.

See https://cloud.google.com/vertex-ai/docs/vector-search/format-structure. The folder holds at most 5,000
files, no other files and no folders. Each id is a text and appears once.
"""

from __future__ import annotations

import json
import os

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.json as pajson

from two_tower.base.errors import UserError
from two_tower.serving.exports.vectors import Floats, Vectors

# The "batch root" of an import.
FOLDER = "embeddings"
MAX_FILES = 5_000
_BYTES_PER_FILE = 1 << 27
_BYTES_PER_NUMBER = 13


def rows_per_file(dim: int) -> int:
    """Returns the number of items in a file of some 128 MB."""
    return max(1, _BYTES_PER_FILE // (_BYTES_PER_NUMBER * dim + 40))


def write(vectors: Vectors, directory: str, rows: int = 0) -> dict[str, object]:
    """Writes the files.

    Args:
      vectors: the items.
      directory: parent of the new folder `embeddings/`.
      rows: items per file; 0: `rows_per_file`.

    Returns:
      Settings for an index over the items, and the number of files.

    Raises:
      UserError: an import does not take so many files.
    """
    rows = rows or rows_per_file(vectors.dim)
    files = -(-len(vectors) // rows)
    if files > MAX_FILES:
        raise UserError(
            f"{len(vectors):,} items of {vectors.dim} numbers need {files:,} files, and an import takes "
            f"{MAX_FILES:,}. Export to Parquet instead (--to parquet)."
        )
    folder = os.path.join(directory, FOLDER)
    os.makedirs(folder)
    for number in range(files):
        part = slice(number * rows, (number + 1) * rows)
        name = os.path.join(folder, f"part-{number:05d}-of-{files:05d}.json")
        with open(name, "wb") as file:
            for line in _lines(vectors.own_id[part], vectors.embedding[part]):
                file.write(line.as_buffer())
                file.write(b"\n")
    return {"dimensions": vectors.dim, "distanceMeasureType": "DOT_PRODUCT_DISTANCE", "files": files}


def _lines(own_id: pa.Array, embedding: Floats) -> pa.Array:
    """Formats lines as {"id": "17", "embedding": [0.25, ...]}, with digits that determine each float32."""
    numbers = pa.array(np.ascontiguousarray(embedding).reshape(-1)).cast(pa.string())
    offsets = pa.array(np.arange(0, embedding.size + 1, embedding.shape[1]), pa.int32())
    joined = pc.binary_join(pa.ListArray.from_arrays(offsets, numbers), ", ")
    ids = pa.array([json.dumps(str(one)) for one in own_id.to_pylist()], pa.string())
    return pc.binary_join_element_wise('{"id": ', ids, ', "embedding": [', joined, "]}", "")


def read(directory: str) -> tuple[pa.ChunkedArray, Floats]:
    """Reads ids as texts [items], and embeddings float32 [items, embedding_dim], in file order."""
    folder = os.path.join(directory, FOLDER)
    ids, embeddings = [], []
    # A text such as "2020-01-01" stays a text.
    parse = pajson.ParseOptions(explicit_schema=pa.schema([("id", pa.string())]))
    for name in sorted(os.listdir(folder)):
        options = pajson.ReadOptions(block_size=1 << 26)
        table = pajson.read_json(os.path.join(folder, name), options, parse)
        ids += table["id"].chunks
        for chunk in table["embedding"].chunks:
            embeddings.append(chunk.flatten().to_numpy(zero_copy_only=False).astype(np.float32))
    item_id = pa.chunked_array(ids)
    return item_id, np.concatenate(embeddings).reshape(len(item_id), -1)
