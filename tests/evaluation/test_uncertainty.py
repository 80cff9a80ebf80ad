from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from two_tower.evaluation import uncertainty
from two_tower.evaluation.settings import MIN_USERS
from two_tower.evaluation.uncertainty import Estimates, UserSample, changes_of


def listeners(seed: int, users: int = 60, queries: int = 8, spread: float = 0.2) -> tuple[np.ndarray, ...]:
    """Draws each query's user and answer: users differ in their share of answered queries."""
    random = np.random.default_rng(seed)
    chance = np.clip(random.normal(0.4, spread, users), 0, 1)
    user = np.repeat(np.arange(users), random.integers(1, queries, users))
    return user * 7 + 100, (random.random(len(user)) < chance[user]).astype(float)


def interval(users: np.ndarray, values: np.ndarray) -> list[float]:
    found = UserSample(users).intervals({"x": values})["x"]
    assert found is not None
    return found


def numbers(change: dict[str, float | None]) -> tuple[float, ...]:
    """Returns a change and its bounds, which must be known."""
    known = [change[name] for name in ("change", "low", "high")]
    assert None not in known
    return tuple(value for value in known if value is not None)


@pytest.mark.parametrize("users", [10, 25, 2_500])
def test_with_one_query_a_user_the_interval_is_students(users: int) -> None:
    values = np.random.default_rng(1).normal(0.5, 0.1, users)
    low, high = interval(np.arange(users), values)
    reach = stats.t.ppf(0.975, users - 1) * values.std(ddof=1) / np.sqrt(users)
    np.testing.assert_allclose([low, high], [values.mean() - reach, values.mean() + reach])


def test_the_noise_of_users_with_several_queries_by_hand() -> None:
    # Eleven users: ten with one query each, half of them answered, and one with ten queries, all answered.
    users = np.concatenate([np.arange(10), np.full(10, 10)])
    answered = np.concatenate([np.arange(10) % 2, np.ones(10)]).astype(float)
    without = np.array([(15 - one) / 19 for one in answered[:10]] + [5 / 10])
    error = np.sqrt(10 / 11 * ((without - without.mean()) ** 2).sum())
    freedom = 20**2 / (10 * 1 + 10**2) - 1
    reach = stats.t.ppf(0.975, freedom) * error
    bounds = UserSample(users).estimates(answered).bounds()
    np.testing.assert_allclose(bounds[:, 0], [0.75 - reach, 0.75 + reach])


@pytest.mark.parametrize("users", [10, 20, 60])
def test_intervals_hold_the_truth_as_often_as_they_say(users: int) -> None:
    """Compares intervals with the mean over very many users, who differ and have several queries each."""
    truth = listeners(10_000, users=50_000)[1].mean()
    held = 0
    for seed in range(600):
        low, high = interval(*listeners(seed, users=users))
        held += low <= truth <= high
    # Two standard errors of 600 draws are .018.
    assert 0.93 <= held / 600 <= 0.975


def test_fewer_users_than_show_the_noise_have_no_interval() -> None:
    users, answered = listeners(2, users=MIN_USERS)
    assert interval(users, answered)
    few = users < users.max()
    assert UserSample(users[few]).intervals({"x": answered[few]}) == {"x": None}
    change = UserSample(users[few]).changes({"x": answered[few]}, {"x": 0 * answered[few]})["x"]
    assert change == {"change": pytest.approx(answered[few].mean()), "low": None, "high": None}


def test_users_who_are_all_alike_do_not_show_that_the_next_one_is() -> None:
    # Clopper and Pearson: .025 is the tenth power of the bound.
    bound = 0.025 ** (1 / 10)
    assert interval(np.arange(10), np.ones(10)) == pytest.approx([bound, 1.0])
    assert interval(np.arange(10), np.zeros(10)) == pytest.approx([0.0, 1 - bound])
    assert interval(np.arange(10), np.full(10, 0.5)) == [0.5, 0.5]


def test_the_bounds_of_a_share_are_shares() -> None:
    nearly_all = np.r_[np.ones(29), 0.0]
    low, high = interval(np.arange(30), nearly_all)
    assert low < 29 / 30 < high == 1.0
    assert interval(np.arange(30), 1 - nearly_all) == pytest.approx([0.0, 1 - low])
    # A change is none.
    change = UserSample(np.arange(30)).changes({"x": nearly_all}, {"x": np.zeros(30)})["x"]
    assert change["high"] is not None and change["high"] > 1


