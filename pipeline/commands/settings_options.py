"""The options --preset, --config, --set and --help-all of several commands, and the settings they give."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from two_tower.pipeline.commands.messages import tell

if TYPE_CHECKING:
    from two_tower.pipeline.settings.pipeline_config import PipelineConfig


def add_settings(parser: argparse.ArgumentParser) -> None:
    """Adds --preset, --config, --set and --help-all to a command's parser."""
    from two_tower.pipeline.settings import presets
    from two_tower.pipeline.settings.settings_help import HelpAll

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
    parser.add_argument("--help-all", action=HelpAll, nargs=0, help="list all settings")


def listed_settings(section: str = "", everything: bool = False) -> str:
    """Returns the settings for a help text: the newcomer's, or all that begin with `section`."""
    from two_tower.pipeline.settings import settings_help

    return settings_help.listing(section, everything=everything)


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
    suited = run_file.suited_preset(manifest)
    named = options.preset
    if named is None and options.config:
        named = run_file.read_run_file(options.config).preset
    if named is None:
        times = (
            "" if manifest.has_timestamps else " without times" if manifest.has_order else " without an order"
        )
        tell(f"Preset '{suited}', for {events:,} events{times}; --preset names another")
    return suited if named is None else named
