from __future__ import annotations

import numpy as np
import pytest

from two_tower.evaluation import bootstrap as bootstrap_module
from two_tower.evaluation.bootstrap import UserBootstrap


def listeners(seed: int, users: int = 60, queries: int = 8, spread: float = 0.2) -> tuple[np.ndarray, ...]:
    """Draws each query's user and answer: users differ in their share of answered queries."""
    random = np.random.default_rng(seed)
    chance = np.clip(random.normal(0.4, spread, users), 0, 1)
    user = np.repeat(np.arange(users), random.integers(1, queries, users))
    return user * 7 + 100, (random.random(len(user)) < chance[user]).astype(float)


def test_the_interval_of_a_known_case() -> None:
    """Checks for bounds at 1.96 standard errors for a mean of independent normal users."""
    values = np.random.default_rng(1).normal(5.0, 2.0, 2_500)
    (low, high) = UserBootstrap(np.arange(2_500), 2_000, seed=3).intervals({"x": values})["x"]  # type: ignore[misc]
    error = values.std() / 50
    assert low == pytest.approx(values.mean() - 1.96 * error, abs=0.006)
    assert high == pytest.approx(values.mean() + 1.96 * error, abs=0.006)


def test_intervals_hold_the_truth_as_often_as_they_say() -> None:
    """Compares intervals with the mean over very many users, who differ and have several queries each."""
    truth = listeners(10_000, users=50_000)[1].mean()
    held = 0
    for seed in range(150):
        users, answered = listeners(seed)
        low, high = UserBootstrap(users, 300, seed=seed).intervals({"hit": answered})["hit"]  # type: ignore[misc]
        held += low <= truth <= high
    assert 0.89 <= held / 150 <= 0.985


def test_users_are_drawn_whole() -> None:
    users, answered = listeners(3, users=100, queries=30)
    width = {}
    for name, cluster in (("users", users), ("queries", np.arange(len(users)))):
        low, high = UserBootstrap(cluster, 500).intervals({"hit": answered})["hit"]  # type: ignore[misc]
        width[name] = high - low
    assert width["users"] > 1.3 * width["queries"]


def test_a_paired_change_is_surer_than_two_intervals_apart() -> None:
    users, before = listeners(5, users=300)
    after = np.where(np.random.default_rng(0).random(len(before)) < 0.02, 1.0, before)
    bootstrap = UserBootstrap(users, 500)
    change = bootstrap.changes({"hit": after, "new": after}, {"hit": before})
    assert set(change) == {"hit"}
    assert change["hit"]["change"] == pytest.approx((after - before).mean())
    assert 0 < change["hit"]["low"] < change["hit"]["change"] < change["hit"]["high"]  # type: ignore[operator]
    low, high = bootstrap.intervals({"hit": after})["hit"]  # type: ignore[misc]
    assert change["hit"]["high"] - change["hit"]["low"] < (high - low) / 3  # type: ignore[operator]


def test_equal_answers_differ_by_exactly_nothing() -> None:
    users, answered = listeners(6)
    assert UserBootstrap(users).changes({"hit": answered / 3}, {"hit": answered / 3})["hit"] == {
        "change": 0.0, "low": 0.0, "high": 0.0
    }  # fmt: skip


def test_what_has_no_value_counts_nowhere() -> None:
    users, answered = listeners(7)
    part = np.arange(len(users)) % 3 == 0
    bootstrap = UserBootstrap(users, 50, seed=1)
    means = bootstrap.means(np.stack([answered, np.where(part, answered, np.nan)], axis=1))
    np.testing.assert_array_equal(means[:, 0], bootstrap.means(answered)[:, 0])
    # By hand: the users of each resample, with multiplicities.
    (_, weights), *_ = bootstrap._weights()
    weight = weights[:, np.unique(users, return_inverse=True)[1]] * part
    np.testing.assert_allclose(means[:, 1], weight @ answered / weight.sum(axis=1))
    assert weights.sum(axis=1).tolist() == [len(np.unique(users))] * 50


def test_memory_is_bounded_and_the_blocks_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    users, answered = listeners(8)
    whole = UserBootstrap(users, 100, seed=2).means(answered)
    monkeypatch.setattr(bootstrap_module, "_WEIGHTS_AT_ONCE", 7 * len(np.unique(users)) + 1)
    assert {len(weights) for _, weights in UserBootstrap(users, 100, seed=2)._weights()} == {7, 2}
    np.testing.assert_allclose(UserBootstrap(users, 100, seed=2).means(answered), whole)
    assert not np.allclose(UserBootstrap(users, 100, seed=3).means(answered), whole)


def test_too_little_to_say_is_said() -> None:
    few = UserBootstrap(np.array([4, 4, 9]))
    nothing, one = np.full(3, np.nan), np.array([1.0, 0.0, np.nan])
    assert few.intervals({"nothing": nothing, "one user": one}) == {"nothing": None, "one user": None}
    assert few.changes({"x": one}, {"x": one * 0}) == {"x": {"change": 0.5, "low": None, "high": None}}
    assert few.intervals({}) == {} == few.changes({}, {"x": one})
    assert few.changes({"x": nothing}, {"x": one})["x"]["change"] is None
    assert UserBootstrap(np.empty(0, np.int64)).intervals({"x": np.empty(0)}) == {"x": None}
    with pytest.raises(ValueError, match="2 values and 3 queries"):
        few.means([1.0, 2.0])
