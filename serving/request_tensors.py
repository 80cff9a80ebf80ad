"""A request's values as the tensors that a loaded signature takes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from two_tower.data_directory.column_kinds import absent_value
from two_tower.schema import features
from two_tower.schema.request_inputs import REQUEST_INPUTS

if TYPE_CHECKING:
    import tensorflow as tf


def request_tensors(signature: Any, values: Mapping[str, Any]) -> dict[str, tf.Tensor]:
    """Completes a request for a loaded signature, which in Python does not fill in its defaults.

    Args:
        signature: of a loaded SavedModel, `model.signatures[name]`.
        values: of the request, by name.

    Returns:
        All inputs of the signature: as given, else the default of the table of served inputs. A model may
        know other columns of users/ than the request: these are absent. Values that the signature does not
        take are left out.
    """
    import tensorflow as tf

    return {
        name: tf.constant(values[name] if name in values else _not_given(name, spec), spec.dtype)
        for name, spec in signature.structured_input_signature[1].items()
    }


def _not_given(name: str, spec: tf.TensorSpec) -> Any:
    """Returns what a model reads where a request lacks an input, in dimensions of 1."""
    import numpy as np

    if name in REQUEST_INPUTS:
        return REQUEST_INPUTS[name].default_value
    absent: str | float = features.PADDING
    if not spec.dtype.is_integer:
        has_width = spec.shape.rank == 2 and spec.shape[1] is not None
        absent = absent_value(spec.dtype.name, has_width)
    return np.full([size or 1 for size in spec.shape], absent).tolist()
