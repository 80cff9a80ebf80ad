"""The DAG as a job for Kubeflow Pipelines (v2) or Vertex AI Pipelines."""

from __future__ import annotations

import os

os.environ.setdefault("TF_USE_LEGACY_KERAS", "1")

from tfx.dsl.input_resolution.strategies.latest_artifact_strategy import LatestArtifactStrategy
from tfx.orchestration.data_types import RuntimeParameter
from tfx.orchestration.kubeflow.v2 import kubeflow_v2_dag_runner

from two_tower.base import storage
from two_tower.base.errors import UserError
from two_tower.data_directory.feature_columns import resolve
from two_tower.data_directory.manifest import Manifest
from two_tower.pipeline import beam_options
from two_tower.pipeline.create_pipeline import PIPELINE_NAME, create_pipeline
from two_tower.pipeline.settings.pipeline_config import PipelineConfig
from two_tower.trainer.settings import AGGREGATES

# Parameters of the submitted job, unless --data and --root gave their values.
DATA_PARAMETER = "data"
DIGEST_PARAMETER = "data_digest"
PUSH_PARAMETER = "push_directory"


def _is_readable(data: str) -> bool:
    """Tells if this machine can read the data directory; a bucket may admit the job alone."""
    try:
        return storage.is_directory(data)
    except (OSError, UserError):
        return False


def compile_job(
    image: str, output_file: str, config: PipelineConfig, data: str | None = None, root: str | None = None
) -> None:
    """Writes the job's specification (a PipelineJob, in JSON).

    Args:
      image: container image of the steps, the Dockerfile's `train`.
      output_file: file name that ends in .json.
      config: settings of the job.
      data: the data directory as the steps see it. None: the job has a parameter `data`. If this machine
        cannot read the directory, the job has a parameter `data_digest`, the digest in its manifest.json.
        Features must then include their kinds.
      root: directory of artifacts and `pushed/`. None: the submission gives the pipeline root, and the job
        has a parameter `push_directory`.

    Raises:
      UserError: the file's name does not end in .json, or its folder does not exist. A feature's kind is
        missing or does not suit its column. Beam does not know an option. Dataflow's workers do not see data
        or root.
    """
    folder = os.path.dirname(os.path.abspath(output_file))
    if not output_file.endswith(".json"):
        raise UserError(f"{output_file}: the job is JSON. Give the file a name that ends in .json.")
    if not os.path.isdir(folder):
        raise UserError(f"{output_file}: the folder {folder} does not exist. Create it first.")
    beam_options.check(config.beam_args, [place for place in (data, root) if place], is_compiled=True)
    manifest = Manifest.load(data) if data and _is_readable(data) else None
    pipeline = create_pipeline(
        data=data or RuntimeParameter(name=DATA_PARAMETER, ptype=str),
        data_digest=(manifest.digest if manifest else RuntimeParameter(name=DIGEST_PARAMETER, ptype=str)),
        pipeline_root=root or "",
        push_directory=f"{root}/pushed" if root else RuntimeParameter(name=PUSH_PARAMETER, ptype=str),
        config=config,
        resolved=resolve(config.features, manifest, AGGREGATES in config.trainer.parts),
        # The only strategy that TFX can write into a job. In a job it tolerates a missing artifact.
        latest_strategy=LatestArtifactStrategy,
    )
    kubeflow_v2_dag_runner.KubeflowV2DagRunner(
        config=kubeflow_v2_dag_runner.KubeflowV2DagRunnerConfig(
            display_name=PIPELINE_NAME,
            default_image=image,
        ),
        output_dir=folder,
        output_filename=os.path.basename(output_file),
    ).run(pipeline)
