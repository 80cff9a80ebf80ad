"""`two-tower compile`: writes the pipeline as a job for Vertex AI Pipelines or Kubeflow Pipelines."""

from __future__ import annotations

import argparse

from two_tower.base import storage
from two_tower.pipeline.commands.command import Command
from two_tower.pipeline.commands.pipeline_run import loading_tfx
from two_tower.pipeline.commands.settings_options import (
    add_settings,
    config_of,
    config_suited_to,
    listed_settings,
    places,
)

_SUBMISSION = {
    "vertex": "Submit it with Vertex's SDK: PipelineJob(display_name=..., template_path={file!r}, "
    "pipeline_root=..., parameter_values={{...}}).submit().",
    "kubeflow": "Submit it with Kubeflow's client: Client().create_run_from_pipeline_package({file!r}, "
    "pipeline_root=..., arguments={{...}}).",
}


def _add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.epilog = listed_settings()
    parser.add_argument(
        "--target",
        choices=tuple(_SUBMISSION),
        default="vertex",
        help="service that runs it (default: vertex)",
    )
    parser.add_argument(
        "--image", required=True, help="container image, with its registry and a digest or a fixed tag"
    )
    parser.add_argument(
        "-o",
        "--output-file",
        metavar="FILE",
        required=True,
        help="file: .json for vertex, .yaml for kubeflow",
    )
    parser.add_argument("--data", metavar="URI", help="data directory, as the steps see it (gs://...)")
    parser.add_argument(
        "--root",
        dest="output",
        metavar="URI",
        help="directory that the steps write to (gs://...); a config file's key is output",
    )
    add_settings(parser)


def _run(options: argparse.Namespace) -> int:
    from two_tower.data_directory.manifest import Manifest

    data, root = places(options)
    config, manifest = config_of(options), None
    # A bucket may admit the job alone.
    if data is not None and storage.is_readable_directory(data):
        config, manifest = config_suited_to(data, options), Manifest.load(data)
    with loading_tfx():
        from two_tower.pipeline.jobs.compilation import write_job

        job = write_job(options.output_file, options.image, config, options.target, data, root, manifest)
    print(f"{options.output_file} holds the job for {options.target}.")
    print(_SUBMISSION[options.target].format(file=options.output_file))
    if job.required:
        print(f"It has no default of {' and '.join(job.required)}: give it at submission.")
    return 0


COMMAND = Command(
    name="compile",
    summary="write the same pipeline as a job for Vertex AI Pipelines or Kubeflow Pipelines",
    description=(
        "Writes the pipeline of `two-tower run` as a job. Its steps run in a container image, which "
        "`docker build --target train` builds. Data, root, spans and thresholds are the job's parameters. "
        "A submission may change them. Their defaults are --data, --root and the settings."
    ),
    add_arguments=_add_arguments,
    run=_run,
)
