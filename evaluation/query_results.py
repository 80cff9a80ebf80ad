"""Results of single queries, kept beside evaluation.json: a model can be judged again without the model."""

from __future__ import annotations

import dataclasses
import io
import zipfile
import zlib
from collections.abc import Mapping, Sequence
from typing import IO, Any

import numpy as np
import numpy.typing as npt

from two_tower.evaluation.metric_table import values_by_query
from two_tower.evaluation.metrics import Bools, Floats
from two_tower.evaluation.queries import LabelSets

FILE_NAME = "queries.npz"
_RANK, _SLICE = "rank/", "slice/"


@dataclasses.dataclass(frozen=True)
class QueryResults:
    """Labels of every test query with their ranks among all recommenders' recommendations.

    Attributes:
        user: [Q] int32, the user of each query: numbers from 0 on without meaning elsewhere.
        labels: labels of the Q queries.
        ranks: [labels] float32 by recommender (model, model_exact, blessed_model, or a baseline's name):
            ranks from 1, infinite for a label that was not recommended.
        slices: [labels] by name, see `slices.Slice`.
    """

    user: npt.NDArray[np.int32]
    labels: LabelSets
    ranks: dict[str, npt.NDArray[np.float32]]
    slices: dict[str, Bools]

    def values(self, who: str, cutoffs: Sequence[int], slice_name: str | None = None) -> dict[str, Floats]:
        """Computes the metrics with intervals by name, each [Q]; see `metric_table.values_by_query`.

        With a slice's name, its labels alone count, and a query without a label in it has NaN.
        """
        chosen = None if slice_name is None else self.slices[slice_name]
        return values_by_query(self.ranks[who], self.labels, cutoffs, chosen)

    def to_bytes(self) -> bytes:
        """Returns the file's content, which `read` takes."""
        buffer = io.BytesIO()
        np.savez_compressed(
            buffer,
            user=self.user,
            label_query=self.labels.query.astype(np.int32),
            label_item=self.labels.item_id,
            **{_RANK + who: ranks for who, ranks in self.ranks.items()},
            **{_SLICE + name: labels for name, labels in self.slices.items()},
        )
        return buffer.getvalue()

    @classmethod
    def read(cls, file: IO[bytes]) -> QueryResults:
        """Reads a file of `to_bytes`.

        Raises:
            ValueError: the file is no such file, or not complete.
        """
        try:
            with np.load(io.BytesIO(file.read())) as content:

                def named(prefix: str) -> dict[str, npt.NDArray[Any]]:
                    return {n.removeprefix(prefix): content[n] for n in content.files if n.startswith(prefix)}

                user, query, item = (content[name] for name in ("user", "label_query", "label_item"))
                ranks, slices = named(_RANK), named(_SLICE)
                _check_columns(user, query, item, ranks, slices)
                counts = np.bincount(query, minlength=len(user))
                labels = LabelSets(item, np.concatenate([[0], np.cumsum(counts)]))
                return cls(user, labels, ranks, slices)
        except (EOFError, KeyError, zipfile.BadZipFile, zlib.error) as error:
            raise ValueError(f"not the results of queries: {error}") from error


def _check_columns(
    user: npt.NDArray[Any],
    query: npt.NDArray[Any],
    item: npt.NDArray[Any],
    ranks: Mapping[str, npt.NDArray[Any]],
    slices: Mapping[str, npt.NDArray[Any]],
) -> None:
    """Raises ValueError for columns of other types or sizes, and for labels out of order."""
    kinds = {"user": (user, "iu"), "label_query": (query, "iu"), "label_item": (item, "iu")}
    kinds |= {_RANK + who: (of, "f") for who, of in ranks.items()}
    kinds |= {_SLICE + name: (of, "b") for name, of in slices.items()}
    for name, (column, kind) in kinds.items():
        if column.ndim != 1 or column.dtype.kind not in kind:
            raise ValueError(f"{name} has the type {column.dtype} and the shape {list(column.shape)}")
        if name != "user" and len(column) != len(query):
            raise ValueError(f"{name} has {len(column)} values for {len(query)} labels")
    if ((query < 0) | (query >= len(user))).any() or (np.diff(query) < 0).any():
        raise ValueError(f"labels are not those of {len(user)} queries in their order")
    for who, of in ranks.items():
        if not (of >= 1).all():
            raise ValueError(f"{_RANK + who} holds a value below 1, or none")


def pseudonyms(users: npt.NDArray[np.int64], seed: int) -> npt.NDArray[np.int32]:
    """Numbers users [Q] from 0 to U - 1 in a random order, which tells nothing of their ids. [Q]."""
    known, number = np.unique(users, return_inverse=True)
    return np.random.default_rng(seed).permutation(len(known))[number].astype(np.int32)
