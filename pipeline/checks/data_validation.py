"""`two-tower validate`: a data directory taken through the pipeline up to its gate, and no further."""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
from collections.abc import Iterator

from two_tower.base.errors import UserError
from two_tower.components.anomaly_gate import verdict
from two_tower.pipeline.local_runner import run_local
from two_tower.pipeline.runs.report import newest_log
from two_tower.pipeline.runs.stored_runs import latest_outputs
from two_tower.pipeline.settings.pipeline_config import PipelineConfig

GATE = "AnomalyGate"


def validate_data(data: str, output: str | None, config: PipelineConfig) -> list[str]:
    """What was checked and found, in words; nothing is trained or published.

    It is the pipeline of `two-tower run`, of which only what the gate needs is run.

    Args:
      data: a data directory, a path or URL.
      output: where runs have been or will be: the data is compared with that of the last run there, and the
        next run takes over what is done here. None: a temporary directory, of which nothing stays.
      config: the settings.

    Raises:
      UserError: the data is refused, with everything that is wrong; or the settings are at fault.
      ComponentFailed: something else went wrong; in a temporary directory the log is kept and named.
    """
    with _place(output) as place:
        run_local(data, place, config, until=(GATE,))
        (folder,) = latest_outputs(place, GATE, partial=True)[GATE]["report"]
        return verdict.read(folder).lines()


@contextlib.contextmanager
def _place(output: str | None) -> Iterator[str]:
    if output is not None:
        yield output
        return
    with tempfile.TemporaryDirectory(prefix="two-tower-validate-") as place:
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
