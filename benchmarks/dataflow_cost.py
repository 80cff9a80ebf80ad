r"""Estimate of time and cost of Yambda-5B's data plane on Dataflow, from rates measured on one machine.

    python -m benchmarks.dataflow_cost --windows 300000 --statistics 200000 --transform 100000 \\
        --shuffled-bytes 30 --written-bytes 9 --positions 50000

Rates are events per second and core, as `benchmarks.data_plane` prints them for its 46.5 million events
(events / seconds / cores). docs/decisions/0007-yambda-5b-on-dataflow.md gives formulas and prices.
"""

from __future__ import annotations

import argparse
import dataclasses

EVENTS, USERS, ITEMS = 4_650_000_000, 1_000_000, 9_400_000


@dataclasses.dataclass(frozen=True)
class Prices:
    """Prices of batch workers in us-central1, in US dollars."""

    vcpu_hour: float = 0.056
    memory_gb_hour: float = 0.003557
    disk_gb_hour: float = 0.000054
    shuffle_gb: float = 0.011


@dataclasses.dataclass(frozen=True)
class Cluster:
    """Cluster of equal workers; `efficiency` is the rate of a vCPU, waiting included, relative to a measured
    core.
    """

    workers: int = 40
    vcpus: int = 4
    memory_gb: float = 16
    disk_gb: float = 25
    efficiency: float = 0.5
    # Time to start and stop the workers of one job.
    start_hours: float = 0.1


@dataclasses.dataclass(frozen=True)
class Job:
    """Estimate for one component's job: hours and dollars, without shuffle."""

    hours: float
    dollars: float


def job(events: float, rate: float, cluster: Cluster = Cluster(), prices: Prices = Prices()) -> Job:
    """Estimates a job; `rate` is events per second and measured core."""
    vcpus = cluster.workers * cluster.vcpus
    hours = events / (rate * cluster.efficiency * vcpus) / 3_600 + cluster.start_hours
    hourly = vcpus * prices.vcpu_hour + cluster.workers * (
        cluster.memory_gb * prices.memory_gb_hour + cluster.disk_gb * prices.disk_gb_hour
    )
    return Job(hours, hours * hourly)


def shuffle_dollars(gigabytes: float, prices: Prices = Prices()) -> float:
    """Computes the price of a shuffle: the first 250 GB are billed at 25%, the next 4,870 GB at 50%, the rest
    in full.
    """
    first = min(gigabytes, 250)
    next_ = min(max(gigabytes - 250, 0), 4_870)
    rest = max(gigabytes - 5_120, 0)
    return (0.25 * first + 0.5 * next_ + rest) * prices.shuffle_gb


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    for name in ("windows", "statistics", "transform"):
        parser.add_argument(f"--{name}", type=float, required=True, help="events per second and core")
    parser.add_argument("--shuffled-bytes", type=float, required=True, help="shuffled bytes per event")
    parser.add_argument(
        "--written-bytes", type=float, required=True, help="bytes of Examples on disk per event"
    )
    parser.add_argument("--positions", type=float, help="loss positions per second of the trainer")
    parser.add_argument("--workers", type=int, default=Cluster.workers)
    options = parser.parse_args()
    cluster = Cluster(workers=options.workers)
    hours = dollars = 0.0
    print(f"{cluster.workers} workers of {cluster.vcpus} vCPUs and {cluster.memory_gb:g} GB")
    for name in ("windows", "statistics", "transform"):
        done = job(EVENTS, getattr(options, name), cluster)
        hours, dollars = hours + done.hours, dollars + done.dollars
        print(f"{name:<12} {done.hours:6.2f} h  ${done.dollars:8.2f}")
    # Shuffled bytes count twice: they are written and read.
    shuffled = 2 * EVENTS * options.shuffled_bytes / 1e9
    dollars += shuffle_dollars(shuffled)
    print(f"{'shuffle':<12} {shuffled:6,.0f} GB ${shuffle_dollars(shuffled):8.2f}")
    print(f"{'total':<12} {hours:6.2f} h  ${dollars:8.2f}")
    print(f"Examples     {EVENTS * options.written_bytes / 1e9:6,.0f} GB")
    if options.positions:
        print(f"one epoch    {EVENTS / options.positions / 3_600:6.1f} h on the measured machine")


if __name__ == "__main__":
    main()
