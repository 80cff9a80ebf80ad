"""Loss of a model, built from the registry."""

from __future__ import annotations

import importlib

import numpy as np

from two_tower.trainer.loss.loss import Loss
from two_tower.trainer.loss.loss_registry import AUTO, LOSSES, SAMPLED
from two_tower.trainer.model.catalog_table import CatalogTable
from two_tower.trainer.settings import TrainerConfig


def loss_of(config: TrainerConfig, table: CatalogTable, log_q: np.ndarray) -> Loss:
    """Builds the loss of `trainer.softmax`, the sampled one for an unresolved auto; see `loss.Loss`."""
    name = SAMPLED if config.softmax == AUTO else config.softmax
    module, _, cls = LOSSES[name].loss.rpartition(".")
    built: Loss = getattr(importlib.import_module(module), cls)(config, table, log_q)
    return built
