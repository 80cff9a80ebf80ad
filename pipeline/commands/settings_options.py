"""The options --preset, --config and --set, which several commands share, and the settings that they give."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from two_tower.pipeline.commands.messages import tell

if TYPE_CHECKING:
    from two_tower.pipeline.settings.pipeline_config import PipelineConfig

_SETTINGS_HELP = """\
settings:
  A setting is named by its section: --set trainer.epochs=4 --set gate.min_recall=0.05
  Commas separate the values of a list: --set trainer.query_hidden_units=256,128
  A config file holds the same in YAML, and may name the preset, data and output:

    preset: small
    data: runs/data
    output: runs/first
    trainer:
      epochs: 4

  --set overrides the file, and the file overrides the preset. All settings, with the default preset's values:

"""


def add_settings(parser: argparse.ArgumentParser) -> None:
    """Adds --preset, --config and --set to a command's parser."""
    from two_tower.pipeline.settings import presets

    listed = "; ".join(f"{name}: {text}" for name, text in presets.PRESET_HELP.items())
    parser.add_argument(
        "--preset",
        metavar="NAME",
        help=f"set of settings (default: `run` takes the one that suits the data). {listed}",
    )
    parser.add_argument("--config", metavar="FILE", help="YAML file with settings, see below")
    parser.add_argument(
        "--set",
        metavar="KEY=VALUE",
        action="append",
        default=[],
        dest="overrides",
        help="one setting; the option may be repeated",
    )


def all_settings(section: str = "") -> str:
    """Returns the help's list of settings whose names start with `section`, with their values."""
    from two_tower.pipeline.settings import pipeline_config, run_file

    lines = []
    for name, value in pipeline_config.settings(run_file.load()).items():
        if not name.startswith(section):
            continue
        text = ",".join(map(str, value)) if isinstance(value, tuple) else value
        lines.append(f"    {name} = {text}")
    return _SETTINGS_HELP + "\n".join(lines)


def config_of(options: argparse.Namespace, fallback: str = "default") -> PipelineConfig:
    """Returns the settings that the options give; `fallback` is the preset where they name none."""
    from two_tower.pipeline.settings import run_file

    return run_file.load(options.preset, options.config, options.overrides, fallback)


def places(options: argparse.Namespace) -> tuple[str | None, str | None]:
    """Returns the data and the output directory, from the options or else from the config file."""
    from two_tower.pipeline.settings import run_file

    given = run_file.read_run_file(options.config) if options.config else run_file.RunFile()
    return options.data or given.data, options.output or given.output


def config_suited_to(data: str, options: argparse.Namespace) -> PipelineConfig:
    """Returns the settings, over the preset that suits the data where the options name none."""
    return config_of(options, preset_suited_to(data, options))


def preset_suited_to(data: str, options: argparse.Namespace) -> str:
    """Returns the named preset, or else tells and returns the one that suits the data."""
    from two_tower.data_directory.manifest import Manifest
    from two_tower.pipeline.settings import run_file

    config_of(options)  # before the data is read: a mistake in the settings shows at once
    manifest = Manifest.load(data)
    events = manifest.counts["label_events"]
    suited = run_file.suited_preset(events, manifest.has_timestamps)
    named = options.preset or (run_file.read_run_file(options.config).preset if options.config else None)
    if not named:
        times = "" if manifest.has_timestamps else " without times"
        tell(f"Preset '{suited}', for {events:,} events{times}; --preset names another")
    return named or suited
