"""Faiss: an index file, with the ids in it, tuned until it finds what exact search finds.

`flat` is exact. `hnsw` walks a graph of near neighbours (Malkov and Yashunin, 2016). `ivfpq` looks into the
nearest of many lists, whose items are kept as product quantisation codes (Jégou et al., 2011); where codes
alone are too coarse for the target, what they find is ranked again by the vectors themselves
(IndexRefineFlat). All score by inner product.
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
# Neighbours of an item in the graph, and how many are looked at to find them, as the paper has it.
_NEIGHBOURS, _EF_CONSTRUCTION = 32, 200
_BITS = 8
# Fewer could not train the centroids of a code: Faiss wants as many items as there are, and says so below 39.
_MIN_TO_TRAIN = 1 << _BITS
_ITEMS_A_CENTROID = 39
_K_FACTORS = (2, 4, 8, 16)
# A recall that is measured on a sample counts as met where its lower bound at 95 % confidence is.
_ONE_SIDED_95 = 1.645


@dataclasses.dataclass(frozen=True)
class Built:
    """An index that meets the target.

    Attributes:
        index: which returns item ids.
        settings: its kind and parameters.
        points: all that was tried, in order: parameters, recall, milliseconds a query (in one batch).
    """

    index: Any
    settings: dict[str, Any]
    points: list[dict[str, Any]]


def build(kind: str, vectors: Vectors, queries: Queries, exact: Exact, target: float) -> Built:
    """The cheapest index of a kind that finds `target` of exact search's answers.

    Args:
      kind: one of KINDS.
      vectors: the items.
      queries: to tune with.
      exact: their answers.
      target: the recall to reach, 0 to 1.

    Raises:
      UserError: the kind is none for so few items, or cannot reach the target.
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
            f"--index {kind}: of the first {exact.k} items it finds {best['recall']:.4f} at most, where "
            f"{target:g} is asked for. Ask for less (--recall), or for exact search (--index {FLAT})."
        )
    index, settings = made
    return Built(index, {"kind": kind, **settings}, points)


def search(index: Any, queries: Floats, k: int) -> Ints:
    """Item ids int64 [queries, k], best first, -1 where there are fewer."""
    found: Ints = index.search(np.ascontiguousarray(queries), k)[1]
    return found


def write(built: Built, vectors: Vectors, directory: str) -> None:
    """Writes the index, and the ids in the order of its rows as Parquet, for other readers."""
    faiss.write_index(built.index, os.path.join(directory, INDEX_FILE))
    pq.write_table(
        pa.table({"row": np.arange(len(vectors)), "item_id": vectors.item_id}),
        os.path.join(directory, IDS_FILE),
    )


def check(directory: str, vectors: Vectors, queries: Queries, exact: Exact, target: float) -> float:
    """The recall of the index that lies in a directory, with the parameters that lie in it.

    Raises:
      ValueError: it finds less than `target`, or its ids are not the items'.
    """
    index = faiss.read_index(os.path.join(directory, INDEX_FILE))
    ids = pq.read_table(os.path.join(directory, IDS_FILE))["item_id"].to_numpy()
    in_index = faiss.vector_to_array(index.id_map)
    if not (np.array_equal(ids, vectors.item_id) and np.array_equal(in_index, vectors.item_id)):
        raise ValueError(f"{INDEX_FILE} and {IDS_FILE} do not hold the items that were written")
    found = search(index, queries.embedding, exact.k)
    recall = float(recall_of(found, vectors, queries.embedding, exact).mean())
    if recall < target:
        raise ValueError(f"{INDEX_FILE} finds {recall:.4f} of the first {exact.k}, and should {target:g}")
    return recall


# Whether an index with its parameters meets the target.
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
    """Codes alone, the shortest first; else short codes ranked again, at the least work."""
    items = len(vectors)
    if items < _MIN_TO_TRAIN:
        raise UserError(
            f"--index {IVFPQ} takes {_MIN_TO_TRAIN} items at least, to learn its codes from, and the catalog "
            f"has {items}. Use --index {FLAT} or {HNSW}."
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
            # Bytes that a query reads: codes of the lists, and vectors to rank again.
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
    # Few items are what they are: said once by us, not once a centroid by Faiss.
    codes.cp.min_points_per_centroid = codes.pq.cp.min_points_per_centroid = 1
    codes.train(np.ascontiguousarray(vectors.embedding))
    return codes


def _fewest_lists(codes: Any, index: Any, settings: dict[str, Any], meets: _Meets) -> bool:
    """Sets the fewest lists to look into that meet the target; False if not even all do."""
    codes.nprobe = codes.nlist
    if not meets(index, {**settings, "nprobe": codes.nlist}):
        return False
    for nprobe in _ladder(1, codes.nlist):
        codes.nprobe = nprobe
        if nprobe == codes.nlist or meets(index, {**settings, "nprobe": nprobe}):
            break
    return True


def _code_sizes(dim: int) -> list[int]:
    """Bytes of a code, ascending: they cut the embedding into parts of about four and of two numbers."""
    divisors = [size for size in range(1, dim + 1) if dim % size == 0]
    return sorted({max(size for size in divisors if size <= max(1, dim // part)) for part in (4, 2)})


def _ladder(first: int, last: int) -> Iterator[int]:
    """Whole numbers from first to last, each about half as much again as the one before."""
    step = first
    while step < last:
        yield step
        step = max(step + 1, round(step * 1.5))
    yield last


def _with_ids(index: Any, vectors: Vectors) -> Any:
    """The index with all items in it, which returns their ids."""
    with_ids = faiss.IndexIDMap2(index)
    with_ids.add_with_ids(np.ascontiguousarray(vectors.embedding), np.ascontiguousarray(vectors.item_id))
    return with_ids
