"""What a model has to beat: popularity, the user's own history, words, neighbours, factors, and content.

All are trained from the train windows alone; what there is to choose is chosen on eval queries. Under every
protocol: what is asked for, one label or a set of them, changes the metric alone. A query is answered from
what the model sees of its user too.
"""

from two_tower.evaluation.baselines.catalog import Catalog
from two_tower.evaluation.baselines.fitting import Fitted, fit_baselines
from two_tower.evaluation.baselines.personal_history import PersonalHistory
from two_tower.evaluation.baselines.popularity import DAY, Popularity
from two_tower.evaluation.baselines.ranking import Baseline, first_among
from two_tower.evaluation.label_events import LabelEvents

__all__ = [
    "DAY",
    "Baseline",
    "Catalog",
    "Fitted",
    "LabelEvents",
    "PersonalHistory",
    "Popularity",
    "first_among",
    "fit_baselines",
]
