"""Request values as tensors of a loaded signature."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from two_tower.data_directory.column_kinds import absent_value
from two_tower.schema import features
from two_tower.schema.request_inputs import BY_NUMBER, REQUEST_INPUTS

if TYPE_CHECKING:
    import tensorflow as tf


def signature_by_number(model: Any, name: str) -> Any:
    """Returns a signature of a loaded SavedModel that takes and returns ids by number, as windows hold them.

    Args:
        model: the loaded SavedModel.
        name: the signature's name in the data's own ids, such as "serving_default".
    """
    return model.signatures.get(name + BY_NUMBER) or model.signatures[name]


def request_tensors(signature: Any, values: Mapping[str, Any]) -> dict[str, tf.Tensor]:
    """Completes a request for a loaded signature, which does not fill in its defaults in Python.

    Args:
        signature: the signature, `model.signatures[name]` of a loaded SavedModel.
        values: the request's values by name.

    Returns:
        All inputs of the signature: the given value, else the default of the table of served inputs. Columns
        of users/ that the request lacks are absent. Values that the signature does not take are left out.
    """
    import tensorflow as tf

    return {
        name: tf.constant(values[name] if name in values else _not_given(name, spec), spec.dtype)
        for name, spec in signature.structured_input_signature[1].items()
    }


def _not_given(name: str, spec: tf.TensorSpec) -> Any:
    """Returns the value of an input that a request lacks, in dimensions of 1."""
    import numpy as np

    if name in REQUEST_INPUTS:
        one = REQUEST_INPUTS[name]
        return (one.as_text() if one.id_of and spec.dtype.name == "string" else one).default_value
    absent: str | float = features.PADDING
    if not spec.dtype.is_integer:
        has_width = spec.shape.rank == 2 and spec.shape[1] is not None
        absent = absent_value(spec.dtype.name, has_width)
    return np.full([size or 1 for size in spec.shape], absent).tolist()
