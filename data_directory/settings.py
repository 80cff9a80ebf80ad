"""Settings that name the features of a run."""

from __future__ import annotations

import dataclasses


@dataclasses.dataclass(frozen=True)
class FeaturesConfig:
    """Columns of the data directory's own that become features, and history aggregates.

    A column is named alone, or as name:kind where its type does not tell the kind: categorical, multi_valued,
    numeric, text or vector (see `data_directory.feature_columns`).
    """

    # Columns of users/, such as gender or occupation:categorical.
    users: tuple[str, ...] = ()
    # Columns of items/, such as tags, title:text or embedding.
    items: tuple[str, ...] = ()
    # History aggregates (see `trainer.model.history_aggregates`); auto: all that the data allows.
    history: tuple[str, ...] = ("auto",)
