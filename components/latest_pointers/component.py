"""LatestPointers: reads which model was blessed last and which statistics were approved last.

`@component` reads annotations, so this module has no postponed evaluation.
"""

from tfx.dsl.component.experimental.annotations import OutputArtifact, Parameter
from tfx.dsl.component.experimental.decorators import component
from tfx.types.standard_artifacts import String

from two_tower.base import pointers


@component
def LatestPointers(
    latest_blessed: OutputArtifact[String],
    latest_approved: OutputArtifact[String],
    root: Parameter[str],
    run: Parameter[str],
    pointers_of_others: Parameter[str],
    source_digest: Parameter[str],
) -> None:
    """Writes the texts of both pointers, see `base/pointers.py`.

    The cache keys on the run and on the pointers of other runs. So the same job again is cached as a whole,
    though its first run moved the pointers. Without the cache it finds what it blessed itself.

    Args:
      latest_blessed: receives the pointer to the latest blessed model.
      latest_approved: receives the pointer to the latest approved statistics.
      root: the job's root.
      run: key of the job's run, see InputVerifier.
      pointers_of_others: the newest pointers that other runs wrote.
      source_digest: digest of the sources, so that edited code runs again.
    """
    del run, pointers_of_others, source_digest
    latest_blessed.write(pointers.latest(root, pointers.BLESSED))
    latest_approved.write(pointers.latest(root, pointers.APPROVED))