def test_users_are_the_sample_and_not_their_queries() -> None:
    users, answered = listeners(3, users=100, queries=30)
    width = {}
    for name, cluster in (("users", users), ("queries", np.arange(len(users)))):
        low, high = interval(cluster, answered)
        width[name] = high - low
    assert width["users"] > 1.3 * width["queries"]


def test_a_paired_change_is_surer_than_two_intervals_apart() -> None:
    users, before = listeners(5, users=300)
    after = np.where(np.random.default_rng(0).random(len(before)) < 0.02, 1.0, before)
    sample = UserSample(users)
    found = sample.changes({"hit": after, "new": after}, {"hit": before})
    assert set(found) == {"hit"}
    change, low, high = numbers(found["hit"])
    assert change == pytest.approx((after - before).mean())
    assert 0 < low < change < high
    own_low, own_high = interval(users, after)
    assert high - low < (own_high - own_low) / 3
    # The same answers by other users.
    apart = UserSample(users + 1).estimates(after).minus(sample.estimates(before))
    same_change, wide_low, wide_high = numbers(changes_of(["hit"], apart)["hit"])
    assert same_change == pytest.approx(change)
    assert wide_high - wide_low > own_high - own_low


def test_means_of_other_users_differ_as_welch_has_it() -> None:
    random = np.random.default_rng(4)
    one, other = random.normal(1, 1, 12), random.normal(0, 3, 30)
    difference = UserSample(np.arange(12)).estimates(one).minus(UserSample(np.arange(30)).estimates(other))
    expected = stats.ttest_ind(one, other, equal_var=False)
    assert float(difference.value[0] / difference.error[0]) == pytest.approx(expected.statistic)
    low, high = difference.bounds()[:, 0]
    both = one.var(ddof=1) / 12 + other.var(ddof=1) / 30
    freedom = both**2 / ((one.var(ddof=1) / 12) ** 2 / 11 + (other.var(ddof=1) / 30) ** 2 / 29)
    assert high - low == pytest.approx(2 * stats.t.ppf(0.975, freedom) * np.sqrt(both))


def test_equal_answers_differ_by_exactly_nothing() -> None:
    users, answered = listeners(6)
    assert UserSample(users).changes({"hit": answered / 3}, {"hit": answered / 3})["hit"] == {
        "change": 0.0, "low": 0.0, "high": 0.0
    }  # fmt: skip
    # Other users with equal answers differ by nothing that is known to be no noise.
    both = UserSample(users).estimates(0 * answered)
    assert both.minus(both).bounds().tolist() == [[0.0], [0.0]]


def test_what_has_no_value_counts_nowhere() -> None:
    users, answered = listeners(7)
    part = np.arange(len(users)) % 3 == 0
    sample = UserSample(users)
    columns = np.stack([answered, np.where(part, answered, np.nan)], axis=1)
    found, of_part = sample.estimates(columns), UserSample(users[part]).estimates(answered[part])
    assert (found.value[1], found.error[1], found.users[1]) == (
        of_part.value[0], of_part.error[0], of_part.users[0]
    )  # fmt: skip
    means = sample.resampled_means(columns, 50, seed=1)
    np.testing.assert_array_equal(means[:, 0], sample.resampled_means(answered, 50, seed=1)[:, 0])
    # By hand: the users of each resample, with multiplicities.
    (_, weights), *_ = sample._weights(50, 1)
    weight = weights[:, np.unique(users, return_inverse=True)[1]] * part
    np.testing.assert_allclose(means[:, 1], weight @ answered / weight.sum(axis=1))
    assert weights.sum(axis=1).tolist() == [len(np.unique(users))] * 50


def test_memory_is_bounded_and_the_blocks_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    users, answered = listeners(8)
    sample = UserSample(users)
    whole = sample.resampled_means(answered, 100, seed=2)
    monkeypatch.setattr(uncertainty, "_WEIGHTS_AT_ONCE", 7 * len(np.unique(users)) + 1)
    assert {len(weights) for _, weights in sample._weights(100, 2)} == {7, 2}
    np.testing.assert_allclose(sample.resampled_means(answered, 100, seed=2), whole)
    assert not np.allclose(sample.resampled_means(answered, 100, seed=3), whole)
    # A resample of more users than that is a block by itself.
    monkeypatch.setattr(uncertainty, "_WEIGHTS_AT_ONCE", 1)
    assert {len(weights) for _, weights in sample._weights(5, 2)} == {1}
    np.testing.assert_allclose(sample.resampled_means(answered, 100, seed=2), whole)
    monkeypatch.setattr(uncertainty, "_WEIGHTS_AT_ONCE", 3)
    alone = UserSample(np.array([4, 4]))
    assert [(begin, len(weights)) for begin, weights in alone._weights(5, 2)] == [(0, 3), (3, 2)]


