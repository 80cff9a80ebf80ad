"""Tuning of the index: the cheapest settings whose ANN recall reaches the target.

Recall is measured on real queries. The cost of a setting is the number of bytes that a query reads. Bytes
give the same index for the same catalog; a machine's times change from minute to minute. Milliseconds are
measured too, for the report and for the latency budget.

Few trees are built. Trees over a sample of the catalog choose the number of leaves. Their k-means sees as
many vectors as that of the whole catalog. Bisection on the served index itself chooses leaves to search and
reordering, because ScaNN's k-means has no seed and another tree would differ.
"""

from __future__ import annotations

import dataclasses
import math
import time
from typing import Any

import numpy as np
import numpy.typing as npt
import tensorflow as tf

from two_tower.base.settings import DEFAULT_SEED
from two_tower.serving.index import AH, NO_QUANTIZATION, ExactIndex, ScannIndex, ScannSettings
from two_tower.serving.settings import IndexConfig

Floats = npt.NDArray[np.float32]
Rows = npt.NDArray[np.int32]

# Catalogs with fewer items get exact search, which is as fast there.
EXACT_BELOW = 20_000
# Least k of the Recall@k that the index is tuned to: more where the gate judges more.
TARGET_K = 100
# Numbers of leaves to try, as multiples of the square root of the number of items.
_LEAVES = (1, 2, 4)
# Numbers of reordering candidates to try, as multiples of k.
_REORDERING = (16, 8, 4, 2, 1)
_CATALOG_SAMPLE = 100_000
# The lower end of a one-sided 99% interval over the queries must reach the target. The chosen setting is the
# cheapest of many; by its mean alone, half of them would fail the gate by chance.
_NORMAL_QUANTILE = 2.33
# Fewest queries of a group whose mean must reach the target.
_LEAST_OF_GROUP = 30
# Smallest catalog for ScaNN.
_FEWEST_ITEMS = 32
_TIMED_QUERIES = 40
_QUERIES_AT_ONCE = 64


@dataclasses.dataclass(frozen=True)
class Point:
    """Measured settings of a ScaNN index.

    Attributes:
        settings: the settings.
        recall: mean share of exact search's k items that the index finds.
        recall_low: lower end of the one-sided 99% interval of `recall` over the queries.
        worst_recall: mean of the group of queries with the least, of those large enough.
        bytes_per_query: bytes that a query reads. The choice minimises them.
        ms_per_query: median time of a single query on the machine that built the index, milliseconds.
    """

    settings: ScannSettings
    recall: float
    recall_low: float
    worst_recall: float
    bytes_per_query: int
    ms_per_query: float

    def to_dict(self) -> dict[str, Any]:
        """Returns the entry in provenance.json."""
        described = dataclasses.asdict(self.settings) | {
            name: getattr(self, name)
            for name in ("recall", "recall_low", "worst_recall", "bytes_per_query", "ms_per_query")
        }
        del described["k"]
        return described


@dataclasses.dataclass(frozen=True)
class Tuning:
    """Search for settings: all measured points and the reason of the choice.

    Attributes:
        target: required recall.
        k: the k of Recall@k.
        queries: number of queries.
        latency_budget_ms: longest time of a single query, milliseconds; 0 is none.
        met: True if the built index meets target and budget.
        reason: reason of the choice, in words.
        chosen: position in `points`; None for exact search.
        points: all points, by `bytes_per_query`.
        exact_ms_per_query: median time of exact search over the same vectors, milliseconds.
    """

    target: float
    k: int
    queries: int
    latency_budget_ms: float
    met: bool
    reason: str
    chosen: int | None
    points: tuple[Point, ...]
    exact_ms_per_query: float

    def to_dict(self) -> dict[str, Any]:
        """Returns the entry in provenance.json."""
        named = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        return {**named, "points": [point.to_dict() for point in self.points]}


@dataclasses.dataclass(frozen=True)
class Built:
    """Built index with the reason of its choice and, if it was tuned, its tuning."""

    index: ExactIndex | ScannIndex
    reason: str
    tuning: Tuning | None

    def described(self) -> dict[str, Any]:
        """Returns the entry in provenance.json."""
        settings = {} if isinstance(self.index, ExactIndex) else dataclasses.asdict(self.index.settings)
        return {
            "kind": self.index.kind,
            "reason": self.reason,
            **settings,
            "tuning": self.tuning.to_dict() if self.tuning else None,
        }


def needs_queries(items: int) -> bool:
    """Returns whether an index over this number of items is tuned."""
    return items >= max(EXACT_BELOW, _FEWEST_ITEMS)


