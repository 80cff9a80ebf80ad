"""`two-tower compile`: writes the pipeline as a job for Vertex AI Pipelines or Kubeflow Pipelines."""

from __future__ import annotations

import argparse

from two_tower.pipeline.commands.command import Command
from two_tower.pipeline.commands.pipeline_run import loading_tfx
from two_tower.pipeline.commands.settings_options import add_settings, config_of, listed_settings

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
    parser.add_argument("--root", metavar="URI", help="directory that the steps write to (gs://...)")
    add_settings(parser)


def _run(options: argparse.Namespace) -> int:
    config = config_of(options)
    with loading_tfx():
        from two_tower.pipeline.jobs.compilation import write_job

        job = write_job(
            options.output_file, options.image, config, options.target, options.data, options.root
        )
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
        "`docker build --target train` builds. Data, root, spans and thresholds are the job's parameters: "
        "the submission may change them, and --data, --root and the settings are their defaults."
    ),
    add_arguments=_add_arguments,
    run=_run,
)
