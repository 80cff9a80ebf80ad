"""Every setting reaches a component: with another value some component has another parameter."""

from __future__ import annotations

from typing import Any

import pytest

from tests.pipeline.test_meaningless_settings import NEEDS, OTHERS
from two_tower.base.settings import with_values
from two_tower.data_directory.feature_columns import FeatureSpec, ResolvedFeatures
from two_tower.pipeline.settings.pipeline_config import PipelineConfig

pytestmark = [pytest.mark.slow, pytest.mark.long]


def parameters(config: PipelineConfig) -> dict[str, Any]:
    """Returns the components' parameters by name, and Beam's options, of a run with this configuration."""
    from two_tower.pipeline.create_pipeline import RunInputs, create_pipeline

    def specs(names: tuple[str, ...], kind: str) -> tuple[FeatureSpec, ...]:
        return tuple(FeatureSpec(name, name, kind) for name in names)

    resolved = ResolvedFeatures(
        users=specs(config.features.users, "categorical"), items=specs(config.features.items, "multi_valued")
    )
    drawn = create_pipeline(RunInputs("data", "root", "digest"), "root", config, resolved)
    found = {
        one.id: {name: str(value) for name, value in one.exec_properties.items()} for one in drawn.components
    }
    return {**found, "beam": list(drawn.beam_pipeline_args)}


def test_every_setting_reaches_a_component(monkeypatch: pytest.MonkeyPatch) -> None:
    from two_tower.pipeline import create_pipeline as dag

    # Digests of sources take most of the time.
    monkeypatch.setattr(dag, "import_digest", lambda *modules: "digest")
    without: dict[str, Any] = {}
    for name, value in {**OTHERS, "beam_args": ("--direct_num_workers=2",)}.items():
        if name.startswith("resources."):
            continue  # of compiled jobs, see test_compiled_job.py
        needed = NEEDS.get(name, {})
        key = repr(needed)
        if key not in without:
            without[key] = parameters(with_values(PipelineConfig(), needed))
        written = name.replace("<event type>", "like")
        assert parameters(with_values(PipelineConfig(), {**needed, written: value})) != without[key], name
