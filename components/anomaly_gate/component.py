"""AnomalyGate: stops the run on anomalies, which the validators only record.

`@component` reads annotations, so this module has no postponed evaluation.
"""

import json

from tfx.components.statistics_gen import stats_artifact_utils
from tfx.dsl.component.experimental.annotations import InputArtifact, OutputArtifact, Parameter
from tfx.dsl.component.experimental.decorators import component
from tfx.types import artifact_utils
from tfx.types.standard_artifacts import ExampleAnomalies, ExampleStatistics

from two_tower.components.anomaly_gate import verdict
from two_tower.components.anomaly_gate.settings import ValidationConfig
from two_tower.components.comparable_statistics.distributions import NO_DRIFT_REASON
from two_tower.components.per_run_settings import with_submitted
from two_tower.data_directory.feature_columns import ResolvedFeatures


@component
def AnomalyGate(
    interactions: InputArtifact[ExampleAnomalies],
    catalog: InputArtifact[ExampleAnomalies],
    statistics: InputArtifact[ExampleStatistics],
    catalog_statistics: InputArtifact[ExampleStatistics],
    comparable: InputArtifact[ExampleStatistics],
    drift: InputArtifact[ExampleAnomalies],
    skew: InputArtifact[ExampleAnomalies],
    report: OutputArtifact[ExampleAnomalies],
    validation: Parameter[str],
    features: Parameter[str],
    source_digest: Parameter[str],
    validation_max_drift: Parameter[float] = None,
    validation_max_skew: Parameter[float] = None,
) -> None:
    """Raises UserError with all complaints, or writes the checks to `report`.

    Args:
      interactions, catalog: ExampleValidator's anomalies of the windows and of the items.
      statistics, catalog_statistics: their statistics, which name the splits.
      comparable: the statistics that the DistributionValidators compared (see ComparableStatistics).
      drift, skew: the DistributionValidators' measurements.
      report: receives `report.json`, see `verdict.Report`.
      validation: ValidationConfig as JSON.
      features: ResolvedFeatures as JSON.
      source_digest: digest of the sources, so that edited code runs again.
      validation_max_drift, validation_max_skew: limits of the job's submission, if there is one.
    """
    del source_digest
    submitted = {"validation_max_drift": validation_max_drift, "validation_max_skew": validation_max_skew}

    def of_splits(artifact, names=None):  # type: ignore[no-untyped-def]
        return {
            split: stats_artifact_utils.load_statistics(artifact, split).proto().datasets[0]
            for split in names or artifact_utils.decode_split_names(artifact.split_names)
        }

    found = verdict.Report.of(
        tables={
            "interactions": (interactions.uri, of_splits(statistics)),
            "catalog": (catalog.uri, of_splits(catalog_statistics)),
        },
        comparable=of_splits(comparable),
        no_drift_reason=comparable.get_string_custom_property(NO_DRIFT_REASON),
        drift_uri=drift.uri,
        skew_uri=skew.uri,
        validation=with_submitted(ValidationConfig(**json.loads(validation)), "validation", submitted),
        resolved=ResolvedFeatures.from_json(features),
    )
    found.raise_if_stopped()
    report.split_names = artifact_utils.encode_split_names([])
    found.write(report.uri)
