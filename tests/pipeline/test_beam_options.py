from __future__ import annotations

import socket
from pathlib import Path

import pytest

from two_tower.base.errors import UserError
from two_tower.pipeline.settings import run_file

IMAGE = "registry/two-tower:1"
DOCKER = ("--environment_type=DOCKER", f"--environment_config={IMAGE}")
EXTERNAL = ("--environment_type=EXTERNAL", "--environment_config=localhost:50000")
PORTABLE = ("--runner=PortableRunner", "--job_endpoint=host:8099")
DATAFLOW = ("--runner=DataflowRunner", "--project=p", "--region=europe-west4", "--temp_location=gs://b/tmp")


@pytest.mark.parametrize(
    "beam_args",
    [
        (),
        ("--direct_num_workers=2", "--direct_running_mode=multi_processing"),
        ("--runner=portable", "--environment_type=beam:env:embedded_python:v1", "--job_endpoint=embed"),
        ("--runner=FlinkRunner", "--flink_master=host:8081", "--parallelism=8", *DOCKER),
        ("--runner=FlinkRunner", "--flink_master=[local]"),
        ("--runner=SparkRunner", "--spark_master_url=spark://host:7077", *DOCKER),
        ("--runner=DirectRunner", "--project=p", "--temp_location=gs://b/tmp"),
        (*DATAFLOW, "--sdk_container_image=registry/two-tower:1", "--experiments=a", "--experiments=b=1"),
        ("--experiments=pre_optimize=pack_combiners,lift_combiners",),
        ("--runner=my_package.MyRunner", "--region=somewhere"),
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
        (("--region=r",), "--region is an option of DataflowRunner, and DirectRunner ignores it. Remove it"),
        (("--experiments=a,b=1",), "one value with a comma. Give --experiments=a and --experiments=b=1."),
        ((*PORTABLE, *DOCKER, "--machine_type=m"), "--machine_type is an option of DataflowRunner"),
        (("--job_endpoint=host:8099",), "--job_endpoint is an option of PortableRunner and FlinkRunner"),
        (("--job-server-timeout=9",), "--job_server_timeout is an option of PortableRunner"),
        ((*DATAFLOW, "--direct_num_workers=2"), "--direct_num_workers is an option of DirectRunner"),
        ((*DATAFLOW, *DOCKER), "and DataflowRunner ignores it"),
        (("--runner=FlinkRunner", "--spark_version=3"), "is an option of SparkRunner and PortableRunner"),
        ((*PORTABLE, "--environment_type=docker"), "no --environment_type=docker. Give one of DOCKER, EXT"),
        ((*PORTABLE, "--environment_type=EMBED"), "no --environment_type=EMBED"),
        ((*PORTABLE, "--environment_type=EXTERNAL"), "external_service_address is required"),
        (
            ("--runner=PortableRunner", "--job_endpoint=embed", "--environment_type=PROCESS"),
            "which has no --environment_type=PROCESS. Start workers with scripts/beam_worker_pool.py",
        ),
        (PORTABLE, "PortableRunner starts its workers in Beam's image, which lacks this program. Give"),
        (("--runner=FlinkRunner", "--flink_master=host:8081"), "FlinkRunner starts its workers in Beam's"),
        (("--runner=SparkRunner", "--spark_master_url=spark://host:1"), "SparkRunner starts its workers"),
        (("--runner=PortableRunner", *EXTERNAL), "PortableRunner needs --job_endpoint=HOST:PORT: add it"),
        ((*PORTABLE[:1], "--job_endpoint=host", *EXTERNAL), "--job_endpoint=host is no HOST:PORT"),
    ],
)
def test_what_beam_does_not_know_is_named_with_the_nearest(beam_args: tuple[str, ...], told: str) -> None:
    from two_tower.pipeline.beam_options import check

    with pytest.raises(UserError, match=r"^beam_args: ") as refused:
        check(beam_args)
    assert told in str(refused.value)


def test_a_job_server_answers_before_anything_is_computed() -> None:
    from two_tower.pipeline.beam_options import check

    with socket.create_server(("localhost", 0)) as server:
        endpoint = f"localhost:{server.getsockname()[1]}"
        beam_args = ("--runner=PortableRunner", f"--job_endpoint={endpoint}", *EXTERNAL)
        check(beam_args)
    with pytest.raises(UserError, match=rf"no job server answers at --job_endpoint={endpoint} \("):
        check(beam_args)
    # The steps of a compiled job reach it, and this machine need not. Their image is the workers' too.
    check(beam_args, is_compiled=True)
    check(PORTABLE, is_compiled=True)


