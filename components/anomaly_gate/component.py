"""AnomalyGate: ExampleValidator records anomalies, this component stops the run on them.

(`@component` reads annotations: no postponed evaluation in this module.)
"""

from tfx.dsl.component.experimental.annotations import InputArtifact, Parameter
from tfx.dsl.component.experimental.decorators import component
from tfx.types import artifact_utils
from tfx.types.standard_artifacts import ExampleAnomalies

from components.anomaly_gate import anomalies
from pipeline.errors import UserError


@component
def AnomalyGate(
    interactions: InputArtifact[ExampleAnomalies],
    catalog: InputArtifact[ExampleAnomalies],
    source_digest: Parameter[str],
) -> None:
    """Raises UserError with every anomaly of the interactions and of the catalog, by feature.

    `source_digest` is for the cache alone: edited code runs again.
    """
    del source_digest
    found = [
        f"{name} / {line}"
        for name, artifact in (("interactions", interactions), ("catalog", catalog))
        for line in anomalies.describe(
            artifact.uri,
            artifact_utils.decode_split_names(artifact.split_names),
        )
    ]
    if found:
        raise UserError(
            "The data does not match its schema (schema/interactions.pbtxt, schema/catalog.pbtxt):\n  "
            + "\n  ".join(found)
            + "\nMend the data and ingest it again, or change the schema if it is the schema that is wrong."
        )
