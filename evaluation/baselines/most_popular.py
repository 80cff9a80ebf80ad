"""The baseline `most_popular`."""

from __future__ import annotations

from two_tower.evaluation.baselines.definition import POPULARITY, Baseline

BASELINE = Baseline(
    name="most_popular",
    label="most popular",
    family=POPULARITY,
    colour="popularity",
    place=10,
    meaning="the items with the most label events in train",
    fit=lambda data: lambda: data.most_popular,
)
