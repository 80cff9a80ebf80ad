from __future__ import annotations

import argparse
import importlib
import json
import os
import pkgutil
import re
import resource
import subprocess
import sys
import types
from pathlib import Path
from typing import Any

import pytest

import two_tower
from two_tower.base.errors import UserError
from two_tower.base.settings import blocks, declarations
from two_tower.data_directory.manifest import Manifest
from two_tower.ingestion import FORMAT_HELP, FORMATS
from two_tower.pipeline import commands
from two_tower.pipeline.commands import exit_status
from two_tower.pipeline.commands.command import Command
from two_tower.pipeline.commands.demo import was_simulated_with
from two_tower.pipeline.commands.ingest import span_day
from two_tower.pipeline.commands.main import main
from two_tower.pipeline.commands.registry import COMMANDS
from two_tower.pipeline.settings import pipeline_config, run_file
from two_tower.pipeline.settings.pipeline_config import PipelineConfig

ROOT = Path(two_tower.__file__).parents[1]
NAMES = [command.name for command in COMMANDS]
HEAVY = ("tensorflow", "tfx", "apache_beam", "pyarrow", "pandas", "numpy", "ml_metadata", "scann", "rich")


def python(*arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    """Runs Python in a process of its own, in which the sources under test come first."""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONWARNINGS"}
    return subprocess.run(
        [sys.executable, *arguments],
        capture_output=True,
        text=True,
        cwd=ROOT,
        env={**environment, "PYTHONPATH": str(ROOT), **variables},
    )


@pytest.mark.parametrize("arguments", [["--help"], *([name, "--help"] for name in NAMES)], ids=" ".join)
def test_help_imports_nothing_heavy(arguments: list[str]) -> None:
    program = (
        "import sys\n"
        "from two_tower.pipeline.commands.main import main\n"
        f"try: main({arguments!r})\n"
        "except SystemExit as end: assert end.code == 0\n"
        f"print([name for name in {HEAVY!r} if name in sys.modules])"
    )
    done = python("-c", program)
    assert done.stderr == ""
    assert done.stdout.splitlines()[-1] == "[]"


def test_help_answers_within_half_a_second_of_processor_time() -> None:
    def seconds() -> float:
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        assert python("-m", "two_tower.pipeline.commands.main", "--help").returncode == 0
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime

    assert min(seconds() for _ in range(3)) < 0.5


def test_every_module_with_a_command_is_registered() -> None:
    modules = [
        importlib.import_module(f"{commands.__name__}.{module.name}")
        for module in pkgutil.iter_modules(commands.__path__)
    ]
    defined = [module.COMMAND for module in modules if hasattr(module, "COMMAND")]
    assert sorted(NAMES) == sorted(command.name for command in defined)


@pytest.mark.parametrize("command", NAMES)
def test_every_command_explains_itself(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        main([command, "--help"])
    assert end.value.code == 0
    assert f"usage: two-tower {command}" in capsys.readouterr().out


def test_help_lists_the_settings_that_matter_first_and_help_all_lists_every_one(
    capsys: pytest.CaptureFixture[str],
) -> None:
    listed = {}
    for option in ("--help", "--help-all"):
        with pytest.raises(SystemExit) as end:
            main(["run", option])
        assert end.value.code == 0
        listed[option] = capsys.readouterr().out
    for name, one in pipeline_config.types().items():
        assert (f"    {name} = " in listed["--help"]) is one.setting.shown
        assert f"\n    {name}" in listed["--help-all"]
        before_heading = listed["--help-all"].index(f"\n    {name}") < listed["--help-all"].index(
            "experimental settings:"
        )
        assert before_heading is not one.setting.experimental
    for text in ("Passes over the train split", "from 1 to 10,000", "One of sampled, full, auto"):
        assert text in " ".join(listed["--help"].split())


@pytest.mark.parametrize("command", COMMANDS, ids=NAMES)
def test_no_sentence_of_the_help_has_more_than_20_words(command: Command) -> None:
    parser = argparse.ArgumentParser()
    command.add_arguments(parser)
    # The settings' names and values in the help of --preset come from elsewhere.
    helps = [action.help or "" for action in parser._actions if action.dest != "preset"]
    for text in (command.summary, command.description, *helps):
        for sentence in re.split(r"(?<=[.?]) ", text):
            assert len(sentence.split()) <= 20, sentence


@pytest.mark.parametrize("name", [*pipeline_config.types(), *pipeline_config.setting_blocks()])
def test_no_sentence_of_a_settings_help_has_more_than_20_words(name: str) -> None:
    declared = {one.name: one.setting for one in declarations(PipelineConfig).values()}
    text = {**declared, **blocks(PipelineConfig)}[name].help
    for sentence in re.split(r"(?<=[.?]) ", text):
        assert len(sentence.split()) <= 20, sentence


def test_the_help_of_ingest_lists_every_format(capsys: pytest.CaptureFixture[str]) -> None:
    assert set(FORMAT_HELP) == set(FORMATS)
    with pytest.raises(SystemExit):
        main(["ingest", "--help"])
    shown = capsys.readouterr().out
    for name, text in FORMAT_HELP.items():
        assert f"  {name} " in shown
        assert text in shown
    assert max(map(len, shown.splitlines())) <= 80


@pytest.mark.parametrize(
    ("text", "span"),
    [("19874", 19_874), ("2024-05-31", 19_874), ("1970-01-01", 0), ("auto", "auto"), (None, None)],
)
def test_a_span_is_a_day(text: str | None, span: int | str | None) -> None:
    assert span_day(text) == span


def test_days_are_ingested_one_after_the_other(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out, day = str(tmp_path / "data"), 19_874
    for number, user in ((day, 1), (day + 1, 2), (day + 1, 3)):
        source = tmp_path / f"source-{user}"
        source.mkdir()
        (source / "movies.dat").write_text("0114508::Species (1995)::Action\n")
        (source / "ratings.dat").write_text(f"{user}::0114508::7::{number * 86_400}\n")
        assert main(["ingest", "movietweetings", str(source), out, "--span", "auto"]) == 0
    manifest = Manifest.load(out)
    assert manifest.spans == (day, day + 1)
    assert manifest.counts["users"] == 2
    assert "19875 (2024-06-01) with 1 events" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["ingest", "yambada", "a", "b"], "no format 'yambada'; the nearest is 'yambda'"),
        (["ingest", "yambda", "a"], "ingest needs FORMAT SRC OUT, or --describe DIR; OUT is missing"),
        (["ingest", "yambda", "a", "b", "--describe", "b"], "leave out FORMAT"),
        (["ingest", "--describe", "b", "--span", "3"], "leave out --span"),
        (["ingest", "--describe", "b"], "b is not a data directory"),
        (["ingest", "yambda", "a", "b", "--columns", "c.yaml"], "--columns is for the format 'table'"),
        (["ingest", "yambda", "a", "b"], "SRC does not exist: there is no file or directory a"),
        (["ingest", "yambda", "a", "b", "--span", "may"], "--span may: a span is a number of days"),
        (["run", "--output", "o"], "run needs a directory in --data"),
        (["run", "--data", "d"], "run needs a directory in --output"),
        (["run", "--data", "d", "--output", "o", "--preset", "smol"], "no preset 'smol'"),
        (["run", "--data", "d", "--output", "o", "--set", "trainer.epoch=3"], "nearest is trainer.epochs"),
        (["run", "--data", "no-such-data", "--output", "o"], "no-such-data is not a data directory"),
        (["report", "--output", "no-such-run"], "no-such-run holds no run yet"),
        (["query", "--model", "no-such-model", "--user", "1"], "no-such-model holds no served model"),
        (["query", "--model", "m", "--history", "[1,"], "--history '[1,' is no JSON list of ids"),
        (["query", "--model", "m", "--history", "1", "--data", "gone"], "--data gone: there is no such"),
        (["run", "--data", "d", "--output", "o", "--preset", ""], "no preset ''"),
        (["demo", "--output", "/dev/null/x"], "/dev/null is a file; --output takes a directory"),
        (["simulate", "/dev/null/x"], "/dev/null/x: cannot be written: a file stands in the way"),
    ],
)
def test_wrong_input_is_one_sentence_and_status_2(
    arguments: list[str],
    message: str,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(arguments) == exit_status.USER_ERROR
    shown = capsys.readouterr()
    assert message in shown.err
    assert "Traceback" not in shown.err
    assert list(tmp_path.iterdir()) == []


class ComponentFailed(Exception):
    """Stands for two_tower.pipeline.local_runner's."""


@pytest.fixture
def runner(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> types.ModuleType:
    """A pipeline.local_runner that does nothing, on a data directory that is taken on trust."""
    fake = types.ModuleType("two_tower.pipeline.local_runner")
    fake.ComponentFailed = ComponentFailed  # type: ignore[attr-defined]
    fake.calls = []  # type: ignore[attr-defined]
    fake.error = None  # type: ignore[attr-defined]

    def run_local(data: str, output: str, config: PipelineConfig) -> None:
        fake.calls.append((data, output, config))
        logs = Path(output, "logs")
        logs.mkdir(parents=True)
        (logs / "now.log").write_text("chatter")
        if fake.error:
            raise fake.error

    fake.run_local = run_local  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "two_tower.pipeline.local_runner", fake)
    manifest = types.SimpleNamespace(
        counts={"label_events": 1_000_000}, has_timestamps=True, time_range=(0, 10_000_000)
    )
    manifest_class = "two_tower.data_directory.manifest.Manifest"
    monkeypatch.setattr(f"{manifest_class}.load", lambda directory: manifest)
    monkeypatch.chdir(tmp_path)
    return fake


def _report(monkeypatch: pytest.MonkeyPatch, verdict: str) -> None:
    report = {"verdict": verdict, "artifacts": {}}
    monkeypatch.setattr("two_tower.pipeline.runs.page.collect", lambda output: report)
    rendered = "two_tower.pipeline.runs.report.render"
    monkeypatch.setattr(rendered, lambda report: f"the model is {report['verdict']}\n")


@pytest.mark.parametrize(
    ("verdict", "flags", "status"),
    [
        ("blessed", ["--fail-on-refusal"], 0),
        ("refused", [], 0),
        ("refused", ["--fail-on-refusal"], exit_status.REFUSED),
    ],
)
def test_a_refusal_is_told_and_is_a_failure_only_on_request(
    verdict: str,
    flags: list[str],
    status: int,
    runner: Any,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    _report(monkeypatch, verdict)
    assert main(["run", "--data", "d", "--output", "o", *flags]) == status
    assert f"the model is {verdict}" in capsys.readouterr().out


def test_run_takes_everything_from_a_config_file(runner: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    _report(monkeypatch, "blessed")
    Path("run.yaml").write_text("data: d\noutput: o\npreset: smoke\ntrainer: {epochs: 7}\n")
    assert main(["run", "--config", "run.yaml", "--output", "elsewhere", "--set", "seed=5"]) == 0
    ((data, output, config),) = runner.calls
    assert (data, output) == ("d", "elsewhere")
    assert config == run_file.load("smoke", None, ["trainer.epochs=7", "seed=5"])


def test_validate_repeats_its_settings_in_the_command_that_comes_next(
    runner: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    fake = types.ModuleType("two_tower.pipeline.checks.data_validation")
    fake.validate_data = lambda data, output, config: ["all holds"]  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "two_tower.pipeline.checks.data_validation", fake)
    settings = [
        "--preset",
        "small",
        "--set",
        "split.protocol=leave_one_out",
        "--set",
        "features.items=title:text",
    ]
    assert main(["validate", "--data", "d", *settings]) == 0
    assert capsys.readouterr().out.endswith(
        f"all holds\nNext: two-tower run --data d --output DIR {' '.join(settings)}\n"
    )


@pytest.mark.parametrize(
    ("columns", "protocol"),
    [
        ("order: t", " --set split.protocol=leave_one_out"),
        ("order: t, split: s", " --set split.protocol=split_column"),
        ("timestamp: t", ""),
        ("unordered: true", " --set split.protocol=hold_out"),
    ],
)
def test_ingest_names_the_protocol_that_the_data_needs(
    columns: str, protocol: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "e.csv").write_text("u,i,t,s\n1,7,0,train\n1,8,1,test\n")
    (tmp_path / "columns.yaml").write_text(
        f"{{dataset: d, label_event: view, repeats_recommendable: {str(columns[0] != 'u').lower()},\n"
        f" events: {{files: e.csv, user_id: u, item_id: i, {columns}}}}}\n"
    )
    out = tmp_path / "data"
    assert main(["ingest", "table", str(tmp_path), str(out)]) == 0
    assert capsys.readouterr().out.endswith(f"Next: two-tower run --data {out} --output DIR{protocol}\n")


def test_a_failed_component_is_named_with_its_log(runner: Any, capsys: pytest.CaptureFixture[str]) -> None:
    runner.error = ComponentFailed("Trainer failed: out of\nmemory")
    assert main(["run", "--data", "d", "--output", "o"]) == exit_status.FAILURE
    message = capsys.readouterr().err
    assert "Trainer failed: out of memory" in message
    assert "o/logs/now.log" in message
    assert "Traceback" not in message


def test_wrong_data_in_a_component_is_status_2_with_its_log(
    runner: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    runner.error = UserError("the eval split is empty")
    assert main(["run", "--data", "d", "--output", "o"]) == exit_status.USER_ERROR
    message = capsys.readouterr().err
    assert "the eval split is empty" in message
    assert "o/logs/now.log" in message


def test_a_demo_simulates_again_only_for_other_parameters(tmp_path: Path) -> None:
    parameters, place = {"seed": 7, "users": 10}, tmp_path / "yambda"
    place.mkdir()
    assert not was_simulated_with(str(place), parameters)
    (place / "simulation.json").write_text(json.dumps({"name": "simulated-7", "parameters": parameters}))
    assert was_simulated_with(str(place), parameters)
    assert not was_simulated_with(str(place), {**parameters, "users": 11})
    # A simulation that was killed between its renames left the old one aside.
    place.rename(tmp_path / ".yambda.partial.old")
    assert was_simulated_with(str(place), parameters)
