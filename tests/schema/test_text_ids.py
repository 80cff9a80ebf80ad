"""Numbers of text ids: fixed for ever, and those of TensorFlow's graph."""

from __future__ import annotations

import numpy as np
import pytest

from two_tower.schema import text_ids

TEXTS = ["a", "zoe", "b-2", "Łódź", "", " a", "a" * 300, "550e8400-e29b-41d4-a716-446655440000", "\x00"]


def test_the_numbers_never_change() -> None:
    """Holds what data directories and models of another release rely on."""
    assert [text_ids.number_of(text) for text in TEXTS[:4]] == [
        3_804_376_983_451_461_724,
        2_205_899_260_742_340_916,
        2_828_143_464_568_834_603,
        773_520_490_683_768_177,
    ]


def test_many_numbers_are_each_one_s() -> None:
    found = text_ids.numbers_of(TEXTS)
    assert found.dtype == np.int64
    assert found.tolist() == [text_ids.number_of(text) for text in TEXTS]
    assert text_ids.numbers_of([]).tolist() == []


def test_numbers_are_ids_that_lie_apart() -> None:
    found = text_ids.numbers_of(f"user_{number:06d}" for number in range(100_000))
    assert found.min() >= 0 and found.max() < text_ids.NUMBERS
    assert len(np.unique(found)) == 100_000
    assert abs(found.mean() / text_ids.NUMBERS - 0.5) < 0.01


@pytest.mark.slow
def test_a_graph_computes_the_same_numbers() -> None:
    import tensorflow as tf

    texts = [*TEXTS, *(f"SKU-{number}" for number in range(1_000))]
    in_graph = tf.strings.to_hash_bucket_strong(texts, text_ids.NUMBERS, list(text_ids.KEY))
    assert in_graph.numpy().tolist() == text_ids.numbers_of(texts).tolist()
