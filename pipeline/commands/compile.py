"""`two-tower compile`: writes the pipeline as a job for Kubeflow Pipelines or Vertex AI."""

from __future__ import annotations

import argparse

from two_tower.pipeline.commands.command import Command
from two_tower.pipeline.commands.pipeline_run import loading_tfx
from two_tower.pipeline.commands.settings_options import add_settings, config_of, listed_settings


def _add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.epilog = listed_settings()
    parser.add_argument("--image", required=True, help="name of the container image, with its registry")
    parser.add_argument("-o", "--output-file", metavar="FILE", required=True, help="JSON file to write")
    parser.add_argument("--data", metavar="URI", help="data directory, as the steps see it (gs://...)")
    parser.add_argument("--root", metavar="URI", help="directory that the steps write to (gs://...)")
    add_settings(parser)


def _run(options: argparse.Namespace) -> int:
    config = config_of(options)
    with loading_tfx():
        from two_tower.pipeline.kubeflow_runner import compile_job

        compile_job(options.image, options.output_file, config, options.data, options.root)
    print(f"{options.output_file} holds the job: submit it to Kubeflow Pipelines or Vertex AI.")
    return 0


COMMAND = Command(
    name="compile",
    summary="write the same pipeline as a job for Kubeflow Pipelines or Vertex AI",
    description=(
        "Writes the pipeline of `two-tower run` as a job for Kubeflow Pipelines or Vertex AI. Its steps run "
        "in a container image, which `docker build --target train` builds."
    ),
    add_arguments=_add_arguments,
    run=_run,
)
