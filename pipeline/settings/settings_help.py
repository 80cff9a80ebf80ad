"""Settings for readers: listings of `--help` and `--help-all`, and the page docs/reference/settings.md."""

from __future__ import annotations

import argparse
import math
import textwrap
from collections.abc import Iterator, Sequence
from typing import Any

from two_tower.base.settings import Declaration, described, value_text
from two_tower.pipeline.settings import presets
from two_tower.pipeline.settings.pipeline_config import (
    PipelineConfig,
    setting_blocks,
    settings,
    types,
)

_WIDTH = 100
_INDENT = " " * 8

_HEADER = """\
settings:
  A setting's name begins with its section: --set trainer.epochs=4 --set gate.min_recall=0.05
  Commas separate a list's values: --set trainer.query_hidden_units=256,128
  Entries with a sign change a list: --set trainer.parts=-user_id,+repeat_head
  Some settings have keys: --set trainer.dropout.id=0.2, or --set trainer.dropout=id=0.2,hidden=0.3
  A config file holds settings in YAML, and may name the preset, data and output:

    preset: small
    data: runs/data
    output: runs/first
    trainer:
      epochs: 4
      dropout: {hidden: 0.3}

  --set overrides the file, and the file overrides the preset.
"""
_PAGE_HEADER = """\
# Settings

<!-- Written by `scripts/generate_reference.py` from the declarations. -->

`two-tower run --help` lists the settings that matter first, and `--help-all` lists all. Give a setting by
`--set trainer.epochs=4`, or in a config file (`--config`); both override the preset. An entry with a sign
changes a list (`--set trainer.parts=-user_id,+repeat_head`). A setting with keys is a mapping in a config
file; `--set trainer.dropout.id=0.2` sets one key.

*Default* is the value without a preset; the presets' own values follow below it. If another setting makes a
given setting meaningless, an error names both. A preset's meaningless value returns to its default.
"""


class HelpAll(argparse.Action):
    """Option `--help-all`, which prints a command's help with all settings."""

    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: str | Sequence[Any] | None,
        option_string: str | None = None,
    ) -> None:
        """Prints the help and ends with status 0."""
        parser.epilog = listing(everything=True)
        parser.print_help()
        parser.exit()


def listing(prefix: str = "", everything: bool = False) -> str:
    """Returns settings with the default preset's values, for a terminal.

    Args:
      prefix: prefix of the listed settings' names.
      everything: True for all settings, experimental ones under a separate heading; False for those that
        matter first.
    """
    wanted = [one for one in types().values() if one.name.startswith(prefix)]
    if not everything:
        wanted = [one for one in wanted if one.setting.shown]
    values = settings(presets.PRESETS["default"])
    plain = [_entry(one, values) for one in wanted if not one.setting.experimental]
    experimental = [_entry(one, values) for one in wanted if one.setting.experimental]
    which = "All settings" if everything else "Settings that matter first (--help-all lists all)"
    text = f"{_HEADER}  {which}, with the default preset's values:\n\n" + "\n".join(plain)
    if experimental:
        text += "\n\nexperimental settings:\n\n" + "\n".join(experimental)
    return text


def _entry(one: Declaration, values: dict[str, Any]) -> str:
    value = f" = {value_text(values[one.name])}" if one.name in values else " (not given)"
    meaning = textwrap.fill(
        f"{one.setting.help} {_accepted(one)}.",
        _WIDTH,
        initial_indent=_INDENT,
        subsequent_indent=_INDENT,
        break_on_hyphens=False,
    )
    return f"    {one.name}{value}\n{meaning}"


def _accepted(one: Declaration) -> str:
    """Describes a setting's values in words, with a capital first letter."""
    declared = one.setting
    hint = float if declared.open_keys else one.hint
    if declared.choices:
        many = "Any of" if isinstance(one.default, tuple) else "One of"
        text = f"{many} {', '.join(declared.choices)}"
    else:
        text = described(hint).capitalize()
        low, high = declared.at_least, declared.at_most
        if math.isfinite(low):
            text += f" from {_number(low)}" + (f" to {_number(high)}" if math.isfinite(high) else "")
        elif math.isfinite(high):
            text += f" up to {_number(high)}"
    if declared.unit:
        text += f" ({declared.unit})"
    for other, allowed in declared.applies.items():
        text += f"; with {other} {' or '.join(map(value_text, allowed))}"
    return text


def _number(value: float) -> str:
    return f"{value:,.0f}" if value == int(value) and abs(value) < 1e12 else f"{value:g}"


def settings_reference() -> str:
    """Returns docs/reference/settings.md: every setting by section, experimental ones last."""
    whole = [one for one in types().values() if not one.setting.experimental]
    tried = [one for one in types().values() if one.setting.experimental]
    count = len({one.block or one.name for one in types().values()})
    parts = [f"{_PAGE_HEADER}\nThere are {count} settings.\n"]
    sections = dict.fromkeys(_section(one) for one in whole)
    for section in sections:
        title = f"`{section}`" if section else "Whole run"
        parts.append(f"## {title}\n\n{_summary(section)}" + "\n".join(_table(whole, section)) + "\n")
    parts.append(
        "## Experimental\n\nSettings of training for experiments; they may change. Of the presets only "
        "`next_item` changes one.\n\n" + "\n".join(_table(tried, "trainer")) + "\n"
    )
    return "\n".join(parts)


def _section(one: Declaration) -> str:
    return one.name.partition(".")[0] if "." in one.name else ""


def _summary(section: str) -> str:
    if not section:
        return ""
    text = type(getattr(PipelineConfig(), section)).__doc__ or ""
    return text.strip().splitlines()[0] + "\n\n"


def _table(declared: Sequence[Declaration], section: str) -> Iterator[str]:
    yield "| setting | default | values | meaning |"
    yield "|---|---|---|---|"
    seen: set[str] = set()
    for one in declared:
        if _section(one) != section:
            continue
        if one.block and one.block not in seen:
            seen.add(one.block)
            yield f"| **`{one.block}`** | | keys below | {setting_blocks()[one.block].help} |"
        default = "" if one.setting.open_keys else f"`{value_text(one.default) or 'none'}`"
        default += "".join(f"<br>{preset}: `{text}`" for preset, text in _of_presets(one))
        yield f"| `{one.name}` | {default} | {_accepted(one)} | {one.setting.help} |"


def _of_presets(one: Declaration) -> Iterator[tuple[str, str]]:
    for name, preset in presets.PRESETS.items():
        value = settings(preset).get(one.name, one.default)
        if value != one.default:
            yield name, value_text(value)
