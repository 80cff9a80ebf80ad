"""Faiss export: an index file with item ids, tuned to a target recall against exact search.

`flat` is exact. `hnsw` walks a graph of near neighbours (Malkov and Yashunin, 2016). `ivfpq` searches the
nearest of many lists, whose items are product quantisation codes (Jégou et al., 2011). If codes alone are too
coarse for the target, the vectors rank the candidates again (IndexRefineFlat). All score by inner product.
"""

from __future__ import annotations

import dataclasses
import math
import os
import time
from collections.abc import Callable, Iterator
from typing import Any

import faiss
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from two_tower.base.errors import UserError
from two_tower.serving.exports.vectors import Exact, Floats, Ints, Queries, Vectors, recall_of

INDEX_FILE, IDS_FILE = "index.faiss", "item_ids.parquet"
FLAT, IVFPQ, HNSW = KINDS = ("flat", "ivfpq", "hnsw")
# Neighbours per item in the graph, and candidates per insertion, as in the paper.
_NEIGHBOURS, _EF_CONSTRUCTION = 32, 200
_BITS = 8
# Training needs at least one item per centroid of a code. Faiss warns below 39 items per centroid.
_MIN_TO_TRAIN = 1 << _BITS
_ITEMS_A_CENTROID = 39
_K_FACTORS = (2, 4, 8, 16)
# The lower bound of a recall at 95 % confidence must reach the target.
_ONE_SIDED_95 = 1.645


@dataclasses.dataclass(frozen=True)
class Built:
    """Index that meets the target.

    Attributes:
        index: the Faiss index, which returns item ids.
        settings: kind and parameters of the index.
        points: all trials in order: parameters, recall, milliseconds per query (in one batch).
    """

    index: Any
    settings: dict[str, Any]
    points: list[dict[str, Any]]


def build(kind: str, vectors: Vectors, queries: Queries, exact: Exact, target: float) -> Built:
    """Builds the cheapest index of a kind whose recall against exact search reaches `target`.

    Args:
      kind: one of KINDS.
      vectors: the items.
      queries: queries for the tuning.
      exact: exact search's answers to the queries.
      target: required recall, from 0 to 1.

    Raises:
      UserError: the catalog is too small for the kind, or the kind cannot reach the target.
    """
    if kind == FLAT:
        index = _with_ids(faiss.IndexFlatIP(vectors.dim), vectors)
        return Built(index, {"kind": FLAT}, [])
    points: list[dict[str, Any]] = []

    def meets(index: Any, parameters: dict[str, Any]) -> bool:
        began = time.perf_counter()
        found = search(index, queries.embedding, exact.k)
        seconds = time.perf_counter() - began
        recalls = recall_of(found, vectors, queries.embedding, exact)
        bound = float(recalls.mean() - _ONE_SIDED_95 * recalls.std() / math.sqrt(len(recalls)))
        points.append(
            {
                **parameters,
                "recall": round(float(recalls.mean()), 5),
                "recall_low": round(bound, 5),
                "ms_per_query": round(1_000 * seconds / len(queries), 4),
            }
        )
        return bound >= target

    made = _hnsw(vectors, exact.k, meets) if kind == HNSW else _ivfpq(vectors, exact.k, meets)
    if made is None:
        best = max(points, key=lambda point: float(point["recall"]))
        raise UserError(
            f"--index {kind} finds {best['recall']:.4f} of the first {exact.k} items at most; the target is "
            f"{target:g}. Lower --recall, or take exact search (--index {FLAT})."
        )
    index, settings = made
    return Built(index, {"kind": kind, **settings}, points)


def search(index: Any, queries: Floats, k: int) -> Ints:
    """Finds item ids int64 [queries, k], best first, padded with -1."""
    found: Ints = index.search(np.ascontiguousarray(queries), k)[1]
    return found


def write(built: Built, vectors: Vectors, directory: str) -> None:
    """Writes the index, and the ids in row order as Parquet for other readers.

    The index knows text ids by `number`.
    """
    faiss.write_index(built.index, os.path.join(directory, INDEX_FILE))
    pq.write_table(
        pa.table(
            {
                "row": np.arange(len(vectors)),
                "item_id": vectors.own_id,
                **({} if vectors.text is None else {"number": vectors.item_id}),
            }
        ),
        os.path.join(directory, IDS_FILE),
    )


def check(directory: str, vectors: Vectors, queries: Queries, exact: Exact, target: float) -> float:
    """Measures the recall of a written index with its written parameters.

    Raises:
      ValueError: the recall is below `target`, or the ids are not the items' ids.
    """
    index = faiss.read_index(os.path.join(directory, INDEX_FILE))
    ids = vectors.by_number(pq.read_table(os.path.join(directory, IDS_FILE))["item_id"])
    in_index = faiss.vector_to_array(index.id_map)
    if not (np.array_equal(ids, vectors.item_id) and np.array_equal(in_index, vectors.item_id)):
        raise ValueError(f"{INDEX_FILE} and {IDS_FILE} do not hold the written items")
    found = search(index, queries.embedding, exact.k)
    recall = float(recall_of(found, vectors, queries.embedding, exact).mean())
    if recall < target:
        raise ValueError(f"{INDEX_FILE} finds {recall:.4f} of the first {exact.k}; the target is {target:g}")
    return recall


