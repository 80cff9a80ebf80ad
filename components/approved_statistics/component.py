"""ApprovedStatistics: keeps the statistics of a run that passed AnomalyGate.

The component follows the gate, so later data is never compared with refused data: otherwise the same data
would pass the second time. `@component` reads annotations, so this module has no postponed evaluation.
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
    """Copies train's statistics, with the data set's name and the settings that shape its windows.

    Vertex AI finds the latest artifact by type alone, so no other component has an output of this type.

    Args:
      examples: the windows, which record their data set.
      statistics: the statistics of the windows.
      approved: receives train's statistics.
      made_with: the settings that shape a window, as JSON.
      source_digest: digest of the sources, so that edited code runs again.
    """
    del source_digest
    train = stats_artifact_utils.load_statistics(statistics, "train").proto().datasets[0]
    kept.write(approved, train, read_facts(examples).dataset, json.loads(made_with))
