"""OutcomeReporter: the exit handler of a compiled job.

`@component` reads annotations, so this module has no postponed evaluation.
"""

import json
from typing import Any

from google.protobuf import json_format
from tfx.dsl.component.experimental.annotations import OutputArtifact, Parameter
from tfx.dsl.component.experimental.decorators import component
from tfx.types.standard_artifacts import String

from two_tower.base import storage
from two_tower.components import job_folder

_SELF = "OutcomeReporter"


@component
def OutcomeReporter(
    outcome: OutputArtifact[String],
    target: Parameter[str],
    final_status: Parameter[str],
) -> None:
    """Writes the outcome in one sentence to the step's log, to `outcome`, and to `outcome.json`.

    Args:
      outcome: receives the sentence.
      target: the backend, see `job_folder.TARGETS`.
      final_status: what the backend says of the other steps, a PipelineTaskFinalStatus.
    """
    # A backend hands it on as JSON text or as a message.
    status = (
        json.loads(final_status) if isinstance(final_status, str) else json_format.MessageToDict(final_status)
    )
    folder = job_folder.folder_of(outcome.uri, target)
    records = job_folder.read_records(folder)
    state = str(status.get("state", "UNKNOWN")).removeprefix("PIPELINE_TASK_FINAL_STATE_")
    failed = {name: one["error"] for name, one in records.items() if one["state"] == "FAILED"}
    # Its own record says so too.
    killed = [name for name, one in records.items() if one["state"] == "RUNNING"]
    failed |= {name: job_folder.KILLED for name in killed if name != _SELF}
    sentence = _sentence(state, failed, records.get("Pusher", {}).get("outputs", {}), status)
    print(sentence, flush=True)
    outcome.write(sentence)
    content = {"state": state, "sentence": sentence, "failed": failed, "status": status}
    storage.write_whole(
        storage.join(folder, job_folder.OUTCOME), json.dumps(content, indent=2, sort_keys=True) + "\n"
    )


def _sentence(state: str, failed: dict[str, str], pushed: dict[str, Any], status: dict[str, Any]) -> str:
    if failed:
        return " ".join(f"FAILED at {name}: {error}" for name, error in sorted(failed.items()))
    if state not in ("SUCCEEDED", "COMPLETE"):
        message = (status.get("error") or {}).get("message", "")
        return f"{state}: no step left an error; the backend says {message!r}."
    if not pushed:
        return f"{state}: Pusher came from the cache, as in an earlier run. Nothing new was pushed."
    properties = pushed["pushed_model"][0]["properties"]
    if properties.get("pushed") == 1:
        return f"{state}: the model was blessed and is pushed as {properties['pushed_destination']}."
    reason = properties.get("not_pushed_because")
    return f"{state}: the model was {f'blessed, and {reason}' if reason else 'refused and is not pushed.'}"
