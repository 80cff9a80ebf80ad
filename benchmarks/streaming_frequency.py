"""Benchmark of streaming frequency estimation: the simulation of the 2019 paper (section 6.1) and its claims.

    python -m benchmarks.streaming_frequency [--plot FILE] [--repeats 3]

There are 1,000 items. A batch holds 128 distinct items, item i with probability 128 q_i. q_i is proportional
to i^2, and from step 10,000 of 20,000 on to (999 - i)^2. The error is the paper's: the sum
of |p^ - p| over all items, divided by 2 x 128. Learning rates are compared with one hash function of 5,000
buckets, numbers of hash functions with 5,000 buckets in total. The paper starts B at 100; here the first gaps
are averaged. Prints the errors as Markdown and whether each
claim holds. --plot draws the curves (SVG, PNG or PDF). It takes about a minute.

The paper draws its conclusions from figures by eye. The measures of adaptation and variance are ours, and
were changed after a first look. The error soon after the switch favours a rate that never learnt the old
frequencies. A deviation over time mistakes drift for variance.
"""

from __future__ import annotations

import argparse
import dataclasses
import os
from collections.abc import Mapping
from typing import Any

import numpy as np

os.environ.setdefault("TF_USE_LEGACY_KERAS", "1")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

ITEMS, BATCH, STEPS, SWITCH, EVERY = 1_000, 128, 20_000, 10_000, 100
# The paper's initial B, of which the initial error follows.
BUCKETS, INITIAL_GAP = 5_000, 100.0
LEARNING_RATES = (0.1, 0.03, 0.01, 0.003, 0.001)
HASHES = (1, 2, 4, 8)
# Almost no collisions: half a pair of items is expected to share a bucket.
MANY_BUCKETS = 1_000_003


@dataclasses.dataclass(frozen=True)
class Setting:
    """Setting of an estimator; `buckets` counts the buckets of all hash functions."""

    learning_rate: float
    hashes: int = 1
    buckets: int = BUCKETS