def build_index(
    embeddings: npt.ArrayLike,
    queries: npt.ArrayLike,
    config: IndexConfig,
    target_recall: float,
    seed: int = DEFAULT_SEED,
    groups: npt.NDArray[np.int64] | None = None,
    cutoff: int = 1,
) -> Built:
    """Builds the cheapest index over the catalog that meets the target.

    Args:
        embeddings: float32 [items, embedding_dim].
        queries: float32 [queries, embedding_dim], embeddings of real queries. Exact search ignores them
            (see `needs_queries`).
        config: the latency budget and the largest k of a request.
        target_recall: share of exact search's best items that the index must find, at 99% confidence over
            the queries. The number of items is TARGET_K or `cutoff`, whichever is more, and at most
            `config.max_k`.
        seed: seed of the catalog's sample that chooses the number of leaves.
        groups: int64 [queries], each query's group, such as its length of history; None: one group. The mean
            of each large group must reach the target too.
        cutoff: the k at which the gate judges the index, so that tuning and gate agree.
    """
    vectors = np.ascontiguousarray(embeddings, np.float32)
    if not needs_queries(len(vectors)):
        least = max(EXACT_BELOW, _FEWEST_ITEMS)
        reason = f"Exact search: {len(vectors):,} items are fewer than {least:,}."
        return Built(ExactIndex(tf.constant(vectors)), reason, None)
    asked = np.ascontiguousarray(queries, np.float32)
    groups = np.zeros(len(asked), np.int64) if groups is None else groups
    k = min(max(TARGET_K, cutoff), config.max_k, len(vectors))
    return _Search(vectors, asked, groups, config, target_recall, seed, k).run()


