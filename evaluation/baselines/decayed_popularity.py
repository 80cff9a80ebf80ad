"""The baseline `decayed_popularity`."""

from __future__ import annotations

from two_tower.evaluation.baselines.definition import POPULARITY, TIMES, Baseline
from two_tower.evaluation.baselines.popularity import Popularity

BASELINE = Baseline(
    name="decayed_popularity",
    label="decayed popularity",
    family=POPULARITY,
    colour="popularity-2",
    place=20,
    meaning="the items with the most label events in train, where an event's weight halves with its age",
    needs=(TIMES,),
    grid={"half_life_days": (0.02, 0.06, 0.25, 1.0, 3.0, 7.0, 14.0, 30.0, 90.0, 365.0)},
    fit=lambda data: lambda half_life_days: Popularity(data.offered, half_life_days),
)
