"""The gate's report: what was checked, what was found, and what to do about it."""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Iterator, Mapping

from tensorflow_metadata.proto.v0.anomalies_pb2 import Anomalies
from tensorflow_metadata.proto.v0.statistics_pb2 import DatasetFeatureStatistics
from tfx.dsl.io import fileio

from two_tower.base.errors import UserError
from two_tower.components.anomaly_gate import anomalies, comparisons
from two_tower.components.anomaly_gate.comparisons import DRIFT, EXCEEDS, SKEW, Comparison
from two_tower.components.anomaly_gate.settings import ValidationConfig
from two_tower.components.comparable_statistics.distributions import (
    DRIFT_PAIR,
    SKEW_PAIR,
    compared_for_drift,
    compared_for_skew,
)
from two_tower.data_directory.feature_columns import ResolvedFeatures

FILE = "report.json"


@dataclasses.dataclass(frozen=True)
class Report:
    """`checked`: what was looked at, in words. `anomalies`: where the data does not match its schema."""

    checked: list[str]
    anomalies: list[str]
    comparisons: list[Comparison]
    notes: list[str]

    @classmethod
    def of(
        cls,
        tables: Mapping[str, tuple[str, Mapping[str, DatasetFeatureStatistics]]],
        comparable: Mapping[str, DatasetFeatureStatistics],
        no_drift_reason: str,
        drift_uri: str,
        skew_uri: str,
        validation: ValidationConfig,
        resolved: ResolvedFeatures,
    ) -> Report:
        """Reads what the validators wrote.

        Args:
          tables: ExampleValidator's folder and the splits' statistics, by table.
          comparable: what was compared: splits `before` and `now`, `train` and `test`.
          no_drift_reason: why there is no run to compare with, or "".
          drift_uri, skew_uri: the DistributionValidators' folders.
          validation: the limits.
          resolved: the features.
        """
        checked: list[str] = []
        found: list[str] = []
        notes: list[str] = []
        for table, (uri, splits) in tables.items():
            for split, statistics in splits.items():
                noun = "windows" if table == "interactions" else "items"
                checked.append(
                    f"{table} / {split}: {statistics.num_examples:,} {noun}, "
                    f"{len(statistics.features)} features, against the schema"
                )
            found.extend(f"{table} / {line}" for line in anomalies.describe(uri, splits))
        judged: list[Comparison] = []
        if not validation.max_drift:
            notes.append(f"Drift is not looked for: {DRIFT.setting} is 0.")
        elif no_drift_reason:
            notes.append(f"Drift is not looked for: {no_drift_reason}.")
        else:
            judged += comparisons.judge(
                DRIFT,
                _of_pair(drift_uri, DRIFT_PAIR),
                comparable["before"],
                comparable["now"],
                compared_for_drift(resolved),
                validation.max_drift,
            )
        if not validation.max_skew:
            notes.append(f"Skew is not looked for: {SKEW.setting} is 0.")
        judged += comparisons.judge(
            SKEW,
            _of_pair(skew_uri, SKEW_PAIR),
            comparable["train"],
            comparable["test"],
            compared_for_skew(resolved),
            validation.max_skew,
        )
        return cls(checked, found, judged, notes)

    @property
    def exceeding(self) -> list[Comparison]:
        """The comparisons that stop a run."""
        return [one for one in self.comparisons if one.verdict == EXCEEDS]

    def raise_if_stopped(self) -> None:
        """Raises UserError if anything is wrong: all of it, and what to do."""
        if self.anomalies or self.exceeding:
            raise UserError("\n".join(self._complaint()))

    def _complaint(self) -> Iterator[str]:
        if self.anomalies:
            yield "The data does not match its schema (schema/interactions.pbtxt, schema/catalog.pbtxt):"
            yield from (f"  {line}" for line in self.anomalies)
        if self.exceeding:
            yield "The data is not distributed as it was:"
            yield from (f"  {one.line}" for one in self.exceeding)
        if self.anomalies:
            yield (
                "Mend the data and ingest it again, or change the schema if it is the schema that is wrong "
                "(schema/interactions.pbtxt, schema/catalog.pbtxt)."
            )
        for sides in (DRIFT, SKEW):
            mine = [one for one in self.exceeding if one.kind == sides.kind]
            if mine:
                yield (
                    f"If the {sides.kind} is a mistake in the data, mend it and ingest it again. If the data "
                    f"is right, raise {sides.setting}, or turn it off with --set {sides.setting}=0"
                    + (", for one run: later runs are compared with that one." if sides is DRIFT else ".")
                )

    def lines(self) -> list[str]:
        """What was checked and found, for a reader."""
        found = [f"  {line}: holds" for line in self.checked]
        if self.anomalies:
            found = [f"  {line}" for line in (*self.checked, *self.anomalies)]
        found += [f"  {one.line}: {one.verdict}" for one in self.comparisons]
        return [*found, *(f"  {note}" for note in self.notes)]

    def write(self, folder: str) -> None:
        """As JSON."""
        fileio.makedirs(folder)
        with fileio.open(os.path.join(folder, FILE), "w") as file:
            file.write(json.dumps(dataclasses.asdict(self), indent=2))


def _of_pair(uri: str, pair: tuple[str, str]) -> Anomalies:
    return anomalies.read(os.path.join(uri, f"SplitPair-{'_'.join(pair)}"))


def read(folder: str) -> Report:
    """The report that `Report.write` wrote."""
    with fileio.open(os.path.join(folder, FILE)) as file:
        content = json.loads(file.read())
    content["comparisons"] = [Comparison(**one) for one in content["comparisons"]]
    return Report(**content)
