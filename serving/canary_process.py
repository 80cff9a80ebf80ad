"""Process of the canary: it has a model's files alone, and asks them recorded queries.

Its command is `python -m two_tower.serving.canary_process MODEL RECORD`.
"""

from __future__ import annotations

import json
import sys

import numpy as np

from two_tower.serving.canary import SIGNATURE, difference


def main(model_path: str, record_file: str) -> int:
    """Asks a copy the recorded queries, and prints what differs.

    Args:
        model_path: the SavedModel, a path or URL.
        record_file: JSON of `canary.recorded`; or null, for a model that must only load.

    Returns:
        The exit status: 0 for equal answers, else 1.
    """
    import tensorflow as tf
    from scann.scann_ops.py import scann_ops  # noqa: F401  registers ScaNN's ops

    with open(record_file, encoding="utf-8") as file:
        record = json.load(file)
    try:
        model = tf.saved_model.load(model_path)
    except Exception as error:
        # TensorFlow raises a dozen kinds of errors for broken files.
        print(f"The model does not load: {' '.join(str(error).split())[:500]}")
        return 1
    signature = model.signatures.get(SIGNATURE)
    if signature is None:
        print(f"The model has no signature {SIGNATURE}.")
        return 1
    if record is None:
        return 0
    specs = signature.structured_input_signature[1]
    if set(specs) != set(record["inputs"]):
        now, then = (", ".join(sorted(names)) for names in (specs, record["inputs"]))
        print(f"The model takes the inputs {now}; the evaluation recorded {then}.")
        return 1
    inputs = {
        name: tf.reshape(tf.constant(value, specs[name].dtype), np.shape(value))
        for name, value in record["inputs"].items()
    }
    try:
        answer = signature(**inputs)
    except Exception as error:
        print(f"The model does not answer: {' '.join(str(error).split())[:500]}")
        return 1
    if found := difference(record, answer["item_id"].numpy(), answer["score"].numpy()):
        print(found)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
