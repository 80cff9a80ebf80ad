"""From recommendations to figures, on a checkerboard whose right answers are known."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest

from two_tower.evaluation.beyond_accuracy import ItemVectors
from two_tower.evaluation.figures import Recommendations, evaluate, results_of
from two_tower.evaluation.label_events import LabelEvents
from two_tower.evaluation.queries import LabelSets, Queries
from two_tower.evaluation.slices import Slice
from two_tower.evaluation.train_counts import TrainCounts

USERS, ITEMS = 40, 20


@pytest.fixture(scope="module")
def figures() -> dict[str, Any]:
    """Even users ask for items below 10, odd users for the others. The model knows which, and finds half of
    the labels first; the blessed model finds those of even users alone; popular items are nobody's.
    """
    user = np.repeat(np.arange(USERS), 2)
    label = user % 2 * 10 + np.arange(len(user)) % 5
    first = np.where(np.arange(len(user)) % 2 == 0, label, 19 - label)
    model = np.stack([first, np.where(first == label, 19 - label, label)], axis=1)
    blessed = np.where((user % 2 == 0)[:, np.newaxis], model, -1)
    popular = np.tile([18, 19], [len(user), 1])
    row = np.arange(len(user))
    events = LabelEvents(np.arange(USERS), np.arange(USERS) % 18, np.arange(USERS))
    recommendations = Recommendations(
        queries=Queries(user, row, 0 * row, row, row, row, LabelSets.of_one(label)),
        items={"model": model, "model_exact": model, "blessed_model": blessed, "most_popular": popular},
        slices=[Slice("odd", user % 2 == 1, "parity"), Slice("nothing", user < 0, "parity")],
        train=TrainCounts(
            np.arange(USERS - 1), np.arange(18), events, *np.unique(events.item_id, return_counts=True)
        ),
        history_popularity=np.full(len(user), 0.05),
        vectors=ItemVectors("content", np.arange(ITEMS), np.eye(ITEMS, dtype=np.float32)),
        catalog_size=ITEMS,
        cutoffs=(1, 2),
        judged_cutoff=1,
        seed=3,
    )
    found = evaluate(recommendations, results_of(recommendations))
    json.dumps(found, allow_nan=False)
    return found


def test_metrics_of_everyone(figures: dict[str, Any]) -> None:
    test = figures["metrics"]["test"]
    assert (test["recall@1"], test["recall@2"], test["mrr"]) == (0.5, 1.0, 0.75)
    assert figures["released_metrics"]["blessed_model"]["recall@2"] == 0.5
    assert figures["baselines"] == {"most_popular": figures["baselines"]["most_popular"]}
    assert figures["baselines"]["most_popular"]["recall@2"] == 0
    assert figures["ann"] == {"recall@1": 1.0, "recall@2": 1.0, "by_history": {}}
    assert figures["queries"]["by_users_unknown_to_train"] == 2
    # Unit vectors at right angles; 18 and 19 have no label event in train.
    assert test["intra_list_diversity@2"] == 1 and test["intra_list_diversity@1"] is None
    popular = figures["baselines"]["most_popular"]
    assert popular["popularity_lift@2"] == -1
    assert popular["novelty@2"] == pytest.approx(np.log2(USERS + ITEMS))


def test_intervals_hold_their_means_and_whole_users_are_drawn(figures: dict[str, Any]) -> None:
    assert set(figures["intervals"]) == {"model", "model_exact", "blessed_model", "most_popular"}
    # Every user finds one of two first: users differ by nothing.
    assert figures["intervals"]["model"]["recall@1"] == [0.5, 0.5]
    low, high = figures["intervals"]["blessed_model"]["recall@2"]
    assert 0.2 < low < 0.5 < high < 0.8
    change = figures["changes"]["blessed_model"]["recall@2"]
    assert change["change"] == 0.5 and 0.2 < change["low"] < 0.5 < change["high"] < 0.8
    assert "model_exact" not in figures["changes"]


def test_slices_have_everyones_metrics_and_intervals_at_the_judged_cutoff(figures: dict[str, Any]) -> None:
    odd = figures["slices"]["odd"]
    assert (odd["family"], odd["labels"], odd["queries"], odd["users"]) == ("parity", 40, 40, 20)
    assert list(odd["metrics"]) == ["model", "blessed_model", "most_popular"]
    assert odd["metrics"]["model"] == {"recall@1": 0.5, "recall@2": 1, "ndcg@1": 0.5, "ndcg@2": pytest.approx(
        (1 + 1 / np.log2(3)) / 2
    )}  # fmt: skip
    assert odd["metrics"]["blessed_model"]["recall@2"] == 0
    assert odd["intervals"]["model"] == {"recall@1": [0.5, 0.5], "ndcg@1": [0.5, 0.5]}
    nothing = figures["slices"]["nothing"]
    assert nothing["metrics"]["model"]["recall@1"] is None and nothing["users"] == 0
    assert nothing["intervals"]["model"]["recall@1"] is None
