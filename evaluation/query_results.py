"""What each query found, kept beside evaluation.json, so that a model can be judged again without it."""

from __future__ import annotations

import dataclasses
import io
import zipfile
import zlib
from collections.abc import Sequence
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
    """Where the labels of every test query stand among everyone's recommendations.

    Attributes:
        user: [Q] int32, whose query each is: numbers from 0 on that mean nothing elsewhere.
        labels: of the Q queries.
        ranks: by who recommended (model, model_exact, blessed_model, or a baseline's name) [labels] float32:
            ranks from 1, infinite for a label that was not recommended.
        slices: by name [labels], see `slices.Slice`.
    """

    user: npt.NDArray[np.int32]
    labels: LabelSets
    ranks: dict[str, npt.NDArray[np.float32]]
    slices: dict[str, Bools]

    def values(self, who: str, cutoffs: Sequence[int], slice_name: str | None = None) -> dict[str, Floats]:
        """`recall@k`, `ndcg@k`, `hit_rate@k` and `mrr` by name, each [Q]; see `metric_table.values_by_query`.

        With the name of a slice of its labels alone, and NaN for queries that have none in it.
        """
        chosen = None if slice_name is None else self.slices[slice_name]
        return values_by_query(self.ranks[who], self.labels, cutoffs, chosen)

    def to_bytes(self) -> bytes:
        """The file's content, which `read` takes."""
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
        """The inverse of `to_bytes`. Raises ValueError where the file is none of these, or not whole."""
        try:
            with np.load(io.BytesIO(file.read())) as content:

                def named(prefix: str) -> dict[str, npt.NDArray[Any]]:
                    return {n.removeprefix(prefix): content[n] for n in content.files if n.startswith(prefix)}

                user = content["user"]
                counts = np.bincount(content["label_query"], minlength=len(user))
                labels = LabelSets(content["label_item"], np.concatenate([[0], np.cumsum(counts)]))
                return cls(user, labels, named(_RANK), named(_SLICE))
        except (EOFError, KeyError, zipfile.BadZipFile, zlib.error) as error:
            raise ValueError(f"not the results of queries: {error}") from error


def pseudonyms(users: npt.NDArray[np.int64], seed: int) -> npt.NDArray[np.int32]:
    """Users [Q] as numbers 0 to U - 1 in an order drawn at random, which tells nothing of their ids. [Q]."""
    known, number = np.unique(users, return_inverse=True)
    return np.random.default_rng(seed).permutation(len(known))[number].astype(np.int32)
