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

from two_tower.base import pointers
from two_tower.components.approved_statistics import approved as kept
from two_tower.components.interaction_example_gen.facts import read_facts


@component
def ApprovedStatistics(
    examples: InputArtifact[Examples],
    statistics: InputArtifact[ExampleStatistics],
    approved: OutputArtifact[Statistics],
    made_with: Parameter[str],
    root: Parameter[str],
    run: Parameter[str],
    source_digest: Parameter[str],
) -> None:
    """Copies train's statistics, with the data set's name and the settings that shape its windows.

    The pointer under the root then names them, see `base/pointers.py`.

    Args:
      examples: the windows, which record their data set.
      statistics: the statistics of the windows.
      approved: receives train's statistics.
      made_with: the settings that shape a window, as JSON.
      root: a run's output directory, or a job's root.
      run: key of the job's run, see InputVerifier; "" for runs on this machine.
      source_digest: digest of the sources, so that edited code runs again.
    """
    del source_digest
    train = stats_artifact_utils.load_statistics(statistics, "train").proto().datasets[0]
    pointer = kept.write(approved, train, read_facts(examples).dataset, json.loads(made_with), run)
    pointers.point(root, pointers.APPROVED, pointer)
