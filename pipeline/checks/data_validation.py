"""`two-tower validate`: runs the pipeline on a data directory up to the anomaly gate."""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
from collections.abc import Iterator

from two_tower.base import temporary
from two_tower.base.errors import UserError
from two_tower.components.anomaly_gate import verdict
from two_tower.data_directory.facts import NEW_USERS
from two_tower.pipeline.local_runner import run_local
from two_tower.pipeline.runs.report import newest_log
from two_tower.pipeline.runs.stored_runs import latest_nodes, uris_of, users_are_new
from two_tower.pipeline.settings.pipeline_config import PipelineConfig

GATE = "AnomalyGate"


def validate_data(data: str, output: str | None, config: PipelineConfig) -> list[str]:
    """Checks a data directory and describes the results in words, without training or publishing.

    The pipeline is that of `two-tower run`, up to the anomaly gate.

    Args:
      data: a data directory, a path or URL.
      output: output directory of runs. The data is compared with that of the last run there, and the next run
        reuses the results. None: a temporary directory, which is removed.
      config: the settings.

    Raises:
      UserError: the data is refused (the message lists all faults), or the settings are wrong.
      ComponentFailed: a component failed. The log of a temporary directory is kept, and the message names it.
    """
    with _place(output) as place:
        run_local(data, place, config, until=(GATE,))
        nodes = latest_nodes(place, GATE, partial=True)
        (folder,) = uris_of(nodes)[GATE]["report"]
        return [*verdict.read(folder).lines(), *[NEW_USERS] * users_are_new(nodes)]


@contextlib.contextmanager
def _place(output: str | None) -> Iterator[str]:
    if output is not None:
        yield output
        return
    with temporary.folder() as place:
        try:
            yield place
        except UserError:
            raise
        except Exception as error:
            log = newest_log(place)
            if log:
                descriptor, kept = tempfile.mkstemp(prefix="two-tower-validate-", suffix=".log")
                os.close(descriptor)
                shutil.copyfile(log, kept)
                error.args = (f"{error}\nThe log is {kept}.",)
            raise