class _Search:
    """Search over settings; `_points` are the measured ones."""

    def __init__(
        self,
        vectors: Floats,
        queries: Floats,
        groups: npt.NDArray[np.int64],
        config: IndexConfig,
        target_recall: float,
        seed: int,
        k: int,
    ) -> None:
        sizes = np.unique(groups, return_counts=True)
        self._groups = [
            groups == group for group, size in zip(*sizes, strict=True) if size >= _LEAST_OF_GROUP
        ]
        self._vectors, self._queries, self._config = vectors, queries, config
        self._target, self._seed = target_recall, seed
        self._k = k
        self._exact_rows, self._exact_ms = _exact(vectors, queries, self._k)
        self._points: dict[ScannSettings, Point] = {}

    def run(self) -> Built:
        num_leaves = self._number_of_leaves()
        indexes = {AH: self._index(num_leaves, AH)}
        self._vary(indexes[AH])
        # AH with nearly all candidates reordered has the recall of an index without quantisation. So the
        # cost of that second index is known before it is built.
        if self._may_be_cheaper_unquantized(num_leaves):
            indexes[NO_QUANTIZATION] = self._index(num_leaves, NO_QUANTIZATION)
            self._vary(indexes[NO_QUANTIZATION])
        best = self._cheapest()
        if best is None:
            return self._exact()
        met = True
        reason = (
            f"ScaNN: the cheapest of {len(self._points)} settings with a Recall@{self._k} of at least "
            f"{self._target:g} against exact search, at 99% confidence and for histories of any length."
        )
        budget = self._config.latency_budget_ms
        if budget and best.ms_per_query > budget:
            met, best, reason = self._within_budget(indexes[best.settings.quantization], best)
        index = indexes[best.settings.quantization]
        index.settings = best.settings
        return Built(index, reason, self._tuning(met, reason, best))

    def _number_of_leaves(self) -> int:
        """Finds the number of leaves with the fewest bytes per query, centres included.

        The sample holds a share of the catalog, and the same share of each query's k best items.
        """
        items = len(self._vectors)
        root = round(math.sqrt(items))
        candidates = sorted({min(max(root * times, 1), items // 4) for times in _LEAVES})
        size = min(items, _CATALOG_SAMPLE)
        chosen = np.sort(np.random.default_rng(self._seed).choice(items, size, replace=False))
        vectors = self._vectors[chosen]
        k = max(1, round(self._k * size / items))
        rows, _ = _exact(vectors, self._queries, k)
        # AH loses some of the items in its leaves.
        wanted = (1 + self._target) / 2
        costs = {}
        for leaves in candidates:
            index = ScannIndex(vectors, ScannSettings(leaves, 1, 0, NO_QUANTIZATION, k), k)

            def found(searched: int, index: ScannIndex = index) -> float:
                index.settings = dataclasses.replace(index.settings, leaves_to_search=searched)
                return float(_recalls(_search(index, self._queries, k), rows).mean())

            searched = _first(_geometric(1, leaves), lambda searched: found(searched) >= wanted)
            costs[leaves] = self._bytes(ScannSettings(leaves, searched or leaves, 0, AH, k))
        return min(costs, key=lambda leaves: costs[leaves])

    def _index(self, num_leaves: int, quantization: str) -> ScannIndex:
        reordered = self._reordering()[0] if quantization == AH else 0
        settings = ScannSettings(num_leaves, 1, reordered, quantization, self._k)
        return ScannIndex(self._vectors, settings, self._config.max_k)

    def _reordering(self) -> list[int]:
        return sorted({min(self._k * times, len(self._vectors)) for times in _REORDERING}, reverse=True)

    def _vary(self, index: ScannIndex) -> None:
        """Measures, for each number of reordering candidates, the fewest leaves that meet the target.

        Recall rises with both numbers, so fewer candidates need at least as many leaves. Settings that cost
        more than the cheapest one so far are not tried.
        """
        reordering = [0] if index.settings.quantization == NO_QUANTIZATION else self._reordering()
        leaves = _geometric(1, index.settings.num_leaves)
        for candidates in reordering:
            settings = dataclasses.replace(index.settings, reordering_candidates=candidates)

            def meets(searched: int, index: ScannIndex = index, settings: ScannSettings = settings) -> bool:
                setting = dataclasses.replace(settings, leaves_to_search=searched)
                cheapest = self._cheapest()
                if cheapest and self._bytes(setting) >= cheapest.bytes_per_query:
                    return True  # counts as met: only cheaper settings matter
                return self._meets(self._try(index, setting))

            searched = _first(leaves, meets)
            if searched is None:
                return
            leaves = [number for number in leaves if number >= searched]

    def _try(self, index: ScannIndex, settings: ScannSettings) -> Point:
        if settings not in self._points:
            index.settings = settings
            recalls = _recalls(_search(index, self._queries, self._k), self._exact_rows)
            error = recalls.std() / math.sqrt(len(recalls))
            self._points[settings] = Point(
                settings,
                float(recalls.mean()),
                max(0.0, float(recalls.mean() - _NORMAL_QUANTILE * error)),
                float(min((recalls[group].mean() for group in self._groups), default=recalls.mean())),
                self._bytes(settings),
                _milliseconds(index.search, self._queries, self._k),
            )
        return self._points[settings]

    def _bytes(self, settings: ScannSettings) -> int:
        """Counts the bytes that a query reads: all centres, codes in searched leaves, reordered vectors."""
        items, dimensions = self._vectors.shape
        vector = 4 * dimensions
        code = math.ceil(dimensions / 4) if settings.quantization == AH else vector
        looked_at = items * settings.leaves_to_search / settings.num_leaves
        return round(vector * (settings.num_leaves + settings.reordering_candidates) + code * looked_at)

    def _meets(self, point: Point) -> bool:
        return min(point.recall_low, point.worst_recall) >= self._target

    def _cheapest(self) -> Point | None:
        """Finds the cheapest point that meets the target; None if exact search reads no more."""
        meeting = [point for point in self._points.values() if self._meets(point)]
        best = min(meeting, key=lambda point: point.bytes_per_query, default=None)
        return best if best and best.bytes_per_query < self._vectors.nbytes else None

    def _may_be_cheaper_unquantized(self, num_leaves: int) -> bool:
        best = self._cheapest()
        if best is None:
            return True
        most = self._reordering()[0]
        reached = [
            point.settings.leaves_to_search
            for point in self._points.values()
            if point.settings.reordering_candidates == most and self._meets(point)
        ]
        if not reached:
            return True
        unquantized = ScannSettings(num_leaves, min(reached), 0, NO_QUANTIZATION, self._k)
        return self._bytes(unquantized) < best.bytes_per_query

    def _within_budget(self, index: ScannIndex, best: Point) -> tuple[bool, Point, str]:
        """Chooses settings where the cheapest point that meets the target exceeds the latency budget."""
        target, budget = self._target, self._config.latency_budget_ms
        searched = best.settings.leaves_to_search
        while searched > 1 and not any(point.ms_per_query <= budget for point in self._points.values()):
            searched //= 2
            self._try(index, dataclasses.replace(best.settings, leaves_to_search=searched))
        own = [p for p in self._points.values() if p.settings.quantization == best.settings.quantization]
        within = [point for point in own if point.ms_per_query <= budget]
        if within:
            chosen = max(within, key=lambda point: point.recall)
            if self._meets(chosen):
                cheapest = min(filter(self._meets, within), key=lambda point: point.bytes_per_query)
                return True, cheapest, "ScaNN: the cheapest setting that meets target and latency budget."
            told = f"The index built is the best within the budget, with a recall of {chosen.recall:.3f}"
        else:
            chosen = min(own, key=lambda point: point.ms_per_query)
            told = (
                "No setting is within the budget. The index built is the fastest, with a recall of "
                f"{chosen.recall:.3f}"
            )
        reason = (
            f"ScaNN: a Recall@{self._k} of {target:g} takes {best.ms_per_query:.2f} ms a query here. The "
            f"latency budget is {budget:g} ms (index.latency_budget_ms). {told} at "
            f"{chosen.ms_per_query:.2f} ms."
        )
        return False, chosen, reason

    def _exact(self) -> Built:
        found = max(point.recall for point in self._points.values())
        target = self._target
        reason = (
            f"Exact search: ScaNN finds {found:.3f} of its {self._k} items at best, or reads as many bytes. "
            f"gate.min_ann_recall requires a Recall@{self._k} of {target:g}."
        )
        budget = self._config.latency_budget_ms
        met = not budget or self._exact_ms <= budget
        if not met:
            reason += f" It takes {self._exact_ms:.2f} ms a query here; the budget is {budget:g} ms."
        return Built(ExactIndex(tf.constant(self._vectors)), reason, self._tuning(met, reason, None))

    def _tuning(self, met: bool, reason: str, chosen: Point | None) -> Tuning:
        points = sorted(self._points.values(), key=lambda point: point.bytes_per_query)
        config = self._config
        return Tuning(
            self._target,
            self._k,
            len(self._queries),
            config.latency_budget_ms,
            met,
            reason,
            points.index(chosen) if chosen else None,
            tuple(points),
            self._exact_ms,
        )


def _geometric(first: int, last: int) -> list[int]:
    """Lists whole numbers from `first` to `last`, each about a fifth larger than the one before."""
    numbers = [first]
    while numbers[-1] < last:
        numbers.append(min(last, max(numbers[-1] + 1, round(numbers[-1] * 1.2))))
    return numbers


def _first(ascending: list[int], holds: Any) -> int | None:
    """Finds the first number for which `holds` is true by bisection; `holds` is true for all larger ones."""
    low, high = 0, len(ascending)
    while low < high:
        middle = (low + high) // 2
        if holds(ascending[middle]):
            high = middle
        else:
            low = middle + 1
    return ascending[low] if low < len(ascending) else None


def _exact(vectors: Floats, queries: Floats, k: int) -> tuple[Rows, float]:
    """Returns the k best rows of each query, [queries, k], and the median milliseconds of a query."""
    held = tf.constant(vectors)

    @tf.function(
        input_signature=[tf.TensorSpec([None, vectors.shape[1]]), tf.TensorSpec([], tf.int32)],
        autograph=False,
    )
    def search(queries: tf.Tensor, k: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        best = tf.math.top_k(tf.matmul(queries, held, transpose_b=True), k)
        return best.indices, best.values

    rows = [
        search(tf.constant(queries[begin : begin + _QUERIES_AT_ONCE]), k)[0].numpy()
        for begin in range(0, len(queries), _QUERIES_AT_ONCE)
    ]
    return np.concatenate(rows), _milliseconds(search, queries, k, 10)


def _search(index: ScannIndex, queries: Floats, k: int) -> Rows:
    """Returns rows [queries, k], padded with -1."""
    rows, scores = (found.numpy() for found in index.search(tf.constant(queries), tf.constant(k)))
    rows = np.where(np.isnan(scores), -1, rows)
    return np.pad(rows, [(0, 0), (0, k - rows.shape[1])], constant_values=-1)


def _recalls(found: Rows, exact: Rows) -> npt.NDArray[np.float64]:
    """Computes each query's share of `exact` [queries, k] in its row of `found` [queries, any]."""
    return np.array([len(np.intersect1d(a, b)) / len(b) for a, b in zip(found, exact, strict=True)])


def _milliseconds(search: Any, queries: Floats, k: int, most: int = _TIMED_QUERIES) -> float:
    """Measures the median time of a single query, after one warm-up query that does not count."""
    wanted, times = tf.constant(k), []
    for number in range(min(most, len(queries)) + 1):
        query = tf.constant(queries[number % len(queries)][np.newaxis])
        began = time.perf_counter()
        search(query, wanted)
        times.append(1_000 * (time.perf_counter() - began))
    return float(np.median(times[1:]))
