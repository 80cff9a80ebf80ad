"""Report of the gate: checks, findings and remedies."""

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
    """Report of the gate.

    Attributes:
      checked: the checks, in words.
      anomalies: mismatches between data and schema, in words.
      comparisons: verdicts on drift and skew.
      notes: checks that were left out, and the reasons.
    """

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
        """Reads the validators' outputs and judges them.

        Args:
          tables: ExampleValidator's folder and the splits' statistics, by table.
          comparable: the compared statistics, by split: `before`, `now`, `train` and `test`.
          no_drift_reason: the reason why there is no previous run to compare with, or "".
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
            notes.append(f"Drift is not checked: {DRIFT.setting} is 0.")
        elif no_drift_reason:
            notes.append(f"Drift is not checked: {no_drift_reason}.")
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
            notes.append(f"Skew is not checked: {SKEW.setting} is 0.")
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
        """Comparisons that stop the run."""
        return [one for one in self.comparisons if one.verdict == EXCEEDS]

    def raise_if_stopped(self) -> None:
        """Raises UserError with all anomalies and exceeded limits, and their remedies."""
        if self.anomalies or self.exceeding:
            raise UserError("\n".join(self._complaint()))

    def _complaint(self) -> Iterator[str]:
        if self.anomalies:
            yield "The data does not match its schema (schema/interactions.pbtxt, schema/catalog.pbtxt):"
            yield from (f"  {line}" for line in self.anomalies)
        if self.exceeding:
            yield "The distribution of the data has changed:"
            yield from (f"  {one.line}" for one in self.exceeding)
        if self.anomalies:
            yield (
                "Repair the data and ingest it again, or correct the schema "
                "(schema/interactions.pbtxt, schema/catalog.pbtxt)."
            )
        for sides in (DRIFT, SKEW):
            mine = [one for one in self.exceeding if one.kind == sides.kind]
            if mine:
                yield (
                    f"If the {sides.kind} is an error in the data, repair it and ingest it again. If the "
                    f"data is right, raise {sides.setting}, or turn it off with --set {sides.setting}=0"
                    + (" for one run. Later runs are compared with that one." if sides is DRIFT else ".")
                )

    def lines(self) -> list[str]:
        """Returns the checks and findings as lines of text."""
        found = [f"  {line}: holds" for line in self.checked]
        if self.anomalies:
            found = [f"  {line}" for line in (*self.checked, *self.anomalies)]
        found += [f"  {one.line}: {one.verdict}" for one in self.comparisons]
        return [*found, *(f"  {note}" for note in self.notes)]

    def write(self, folder: str) -> None:
        """Writes the report as JSON into a folder."""
        fileio.makedirs(folder)
        with fileio.open(os.path.join(folder, FILE), "w") as file:
            file.write(json.dumps(dataclasses.asdict(self), indent=2))


def _of_pair(uri: str, pair: tuple[str, str]) -> Anomalies:
    return anomalies.read(os.path.join(uri, f"SplitPair-{'_'.join(pair)}"))


def read(folder: str) -> Report:
    """Reads the report that `Report.write` wrote."""
    with fileio.open(os.path.join(folder, FILE)) as file:
        content = json.loads(file.read())
    content["comparisons"] = [Comparison(**one) for one in content["comparisons"]]
    return Report(**content)
