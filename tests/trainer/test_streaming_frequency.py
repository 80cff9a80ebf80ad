from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf

from benchmarks import streaming_frequency as simulation
from two_tower.trainer.loss.streaming_frequency import StreamingFrequency

ITEMS = 40
# Ids over the whole int64 range, as in data sets.
IDS = np.random.default_rng(1).integers(0, 2**62, ITEMS)
PROBABILITY = np.geomspace(0.9, 0.02, ITEMS)


def stream(steps: int, probability: np.ndarray = PROBABILITY, seed: int = 2) -> list[np.ndarray]:
    """Yields batches that hold each item with its probability, some of them several times."""
    draw = np.random.default_rng(seed)
    held = draw.random([steps, len(probability)]) < probability
    return [draw.permutation(np.repeat(IDS[row], draw.integers(1, 4, row.sum()))) for row in held]


def fed(frequency: StreamingFrequency, batches: list[np.ndarray]) -> StreamingFrequency:
    update = tf.function(frequency.update, input_signature=[tf.TensorSpec([None], tf.int64)])
    for batch in batches:
        update(tf.constant(batch))
    return frequency


def estimates(frequency: StreamingFrequency) -> np.ndarray:
    return frequency.probability(tf.constant(IDS)).numpy()


def one_by_one(
    batches: list[np.ndarray], learning_rate: float, initial_gap: float | None = None
) -> np.ndarray:
    """Follows algorithm 2 in plain Python, with a dictionary as a hash function without collisions.

    Args:
      initial_gap: the paper's initial B; None averages the first gaps, as StreamingFrequency does.
    """
    seen: dict[int, int] = {}
    gaps = dict.fromkeys(IDS.tolist(), 0)
    gap = dict.fromkeys(IDS.tolist(), initial_gap or 0.0)
    for step, batch in enumerate(batches, 1):
        for item in set(batch.tolist()):
            gaps[item] += 1
            weight = learning_rate if initial_gap else max(1 / gaps[item], learning_rate)
            gap[item] = (1 - weight) * gap[item] + weight * (step - seen.get(item, 0))
            seen[item] = step
    return np.array([1 / (gap[item] or len(batches) + 1) for item in IDS.tolist()])


def test_without_collisions_it_is_algorithm_2_step_by_step() -> None:
    frequency, batches = StreamingFrequency(1_000_003, 1, 0.05), stream(200)
    assert len(set(frequency._places(tf.constant(IDS)).numpy()[0])) == ITEMS
    expected = one_by_one(batches, 0.05)
    assert estimates(fed(frequency, batches)) == pytest.approx(expected, rel=1e-5)


def test_it_finds_the_probability_that_a_batch_holds_an_item() -> None:
    """Checks batches with duplicates: the estimate is a probability, not a count."""
    frequency = fed(StreamingFrequency(100_003, 2, 0.02), stream(4_000))
    # A geometric gap deviates by about its mean, and its moving average by sqrt(alpha / 2) of that.
    assert estimates(frequency) == pytest.approx(PROBABILITY, rel=4 * (0.02 / 2) ** 0.5)
    assert np.log(estimates(frequency) / PROBABILITY).mean() == pytest.approx(0, abs=0.05)


def test_it_is_right_from_the_first_steps() -> None:
    """Compares the estimates after few steps with the truth, and with the paper's initial B of 100."""
    frequency = StreamingFrequency(100_003, 2)
    every, second = tf.constant([7, 7, 8], tf.int64), tf.constant([7], tf.int64)
    for step in range(1, 17):
        frequency.update(second if step % 2 else every)
        # Item 7 is in every batch, item 8 in every second one.
        known = frequency.probability(every).numpy()
        assert known[0] == 1 and known[2] == pytest.approx(1 / 2)

    def error(found: np.ndarray, held: np.ndarray) -> float:
        return float(np.abs(np.log(found / PROBABILITY))[held].mean())

    errors = []
    for seed in range(10):
        batches = stream(32, seed=seed)
        held = np.isin(IDS, np.concatenate(batches))
        found = estimates(fed(StreamingFrequency(100_003, 2), batches))
        errors.append((error(found, held), error(one_by_one(batches, 0.01, 100.0), held)))
    ours, paper = np.mean(errors, axis=0)
    # Of 32 batches an item with probability p is in 32 p, whose log deviates by about 1 / sqrt(32 p).
    assert ours < 0.5 and paper > 2, (ours, paper)


def test_it_follows_a_distribution_that_changes() -> None:
    frequency = fed(StreamingFrequency(100_003, 1, 0.05), stream(1_000))
    fed(frequency, stream(2_000, PROBABILITY[::-1], seed=3))
    error = np.abs(estimates(frequency) - PROBABILITY[::-1]).mean()
    assert error < 0.2 * np.abs(PROBABILITY - PROBABILITY[::-1]).mean()


