from __future__ import annotations

from pathlib import Path

import pytest

from two_tower.base.errors import UserError
from two_tower.pipeline.settings import run_file

DATAFLOW = ("--runner=DataflowRunner", "--project=p", "--region=europe-west4", "--temp_location=gs://b/tmp")


@pytest.mark.parametrize(
    "beam_args",
    [
        (),
        ("--direct_num_workers=2", "--direct_running_mode=multi_processing"),
        ("--runner=portable", "--environment_type=EMBED", "--job_endpoint=embed"),
        ("--runner=FlinkRunner", "--flink_master=host:8081", "--parallelism=8"),
        ("--runner=SparkRunner", "--spark_master_url=spark://host:7077"),
        (*DATAFLOW, "--sdk_container_image=registry/two-tower:1", "--experiments=a,b"),
    ],
)
def test_what_beam_knows_is_taken(beam_args: tuple[str, ...]) -> None:
    from two_tower.pipeline.beam_options import check

    check(beam_args, places=["gs://b/data"])


@pytest.mark.parametrize(
    ("beam_args", "told"),
    [
        (("--direct_num_worker=2",), "no option --direct_num_worker; the nearest is --direct_num_workers"),
        (("--runner=Dataflw",), "no runner Dataflw; the nearest is DataflowRunner"),
        (("direct_num_workers=2",), "'direct_num_workers=2' is no option"),
        (("--direct_num_workers=two",), "invalid int value: 'two'"),
        (("--direct_running_mode=fast",), "choose from 'in_memory'"),
        (("--runner=dataflow",), "DataflowRunner needs --project"),
        ((*DATAFLOW[:3], "--temp_location=/tmp/x"), "--temp_location=/tmp/x is on this machine"),
    ],
)
def test_what_beam_does_not_know_is_named_with_the_nearest(beam_args: tuple[str, ...], told: str) -> None:
    from two_tower.pipeline.beam_options import check

    with pytest.raises(UserError, match=r"^beam_args: ") as refused:
        check(beam_args)
    assert told in str(refused.value)


def test_dataflow_is_not_sent_to_directories_of_this_machine(tmp_path: Path) -> None:
    from two_tower.pipeline.beam_options import check

    with pytest.raises(UserError, match=r"two-tower compile"):
        check(DATAFLOW, places=[str(tmp_path)])
    with pytest.raises(UserError, match=r"Give a gs://\.\.\. URL"):
        check(DATAFLOW, places=["gs://b/data", str(tmp_path)], is_compiled=True)


def test_a_job_for_dataflow_is_not_compiled_for_directories_of_this_machine(tmp_path: Path) -> None:
    from two_tower.pipeline.jobs.compilation import compile_job

    config = run_file.load(None, None, [f"beam_args={','.join(DATAFLOW)}"])
    for data, root in ((str(tmp_path), None), ("gs://b/data", str(tmp_path))):
        with pytest.raises(UserError, match=rf"{tmp_path} is on this machine, which Dataflow's workers"):
            compile_job("registry/two-tower:1", config, "vertex", data, root)


@pytest.mark.parametrize(
    "text",
    [
        "--runner=DataflowRunner,--experiments=a,b, --project=p",
        '["--runner=DataflowRunner", "--experiments=a,b", "--project=p"]',
    ],
)
def test_options_with_commas_and_equals_signs_are_set_on_the_command_line(text: str) -> None:
    config = run_file.load(None, None, [f"beam_args={text}"])
    assert config.beam_args == ("--runner=DataflowRunner", "--experiments=a,b", "--project=p")


def test_every_component_that_runs_on_beam_gets_the_options(tmp_path: Path) -> None:
    from tfx.dsl.compiler import compiler
    from tfx.orchestration.local import runner_utils
    from tfx.proto.orchestration import executable_spec_pb2

    from two_tower.data_directory.feature_columns import ResolvedFeatures
    from two_tower.pipeline.create_pipeline import RunInputs, create_pipeline

    wanted = ["--direct_num_workers=2", "--direct_running_mode=multi_processing"]

    def on_beam(beam_args: list[str]) -> dict[str, list[str]]:
        config = run_file.load("smoke", None, [f"beam_args={','.join(beam_args)}"])
        inputs = RunInputs("data", str(tmp_path), "digest")
        pipeline = create_pipeline(inputs, str(tmp_path), config, ResolvedFeatures())
        deployment = runner_utils.extract_local_deployment_config(compiler.Compiler().compile(pipeline))
        found = {}
        for name in deployment.executor_specs:
            spec = runner_utils.extract_executor_spec(deployment, name)
            if isinstance(spec, executable_spec_pb2.BeamExecutableSpec):
                found[name] = list(spec.beam_pipeline_args)
        return found

    given = on_beam(wanted)
    assert given.keys() >= {
        "InteractionExampleGen", "CatalogExampleGen", "StatisticsGen", "CatalogStatisticsGen",
        "Transform", "CatalogTransform",
    }  # fmt: skip
    assert all(args == wanted for args in given.values())
    # Without any, Beam's own default: the DirectRunner, in memory.
    assert all(args == [] for args in on_beam([]).values())
