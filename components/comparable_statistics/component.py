"""ComparableStatistics: writes the statistics that are compared, in common bins.

`@component` reads annotations, so this module has no postponed evaluation.
"""

import json

from tensorflow_metadata.proto.v0 import statistics_pb2
from tfx.components.statistics_gen import stats_artifact_utils
from tfx.dsl.component.experimental.annotations import InputArtifact, OutputArtifact, Parameter
from tfx.dsl.component.experimental.decorators import component
from tfx.dsl.io import fileio
from tfx.types import artifact_utils
from tfx.types.standard_artifacts import Examples, ExampleStatistics

from two_tower.base import pointers
from two_tower.components.approved_statistics import approved
from two_tower.components.comparable_statistics import distributions
from two_tower.components.comparable_statistics.distributions import DRIFT_PAIR, NO_DRIFT_REASON, SKEW_PAIR
from two_tower.components.interaction_example_gen.facts import read_facts
from two_tower.data_directory.feature_columns import ResolvedFeatures


@component
def ComparableStatistics(
    examples: InputArtifact[Examples],
    statistics: InputArtifact[ExampleStatistics],
    comparable: OutputArtifact[ExampleStatistics],
    features: Parameter[str],
    made_with: Parameter[str],
    latest_approved: Parameter[str],
    source_digest: Parameter[str],
) -> None:
    """Writes the splits `before` and `now` (train of the last approved run and of this run), `train`, `test`.

    Args:
      examples: the windows, which record their data set's name.
      statistics: the statistics of the windows.
      comparable: receives the statistics that TFX's DistributionValidator compares.
      features: ResolvedFeatures as JSON.
      made_with: the settings that shape a window, as JSON. Statistics with other settings, or of another data
        set, are no baseline; `now` then stands on both sides.
      latest_approved: text of the pointer to the statistics of the last run that passed the gate.
      source_digest: digest of the sources, so that edited code runs again.
    """
    del source_digest
    resolved = ResolvedFeatures.from_json(features)
    train, test = (
        stats_artifact_utils.load_statistics(statistics, split).proto().datasets[0]
        for split in ("train", "test")
    )
    facts = read_facts(examples)
    pointer = pointers.from_text(latest_approved)
    reason, before = approved.baseline_of(pointer, facts.dataset, json.loads(made_with))
    # In the other protocols a test window is a user's state before the label: it has no events of the test
    # period to tell from context.
    is_by_time = facts.protocol == "next_event"
    context = distributions.context_share(test, facts.test_from) if is_by_time else 0.0
    pairs = {
        DRIFT_PAIR: distributions.comparable(
            train if before is None else before, train, distributions.compared_for_drift(resolved)
        ),
        SKEW_PAIR: distributions.comparable(train, test, distributions.compared_for_skew(resolved), context),
    }
    comparable.split_names = artifact_utils.encode_split_names([*DRIFT_PAIR, *SKEW_PAIR])
    comparable.set_string_custom_property(NO_DRIFT_REASON, reason)
    for (examined_split, baseline_split), (baseline, examined) in pairs.items():
        for split, content in ((examined_split, examined), (baseline_split, baseline)):
            folder = artifact_utils.get_split_uri([comparable], split)
            fileio.makedirs(folder)
            with fileio.open(f"{folder}/{stats_artifact_utils.BINARY_PB_BASENAME}", "wb") as file:
                file.write(
                    statistics_pb2.DatasetFeatureStatisticsList(datasets=[content]).SerializeToString()
                )