def test_an_item_counts_once_a_step_and_where_two_share_a_bucket_the_bucket_does() -> None:
    frequency = StreamingFrequency(1, 1, 0.5)  # all items in one bucket
    frequency.update(tf.constant([3, 3, 4], tf.int64))
    assert frequency.gap.numpy().tolist() == [1]
    frequency.update(tf.zeros([0], tf.int64))
    frequency.update(tf.constant([5], tf.int64))
    assert frequency.gap.numpy().tolist() == [(1 + 2) / 2]
    frequency.update(tf.constant([5], tf.int64))
    # From the second gap on the learning rate of 1/2 is the weight.
    assert frequency.gap.numpy().tolist() == [0.5 * 1.5 + 0.5 * 1]
    assert int(frequency.step) == 4 and frequency.gaps.numpy().tolist() == [3]


def test_it_knows_how_many_labels_the_batches_had() -> None:
    """Checks the mean of the first batches, and the moving average of all."""
    frequency = StreamingFrequency(16, 1, 0.1)
    for size in (3, 5, 10):
        frequency.update(tf.range(size, dtype=tf.int64))
    assert float(frequency.labels) == pytest.approx(6)
    for _ in range(200):
        frequency.update(tf.range(8, dtype=tf.int64))
    frequency.update(tf.zeros([0], tf.int64))
    assert float(frequency.labels) == pytest.approx(0.9 * 8)


def test_an_unseen_item_is_at_most_as_probable_as_one_of_the_next_batch() -> None:
    frequency = fed(StreamingFrequency(100_003, 3, 0.1), stream(100))
    ids = tf.constant([123, 2**62 + 5], tf.int64)
    assert frequency.probability(ids).numpy() == pytest.approx([1 / 101, 1 / 101])
    frequency.update(ids[:1])
    # Its first gap is the number of steps so far; the other item's has no end yet.
    assert frequency.probability(ids).numpy() == pytest.approx([1 / 101, 1 / 102])


def test_several_hash_functions_lower_the_error_of_collisions() -> None:
    """Compares at the same, small total number of buckets."""
    errors = []
    for hashes in (1, 2, 4):
        frequency = fed(StreamingFrequency(120 // hashes, hashes, 0.01), stream(3_000))
        errors.append(np.abs(estimates(frequency) - PROBABILITY).mean())
    assert errors[1] < 0.8 * errors[0] and errors[2] < 0.8 * errors[0]


def test_collisions_only_ever_raise_an_estimate() -> None:
    """Checks the reason for the largest gap of all hash functions."""
    alone = estimates(fed(StreamingFrequency(1_000_003, 1, 0.01), stream(3_000)))
    crowded = estimates(fed(StreamingFrequency(30, 1, 0.01), stream(3_000)))
    assert (crowded > 0.8 * alone).all() and (crowded > 2 * alone).any()


def test_state_is_saved_and_goes_on_where_it_was(tmp_path: Path) -> None:
    batches = stream(120)
    whole = fed(StreamingFrequency(100, 2), batches)
    begun = fed(StreamingFrequency(100, 2), batches[:50])
    path = tf.train.Checkpoint(frequency=begun).save(str(tmp_path / "checkpoint"))
    restored = StreamingFrequency(100, 2)
    tf.train.Checkpoint(frequency=restored).restore(path).assert_consumed()
    assert int(restored.step) == 50
    assert estimates(fed(restored, batches[50:])).tolist() == estimates(whole).tolist()


def test_it_is_state_and_not_trained() -> None:
    frequency = StreamingFrequency(100, 2)
    assert len(frequency.variables) == 5 and not frequency.trainable_variables


def test_the_benchmarks_batches_hold_each_item_with_its_probability() -> None:
    probability, _ = simulation.probabilities()
    drawn = simulation.batches(probability, 4_000, np.random.default_rng(3))
    assert all(len(set(batch)) == simulation.BATCH for batch in drawn[:200].tolist())
    share = np.bincount(drawn.ravel(), minlength=simulation.ITEMS) / len(drawn)
    assert share == pytest.approx(probability, abs=5 * (0.25 / len(drawn)) ** 0.5)
    assert np.abs(share - probability).mean() < 0.005


def test_with_more_buckets_every_estimate_and_the_steps_go_on() -> None:
    """Checks items without batches too; items that shared a bucket separate."""
    crowded, batches = fed(StreamingFrequency(16, 2, 0.05), stream(300)), stream(700, seed=3)
    before, known = estimates(crowded), tf.constant(np.append(IDS, np.arange(50)))
    grown = StreamingFrequency(64, 2, 0.05)
    states = crowded.step, crowded.labels, crowded.last_seen, crowded.gap, crowded.gaps
    state = [one.numpy() for one in states]
    assert grown.go_on(*state)
    assert grown.probability(known).numpy().tolist() == crowded.probability(known).numpy().tolist()
    assert int(grown.step) == 300 and float(grown.labels) == float(crowded.labels) > 1
    error = {name: np.abs(estimates(fed(one, batches)) - PROBABILITY).mean()
             for name, one in (("crowded", crowded), ("grown", grown))}  # fmt: skip
    assert error["grown"] < 0.7 * error["crowded"] and not np.allclose(estimates(grown), before)

    fewer = StreamingFrequency(8, 2, 0.05)
    assert not fewer.go_on(*state)
    assert int(fewer.step) == 0 and not fewer.gaps.numpy().any()
