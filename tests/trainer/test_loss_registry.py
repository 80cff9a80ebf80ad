from __future__ import annotations

import numpy as np
import pytest

from two_tower.base.import_closure import import_closure
from two_tower.trainer.loss.loss_registry import AUTO, LOSSES, SAMPLED
from two_tower.trainer.loss.losses import loss_of
from two_tower.trainer.model.catalog_table import CatalogArrays, CatalogTable
from two_tower.trainer.settings import TrainerConfig

NONE = np.full([3, 1], -1, np.int32)
TABLE = CatalogTable(CatalogArrays(np.arange(3), NONE, NONE, np.zeros(3, np.float32)), np.arange(3))


def test_digests_of_the_settings_follow_every_loss() -> None:
    closure = import_closure("two_tower.trainer.settings")
    assert {one.loss.rpartition(".")[0] for one in LOSSES.values()} <= closure


@pytest.mark.parametrize(("choice", "name"), [*zip(LOSSES, LOSSES, strict=True), (AUTO, SAMPLED)])
def test_a_name_builds_the_loss_of_its_path(choice: str, name: str) -> None:
    made = loss_of(TrainerConfig(softmax=choice), TABLE, np.zeros(4, np.float32))
    assert f"{type(made).__module__}.{type(made).__name__}" == LOSSES[name].loss
