"""Settings that name the features of a run."""

from __future__ import annotations

import dataclasses

from two_tower.base.settings import setting


@dataclasses.dataclass(frozen=True)
class FeaturesConfig:
    """Columns of the data directory's own that become features.

    A column is named alone, or as name:kind where its type does not tell the kind: categorical, multi_valued,
    numeric, text or vector (see `data_directory.feature_columns`).
    """

    users: tuple[str, ...] = setting(
        (),
        help="Columns of users/ that become features, such as gender or occupation:categorical.",
        may_be_empty=True,
        shown=True,
    )
    items: tuple[str, ...] = setting(
        (),
        help="Columns of items/ that become features, such as tags, title:text or embedding.",
        may_be_empty=True,
        shown=True,
    )