# Tells if an index with its parameters meets the target.
_Meets = Callable[[Any, dict[str, Any]], bool]


def _hnsw(vectors: Vectors, k: int, meets: _Meets) -> tuple[Any, dict[str, Any]] | None:
    graph = faiss.IndexHNSWFlat(vectors.dim, _NEIGHBOURS, faiss.METRIC_INNER_PRODUCT)
    graph.hnsw.efConstruction = _EF_CONSTRUCTION
    index = _with_ids(graph, vectors)
    for ef in _ladder(min(k, len(vectors)), len(vectors)):
        graph.hnsw.efSearch = ef
        settings = {"neighbours": _NEIGHBOURS, "ef_construction": _EF_CONSTRUCTION, "ef_search": ef}
        if meets(index, settings):
            return index, settings
    return None


def _ivfpq(vectors: Vectors, k: int, meets: _Meets) -> tuple[Any, dict[str, Any]] | None:
    """Measures codes alone, the shortest first; then short codes with reordering, at the least work."""
    items = len(vectors)
    if items < _MIN_TO_TRAIN:
        raise UserError(
            f"--index {IVFPQ} learns its codes from at least {_MIN_TO_TRAIN} items, and the catalog has "
            f"{items}. Use --index {FLAT} or {HNSW}."
        )
    lists = max(1, min(round(4 * math.sqrt(items)), items // _ITEMS_A_CENTROID))
    for code_bytes in _code_sizes(vectors.dim):
        codes = _codes(vectors, lists, code_bytes)
        index = _with_ids(codes, vectors)
        settings = {"lists": lists, "code_bytes": code_bytes, "reordering_factor": 0}
        if _fewest_lists(codes, index, settings, meets):
            return index, {**settings, "nprobe": codes.nprobe}
    short = _code_sizes(vectors.dim)[0]
    codes = _codes(vectors, lists, short)
    refined = faiss.IndexRefineFlat(codes)
    index = _with_ids(refined, vectors)
    best: tuple[float, int, int] | None = None
    for factor in _K_FACTORS:
        if k * factor > items and factor > _K_FACTORS[0]:
            break
        refined.k_factor = factor
        settings = {"lists": lists, "code_bytes": short, "reordering_factor": factor}
        if _fewest_lists(codes, index, settings, meets):
            # Bytes that a query reads: codes of the searched lists, and reordered vectors.
            work = items * short * codes.nprobe / lists + 4.0 * vectors.dim * k * factor
            best = min(best or (math.inf, 0, 0), (work, factor, codes.nprobe))
    if best is None:
        return None
    _, refined.k_factor, codes.nprobe = best
    return index, {
        "lists": lists, "code_bytes": short, "reordering_factor": best[1], "nprobe": best[2]
    }  # fmt: skip


def _codes(vectors: Vectors, lists: int, code_bytes: int) -> Any:
    codes = faiss.IndexIVFPQ(
        faiss.IndexFlatIP(vectors.dim), vectors.dim, lists, code_bytes, _BITS, faiss.METRIC_INNER_PRODUCT
    )
    # Faiss would warn of few items once per centroid; `_ivfpq` checks their number.
    codes.cp.min_points_per_centroid = codes.pq.cp.min_points_per_centroid = 1
    codes.train(np.ascontiguousarray(vectors.embedding))
    return codes


def _fewest_lists(codes: Any, index: Any, settings: dict[str, Any], meets: _Meets) -> bool:
    """Sets the fewest searched lists that meet the target; returns False if not even all lists do."""
    codes.nprobe = codes.nlist
    if not meets(index, {**settings, "nprobe": codes.nlist}):
        return False
    for nprobe in _ladder(1, codes.nlist):
        codes.nprobe = nprobe
        if nprobe == codes.nlist or meets(index, {**settings, "nprobe": nprobe}):
            break
    return True


def _code_sizes(dim: int) -> list[int]:
    """Lists code sizes in bytes, ascending, for embedding parts of about four and of two numbers."""
    divisors = [size for size in range(1, dim + 1) if dim % size == 0]
    return sorted({max(size for size in divisors if size <= max(1, dim // part)) for part in (4, 2)})


def _ladder(first: int, last: int) -> Iterator[int]:
    """Yields whole numbers from first to last, each about 1.5 times the one before."""
    step = first
    while step < last:
        yield step
        step = max(step + 1, round(step * 1.5))
    yield last


def _with_ids(index: Any, vectors: Vectors) -> Any:
    """Adds all items to an index and wraps it, so that it returns their ids."""
    with_ids = faiss.IndexIDMap2(index)
    with_ids.add_with_ids(np.ascontiguousarray(vectors.embedding), np.ascontiguousarray(vectors.item_id))
    return with_ids
