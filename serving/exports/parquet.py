"""Parquet export: `item_id` and `embedding`, a fixed-size list of float32, in files of some 128 MB.

`item_id` is int64, or string where the data has text ids.
"""

from __future__ import annotations

import os

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from two_tower.serving.exports.vectors import Floats, Vectors

FOLDER = "embeddings"
_BYTES_PER_FILE = 1 << 27


def write(vectors: Vectors, directory: str, rows: int = 0) -> dict[str, object]:
    """Writes the files into the folder `embeddings/`; `rows` is the items per file, and 0 gives 128 MB."""
    rows = rows or max(1, _BYTES_PER_FILE // (4 * vectors.dim + 8))
    files = -(-len(vectors) // rows)
    os.makedirs(os.path.join(directory, FOLDER))
    for number in range(files):
        part = slice(number * rows, (number + 1) * rows)
        numbers = pa.array(np.ascontiguousarray(vectors.embedding[part]).reshape(-1))
        table = pa.table(
            {
                "item_id": vectors.own_id[part],
                "embedding": pa.FixedSizeListArray.from_arrays(numbers, vectors.dim),
            }
        )
        pq.write_table(table, os.path.join(directory, FOLDER, f"part-{number:05d}-of-{files:05d}.parquet"))
    return {"dimensions": vectors.dim, "files": files}


def read(directory: str) -> tuple[pa.ChunkedArray, Floats]:
    """Reads the data's own ids [items], and embeddings float32 [items, embedding_dim], in file order."""
    folder = os.path.join(directory, FOLDER)
    ids, embeddings = [], []
    for name in sorted(os.listdir(folder)):
        table = pq.read_table(os.path.join(folder, name))
        ids += table["item_id"].chunks
        embeddings += [chunk.flatten().to_numpy(zero_copy_only=False) for chunk in table["embedding"].chunks]
    item_id = pa.chunked_array(ids)
    return item_id, np.concatenate(embeddings).reshape(len(item_id), -1)