DAY_OF_WAITING = "--job_server_timeout=86400"


@pytest.mark.parametrize(
    ("beam_args", "image", "added"),
    [
        ((), None, []),
        ((), IMAGE, []),
        (("--direct_num_workers=2",), None, ["--sdk_container_image=none"]),
        (("--direct_num_workers=2",), IMAGE, ["--sdk_container_image=none"]),
        ((*PORTABLE, *EXTERNAL), None, ["--sdk_container_image=none", DAY_OF_WAITING]),
        ((*PORTABLE, *EXTERNAL), IMAGE, ["--sdk_container_image=none", DAY_OF_WAITING]),
        (
            (*PORTABLE, "--environment_type=LOOPBACK"),
            None,
            ["--sdk_container_image=none", DAY_OF_WAITING],
        ),
        (("--runner=FlinkRunner",), IMAGE, ["--sdk_container_image=none", DAY_OF_WAITING]),
        (
            PORTABLE,
            IMAGE,
            [f"--environment_config={IMAGE}", f"--sdk_container_image={IMAGE}", DAY_OF_WAITING],
        ),
        ((*PORTABLE, *DOCKER), None, ["--sdk_container_image=none", DAY_OF_WAITING]),
        (
            (*PORTABLE, "--environment_config=mine", "--extra_package=x.tar.gz", "--job-server-timeout=9"),
            IMAGE,
            [],
        ),
        (
            (*PORTABLE, "--environment_options=docker_container_image=mine", "--sdk_container_image=mine"),
            IMAGE,
            [DAY_OF_WAITING],
        ),
        (DATAFLOW, IMAGE, [f"--sdk_container_image={IMAGE}"]),
        ((*DATAFLOW, "--setup_file=setup.py"), IMAGE, [f"--sdk_container_image={IMAGE}"]),
        ((*DATAFLOW, "--sdk_container_image=mine"), IMAGE, []),
        ((*DATAFLOW, "--worker_harness_container_image=mine"), IMAGE, []),
        (("--runner=my_package.MyRunner",), IMAGE, []),
    ],
)
def test_options_that_the_runner_needs_are_added_once(
    beam_args: tuple[str, ...], image: str | None, added: list[str]
) -> None:
    from two_tower.pipeline.beam_options import completed

    once = completed(beam_args, image)
    assert once == [*beam_args, *added]
    # create_pipeline completes a compiled job's options again, without its image.
    assert completed(once) == once


def test_tfx_builds_no_package_for_completed_options(monkeypatch: pytest.MonkeyPatch) -> None:
    from tfx.utils import dependency_utils

    from two_tower.pipeline.beam_options import completed

    monkeypatch.setattr(dependency_utils, "build_ephemeral_package", lambda: "tfx.tar.gz")
    plain = ["--direct_num_workers=2"]
    assert dependency_utils.make_beam_dependency_flags(plain) == [*plain, "--extra_package=tfx.tar.gz"]
    for beam_args in (plain, [*PORTABLE, *EXTERNAL]):
        assert dependency_utils.make_beam_dependency_flags(completed(beam_args)) == completed(beam_args)


def test_dataflow_is_not_sent_to_directories_of_this_machine(tmp_path: Path) -> None:
    from two_tower.pipeline.beam_options import check

    with pytest.raises(UserError, match=r"two-tower compile"):
        check(DATAFLOW, places=[str(tmp_path)])
    with pytest.raises(UserError, match=r"Give a gs://\.\.\. URL"):
        check(DATAFLOW, places=["gs://b/data", str(tmp_path)], is_compiled=True)


def test_a_job_for_dataflow_is_not_compiled_for_directories_of_this_machine(tmp_path: Path) -> None:
    from two_tower.pipeline.jobs.compilation import compile_job

    config = run_file.load(None, None, [f"beam_args={','.join(DATAFLOW)}"])
    with pytest.raises(UserError, match=rf"{tmp_path} is on this machine, which Dataflow's workers"):
        compile_job("registry/two-tower:1", config, "vertex", str(tmp_path), None)
    with pytest.raises(UserError, match=rf"--root {tmp_path}: the steps write to a bucket"):
        compile_job("registry/two-tower:1", config, "vertex", "gs://b/data", str(tmp_path))


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
    from two_tower.pipeline.beam_options import completed
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
    assert all(args == completed(wanted) for args in given.values())
    # Without any, Beam's own default: the DirectRunner, in memory.
    assert all(args == [] for args in on_beam([]).values())
