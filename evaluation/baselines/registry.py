"""The list of baselines: settings take their names from it, and it loads a baseline's module on demand.

The command line imports this module, so that it must stay free of NumPy, SciPy and `implicit`.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from two_tower.evaluation.baselines.definition import Baseline

# Modules that define a `BASELINE`, in the order of fitting and of evaluation.json. The last part of each is
# the baseline's name. Full names, so that cache keys heed edits of these modules (base/import_closure.py).
_MODULES = (
    "two_tower.evaluation.baselines.most_popular",
    "two_tower.evaluation.baselines.decayed_popularity",
    "two_tower.evaluation.baselines.personal_history",
    "two_tower.evaluation.baselines.token_matching",
    "two_tower.evaluation.baselines.co_occurrence",
    "two_tower.evaluation.baselines.ials",
    "two_tower.evaluation.baselines.bpr",
    "two_tower.evaluation.baselines.content_neighbours",
)
# Choices of the setting `evaluation.baselines`.
BASELINES = tuple(module.rpartition(".")[2] for module in _MODULES)


def definition(name: str) -> Baseline:
    """Returns the baseline of a name.

    Raises:
        KeyError: no baseline has the name.
    """
    found: Baseline = importlib.import_module(dict(zip(BASELINES, _MODULES, strict=True))[name]).BASELINE
    return found
