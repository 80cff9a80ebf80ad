"""History encoders of a model, built from the registry."""

from __future__ import annotations

import importlib
from typing import Any

from two_tower.trainer.model.encoder_registry import registered
from two_tower.trainer.settings import TrainerConfig


def encoders(history_length: int, config: TrainerConfig) -> list[Any]:
    """Builds the encoders of `trainer.encoder`, Keras layers; their outputs are concatenated."""
    layers = []
    for encoder in registered(config.encoder):
        module, _, name = encoder.layer.rpartition(".")
        layers.append(getattr(importlib.import_module(module), name)(history_length, config))
    return layers
