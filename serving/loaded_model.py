"""Loading of served models in the process of a command."""

from __future__ import annotations

import os
from typing import Any

from two_tower.base.errors import UserError


def load_model(model_path: str) -> Any:
    """Loads a SavedModel.

    Raises:
        UserError: TensorFlow cannot load it.
    """
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    os.environ.setdefault("TF_USE_LEGACY_KERAS", "1")
    import scann  # noqa: F401  registers the model's operations
    import tensorflow as tf

    try:
        return tf.saved_model.load(model_path)
    except Exception as error:
        # TensorFlow raises a dozen kinds of errors for broken files.
        raise UserError(
            f"{model_path}: the model does not load ({' '.join(str(error).split())[:300]}). Copy the whole "
            "directory again."
        ) from error
