"""Tests of the reference model in training_speed.py: the plain form computes the packed form's loss."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
import tensorflow_transform as tft

from benchmarks.plain_retrieval import PlainRetrieval, plain_queries, query_batches, write_queries
from tests.small_world import CONFIG, HISTORY_LENGTH, Transformed
from two_tower.schema import features
from two_tower.trainer.loop import training
from two_tower.trainer.loop.two_tower_model import TwoTowerModel
from two_tower.trainer.loss.sampling import log_sampling_probability
from two_tower.trainer.model.catalog_table import CatalogArrays, CatalogTable

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("encoder", ["mean", "attention"])
def test_the_plain_form_has_the_packed_forms_weights_and_loss(
    small_world: Transformed, tmp_path: Path, encoder: str
) -> None:
    output = tft.TFTransformOutput(small_world.graph)
    of_catalog = tft.TFTransformOutput(small_world.catalog_graph)
    catalog = CatalogArrays.read(small_world.catalog_files, of_catalog.transformed_feature_spec())
    vocabulary = output.vocabulary_by_name(features.ITEM_VOCABULARY)
    table = CatalogTable(catalog, np.array([int(item) for item in vocabulary]))
    log_q = log_sampling_probability(catalog, training._label_counts(output))
    users = output.vocabulary_size_by_name(features.USER_VOCABULARY)
    config = dataclasses.replace(CONFIG, encoder=encoder)
    packed = TwoTowerModel(table, log_q, users, HISTORY_LENGTH, config)
    plain = PlainRetrieval(table, log_q, users, HISTORY_LENGTH, config)

    batch = small_world.batch("train")
    # One query per window, since the plain form also uses negatives from the query's own window.
    steps = batch[features.LABEL_STEP].to_tensor().numpy()
    one = np.argsort(steps > 0, axis=1, kind="stable")[:, -1:] == np.arange(steps.shape[1])
    lengths = batch[features.LABEL_STEP].row_lengths()
    batch[features.LABEL_STEP] = tf.RaggedTensor.from_tensor(tf.constant(np.where(one, steps, 0)), lengths)
    queries = plain_queries(batch, table, HISTORY_LENGTH, config)
    count = write_queries([queries], str(tmp_path / "queries"), files=2)
    files = [str(path) for path in (tmp_path / "queries").iterdir()]
    (read,) = query_batches(files, HISTORY_LENGTH, count, shuffle_seed=1).take(1)

    losses = [model.compute_loss(inputs) for model, inputs in ((plain, read), (packed, batch))]
    ours, theirs = ([*model.query_tower.weights, *model.candidate_tower.weights] for model in (packed, plain))
    assert [weight.shape for weight in ours] == [weight.shape for weight in theirs]
    draw = np.random.default_rng(3)
    for one_of_ours, one_of_theirs in zip(ours, theirs, strict=True):
        values = draw.normal(0, 0.3, one_of_ours.shape)
        one_of_ours.assign(values)
        one_of_theirs.assign(values)
    before, losses = losses, [float(plain.compute_loss(read)), float(packed.compute_loss(batch))]
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)
    assert abs(losses[0] - float(before[0])) > 0.01 and count > 20
