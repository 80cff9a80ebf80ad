from __future__ import annotations

import pytest

from two_tower.base.import_closure import import_closure
from two_tower.trainer.model.encoder_registry import BOTH, ENCODERS
from two_tower.trainer.model.encoders import encoders
from two_tower.trainer.settings import TrainerConfig


def test_digests_of_the_settings_follow_every_encoder() -> None:
    closure = import_closure("two_tower.trainer.settings")
    assert {one.layer.rpartition(".")[0] for one in ENCODERS.values()} <= closure


@pytest.mark.parametrize("choice", ENCODERS)
def test_a_name_builds_the_layer_of_its_path(choice: str) -> None:
    (layer,) = encoders(9, TrainerConfig(encoder=choice))
    assert f"{type(layer).__module__}.{type(layer).__name__}" == ENCODERS[choice].layer


def test_a_combination_has_the_order_of_the_registry() -> None:
    # The order is that of columns in saved kernels.
    layers = encoders(9, TrainerConfig(encoder=BOTH))
    assert [layer.name for layer in layers] == ["mean_encoder", "attention_encoder"]
