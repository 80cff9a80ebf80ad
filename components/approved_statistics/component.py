"""ApprovedStatistics: keeps the statistics of a run that AnomalyGate let pass.

It comes after the gate, so that data which was refused is nothing that later data is compared with: else the
same data would pass the second time. (`@component` reads annotations: no postponed evaluation here.)
"""

import json

from tfx.components.statistics_gen import stats_artifact_utils
from tfx.dsl.component.experimental.annotations import InputArtifact, OutputArtifact, Parameter
from tfx.dsl.component.experimental.decorators import component
from tfx.types.experimental.simple_artifacts import Statistics
from tfx.types.standard_artifacts import Examples, ExampleStatistics

from two_tower.components.approved_statistics import approved as kept
from two_tower.components.interaction_example_gen.facts import read_facts


@component
def ApprovedStatistics(
    examples: InputArtifact[Examples],
    statistics: InputArtifact[ExampleStatistics],
    approved: OutputArtifact[Statistics],
    made_with: Parameter[str],
    source_digest: Parameter[str],
) -> None:
    """Copies train's statistics, with the data set's name and the settings that shaped its windows.

    The artifact is of a type that no other component here has: Vertex AI finds the latest one by type alone.
    `made_with` is JSON; `source_digest` is for the cache alone: edited code runs again.
    """
    del source_digest
    train = stats_artifact_utils.load_statistics(statistics, "train").proto().datasets[0]
    kept.write(approved, train, read_facts(examples).dataset, json.loads(made_with))