# The paper does not give the learning rate of its second figure; .01 is that of its models.
BY_HASHES = {hashes: Setting(0.01, hashes) for hashes in HASHES}
HALF = Setting(0.01, 4, BUCKETS // 2)
WITHOUT_COLLISIONS = {rate: Setting(rate, 1, MANY_BUCKETS) for rate in LEARNING_RATES}
SETTINGS = [
    *(Setting(rate) for rate in LEARNING_RATES),
    *BY_HASHES.values(),
    HALF,
    *WITHOUT_COLLISIONS.values(),
]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--plot", metavar="FILE", help="plot the error curves to FILE")
    parser.add_argument("--repeats", type=int, default=3, help="number of streams for the average, 2 or more")
    options = parser.parse_args()
    if options.repeats < 2:
        parser.error("--repeats takes 2 or more: variances are between streams.")
    estimates = [simulate(seed) for seed in range(options.repeats)]
    curves = {
        setting: np.mean([error(of_setting[setting]) for of_setting in estimates], axis=0)
        for setting in dict.fromkeys(SETTINGS)
    }
    print_errors(curves)
    print()
    for claim, holds, figures in check_claims(curves, estimates):
        print(f"- {'holds' if holds else 'does not hold'}: {claim} ({figures})")
    if options.plot:
        draw(curves, options.plot)


def probabilities() -> tuple[np.ndarray, np.ndarray]:
    """Returns the probability of a batch to hold each item, before and after the switch, [items]."""
    item = np.arange(ITEMS)
    before, after = item.astype(float) ** 2, (ITEMS - 1.0 - item) ** 2
    return BATCH * before / before.sum(), BATCH * after / after.sum()


def batches(probability: np.ndarray, count: int, draw: np.random.Generator) -> np.ndarray:
    """Draws batches that hold item i with exactly its probability, [count, BATCH].

    Systematic sampling of the items in random order: each item has a segment as long as its probability. All
    whole numbers plus a common random offset select the segments that they hit.
    """
    order = draw.permuted(np.tile(np.arange(ITEMS), (count, 1)), axis=1)
    ends = np.cumsum(probability[order], axis=1)
    ends[:, -1] = BATCH
    points = draw.random([count, 1]) + np.arange(BATCH)
    # One search over all batches: each batch is shifted to its own range.
    moved = np.arange(count)[:, np.newaxis] * 2.0 * BATCH
    place = np.searchsorted((ends + moved).ravel(), (points + moved).ravel(), side="right")
    return order.ravel()[place].reshape(count, BATCH)


def simulate(seed: int) -> dict[Setting, np.ndarray]:
    """Simulates each setting's estimated probabilities after every EVERY steps, [STEPS / EVERY, items]."""
    import tensorflow as tf

    from two_tower.trainer.loss.streaming_frequency import StreamingFrequency

    estimators = {
        setting: StreamingFrequency(
            setting.buckets // setting.hashes, setting.hashes, setting.learning_rate, seed
        )
        for setting in dict.fromkeys(SETTINGS)
    }

    @tf.function
    def advance(stream: tf.Tensor) -> list[tf.Tensor]:
        for batch in stream:
            for estimator in estimators.values():
                estimator.update(batch)
        return [estimator.probability(tf.range(ITEMS, dtype=tf.int64)) for estimator in estimators.values()]

    draw = np.random.default_rng(seed)
    parts = []
    for probability in probabilities():
        for _ in range(SWITCH // EVERY):
            parts.append(advance(tf.constant(batches(probability, EVERY, draw), tf.int64)))
    return {
        setting: np.stack([part[number].numpy() for part in parts])
        for number, setting in enumerate(estimators)
    }


def true_probabilities() -> np.ndarray:
    """Returns the true probabilities at the steps of the estimates, [STEPS / EVERY, items]."""
    return np.repeat(np.stack(probabilities()), SWITCH // EVERY, axis=0)


def error(estimates: np.ndarray) -> np.ndarray:
    """Computes the paper's error of estimates [steps, items]."""
    return np.abs(estimates - true_probabilities()).sum(axis=1) / (2 * BATCH)


# Rows of the estimates: the last 1,000 steps of each half, and the first 1,000 after the switch.
BEFORE = slice((SWITCH - 1_000) // EVERY, SWITCH // EVERY)
SWITCHED = slice(SWITCH // EVERY, (SWITCH + 1_000) // EVERY)
END = slice((STEPS - 1_000) // EVERY, STEPS // EVERY)


def steps_to_halve(estimates: np.ndarray) -> float:
    """Returns the steps after the switch until the error of estimates [steps, items] has halved."""
    errors = np.abs(estimates[SWITCH // EVERY - 1 :] - probabilities()[1]).sum(axis=1)
    half = errors < errors[0] / 2
    return EVERY * float(half.argmax()) if half.any() else np.inf


def print_errors(curves: dict[Setting, np.ndarray]) -> None:
    print("| learning rate | hashes | total buckets | 9,000–10,000 | 10,000–11,000 | 19,000–20,000 |")
    print("|---|---|---|---|---|---|")
    for setting, curve in curves.items():
        errors = " | ".join(f"{curve[part].mean():.4f}" for part in (BEFORE, SWITCHED, END))
        print(f"| {setting.learning_rate:g} | {setting.hashes} | {setting.buckets:,} | {errors} |")


def check_claims(
    curves: dict[Setting, np.ndarray], estimates: list[dict[Setting, np.ndarray]]
) -> list[tuple[str, bool, str]]:
    """Returns each claim, whether it holds, and the figures behind it."""
    rates = {rate: curves[Setting(rate)] for rate in LEARNING_RATES}
    hashes = {count: curves[setting] for count, setting in BY_HASHES.items()}
    found = []

    def judge(claim: str, values: Mapping[Any, float], holds: bool) -> None:
        found.append((claim, holds, ", ".join(f"{key}: {value:,.4g}" for key, value in values.items())))

    def falling(values: Mapping[Any, float]) -> bool:
        return bool((np.diff(list(values.values())) < 0).all())

    start = error(np.full([STEPS // EVERY, ITEMS], 1 / INITIAL_GAP))[0]
    left = {rate: curve[BEFORE].mean() / start for rate, curve in rates.items()}
    judge(
        "10,000 steps suffice for every learning rate: error before the switch below half the initial error",
        left,
        max(left.values()) < 0.5,
    )
    halved = {rate: float(np.mean([steps_to_halve(of[Setting(rate)]) for of in estimates])) for rate in rates}
    judge(
        "a higher learning rate adapts faster to a switched distribution: steps until the error has halved",
        halved,
        falling({rate: -steps for rate, steps in halved.items()}),
    )
    noise = {
        rate: float(np.std([of[setting][BEFORE] for of in estimates], axis=0, ddof=1).mean())
        for rate, setting in WITHOUT_COLLISIONS.items()
    }
    judge(
        "a higher learning rate has a higher remaining variance: deviation of an estimate between streams, "
        "steps 9,000 to 10,000, without collisions",
        noise,
        falling(noise),
    )
    # Only items that occur often enough to be independent of the initial B.
    seen = probabilities()[0] > 0.1
    gaps = np.mean(
        [1 / of[WITHOUT_COLLISIONS[0.01]][50 : SWITCH // EVERY, seen] for of in estimates], axis=(0, 1)
    )
    bias = float((gaps * probabilities()[0][seen] - 1).mean())
    judge("without collisions B is unbiased: mean of B p - 1", {0.01: bias}, abs(bias) < 0.01)
    over = {
        count: float(
            np.mean(
                [(of[BY_HASHES[count]] - of[WITHOUT_COLLISIONS[0.01]])[BEFORE].mean() for of in estimates]
            )
        )
        for count in HASHES
    }
    judge(
        "collisions overestimate frequencies, less with more hash functions: mean p^ - p^ without collisions",
        over,
        min(over.values()) > 0 and falling({count: over[count] for count in HASHES[:3]}),
    )
    for name, part in (("before the switch", BEFORE), ("at the end", END)):
        levels = {count: curve[part].mean() for count, curve in hashes.items()}
        judge(
            f"with equal buckets in total, 2, 4 and 8 hash functions have a lower error than one, {name}",
            levels,
            max(levels[count] for count in HASHES[1:]) < levels[1],
        )
    fewer = {1: hashes[1][BEFORE].mean(), HALF.hashes: curves[HALF][BEFORE].mean()}
    judge("4 hash functions with half the buckets have a lower error than one", fewer, fewer[4] < fewer[1])
    return found


def draw(curves: dict[Setting, np.ndarray], path: str) -> None:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    steps = EVERY * (1 + np.arange(STEPS // EVERY))
    figure, (by_rate, by_hashes) = pyplot.subplots(1, 2, figsize=(10, 4), sharey=True, layout="constrained")
    for rate in LEARNING_RATES:
        by_rate.plot(steps, curves[Setting(rate)], label=f"learning rate {rate:g}")
    by_rate.set(title=f"one hash function, {BUCKETS:,} buckets", xlabel="step", ylabel="error")
    for count, setting in BY_HASHES.items():
        by_hashes.plot(steps, curves[setting], label=f"{count} × {setting.buckets // count:,} buckets")
    by_hashes.set(title="learning rate 0.01", xlabel="step", yscale="log")
    for axes in (by_rate, by_hashes):
        axes.axvline(SWITCH, color="grey", linewidth=0.5)
        axes.legend()
    figure.savefig(path)
    print(f"\nPlot: {path}")


if __name__ == "__main__":
    main()