def test_resamples_are_the_same_in_every_call() -> None:
    users, answered = listeners(9)
    sample = UserSample(users)
    found = sample.resampled_means(answered, 20)
    assert found.tolist() == sample.resampled_means(answered, 20, seed=0).tolist()
    assert found.tolist() != sample.resampled_means(answered, 20, seed=1).tolist()


def test_resamples_of_nothing_have_no_mean_and_warn_of_nothing() -> None:
    with np.errstate(all="raise"):
        none = UserSample(np.empty(0, np.int64)).resampled_means(np.empty([0, 2]), 3)
        without = UserSample(np.arange(4)).resampled_means(np.full(4, np.nan), 3)
    for found, shape in ((none, (3, 2)), (without, (3, 1))):
        assert found.shape == shape and np.isnan(found).all()


def test_the_noise_of_two_users_and_of_columns_beside_empty_ones() -> None:
    users, nothing = np.array([0, 1]), np.full(2, np.nan)
    columns = np.stack([nothing, [np.nan, 1.0], [0.0, 1.0]], axis=1)
    found = UserSample(users).estimates(columns)
    np.testing.assert_array_equal(found.value, [np.nan, 1.0, 0.5])
    # Without either user the other's value is left: the error is half their distance.
    np.testing.assert_array_equal(found.error, [np.nan, np.nan, 0.5])
    np.testing.assert_array_equal(found.freedom, [np.nan, np.nan, 1.0])
    assert found.users.tolist() == [0, 1, 2]


@pytest.mark.parametrize(("freedom", "judged_by"), [(0.5, 1), (1.0, 1), (1.5, 1.5), (7.0, 7)])
def test_bounds_have_one_degree_of_freedom_at_least(freedom: float, judged_by: float) -> None:
    found = Estimates(*(np.array([part]) for part in (0.5, 0.1, freedom, 12))).bounds()
    reach = 0.1 * stats.t.ppf(0.975, judged_by)
    assert found[:, 0] == pytest.approx([0.5 - reach, 0.5 + reach])


def test_a_difference_of_what_has_no_spread_or_no_freedom_warns_of_nothing() -> None:
    def one(error: float, freedom: float) -> Estimates:
        return Estimates(*(np.array([part]) for part in (0.5, error, freedom, 12)))

    with np.errstate(all="raise"):
        same = one(0.0, 11.0).minus(one(0.0, 7.0))
        assert (same.value[0], same.error[0], same.freedom[0], same.users[0]) == (0, 0, 7, 12)
        assert one(0.1, 0.0).minus(one(0.1, 9.0)).freedom[0] == 0
        assert np.isnan(one(np.nan, 5.0).minus(one(0.1, 9.0)).error[0])


def test_too_little_to_say_is_said() -> None:
    few = UserSample(np.array([4, 4, 9]))
    nothing, one = np.full(3, np.nan), np.array([1.0, 0.0, np.nan])
    assert few.intervals({"nothing": nothing, "one user": one}) == {"nothing": None, "one user": None}
    assert few.changes({"x": one}, {"x": one * 0}) == {"x": {"change": 0.5, "low": None, "high": None}}
    assert few.intervals({}) == {} == few.changes({}, {"x": one})
    assert few.changes({"x": nothing}, {"x": one})["x"]["change"] is None
    assert UserSample(np.empty(0, np.int64)).intervals({"x": np.empty(0)}) == {"x": None}
    with pytest.raises(ValueError, match="2 values and 3 queries"):
        few.estimates([1.0, 2.0])


def test_a_share_of_nothing_has_no_interval() -> None:
    sample = UserSample(np.arange(20))
    part = np.linspace(0, 0.04, 20)
    with np.errstate(all="raise"):
        assert sample.share(part, np.zeros(20)) is None
    assert sample.share(part, np.full(20, -0.1)) is None
    # A whole whose sum is below one is a whole.
    low, high = sample.share(part, np.full(20, 0.04)) or (math.nan, math.nan)
    assert low < 0.5 < high
    few = MIN_USERS - 1
    assert UserSample(np.arange(few)).share(part[:few], np.full(few, 0.04)) is None
