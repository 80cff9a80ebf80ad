"""The gate refuses real models, each for its own reason: trained, spoilt, asked, measured and judged.

What `test_gate_verdicts.py` says of made-up ranks is said here of what towers give. Latency alone is made up:
it is judged from a given measurement.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import tensorflow as tf
import tensorflow_transform as tft

from tests.listening_logs import catalog_of_ids, events_of
from tests.small_world import Transformed
from two_tower.components.interaction_example_gen.splits import TimeSplit
from two_tower.components.interaction_example_gen.windows import WindowCutter
from two_tower.data_directory.feature_columns import ResolvedFeatures
from two_tower.evaluation.baselines.fitting import fit_baselines
from two_tower.evaluation.beyond_accuracy import ItemVectors
from two_tower.evaluation.exact_search import top_rows
from two_tower.evaluation.feature_values import FeatureValues
from two_tower.evaluation.figures import Recommendations, evaluate, results_of
from two_tower.evaluation.gate import evidence
from two_tower.evaluation.gate.judge import BLESSED, REFUSED, Judgement, judge
from two_tower.evaluation.queries import all_queries
from two_tower.evaluation.recommenders import BLESSED_MODEL, MODEL, MODEL_EXACT
from two_tower.evaluation.settings import GateConfig
from two_tower.evaluation.slices import all_slices
from two_tower.evaluation.train_counts import TrainCounts
from two_tower.schema import features
from two_tower.serving.index import NO_QUANTIZATION, ScannIndex, ScannSettings
from two_tower.trainer.loop import training
from two_tower.trainer.loop.two_tower_model import TwoTowerModel
from two_tower.trainer.loss.sampling import log_sampling_probability
from two_tower.trainer.model.catalog_table import CatalogArrays, CatalogTable
from two_tower.trainer.model.windows import Positions, windows_of
from two_tower.trainer.settings import Dropout, TrainerConfig

pytestmark = pytest.mark.slow

# Users hear their own class alone, and of its ten items any: who has learnt that finds half of what comes
# next among five, and two who have learnt it find other halves. The first classes have the most users, so
# that who has learnt what is popular finds more than chance, which is one in forty.
CLASSES, ITEMS_OF_A_CLASS, USERS, PLAYS = 20, 10, 240, 40
ITEMS = CLASSES * ITEMS_OF_A_CLASS
GENRES = 8  # of item i, of its class: i % CLASSES % GENRES
BROKEN = 3
CUTOFF, HISTORY_LENGTH, SEED = 5, 8, 3
CONFIG = TrainerConfig(
    embedding_dim=16, query_hidden_units=(32,), temperature=0.1, windows_per_step=16, positions_per_step=256,
    dropout=Dropout(hidden=0.0, id=0.05, history=0.0),
)  # fmt: skip
LIMITS = GateConfig(
    cutoff=CUTOFF, min_recall=0.05, min_lift_over_best_baseline=0.1, min_change_against_blessed=-0.08,
    min_slice_change=-0.1, max_latency_p95=25.0, min_discovery_lift=-1,
)  # fmt: skip
Vectors = npt.NDArray[np.float32]
Ints = npt.NDArray[np.int64]


@pytest.fixture(scope="module", autouse=True)
def slices_of_few_users_are_judged() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(evidence, "MIN_SLICE_USERS", 15)
        yield


@dataclasses.dataclass(frozen=True)
class Embedded:
    """A model's embeddings of the test queries [Q, D] and of all items [ITEMS, D], by id."""

    query: Vectors
    item: Vectors

    def exact(self) -> npt.NDArray[np.int64]:
        return top_rows(self.query, self.item, CUTOFF)

    def through(self, leaves: int, searched: int) -> npt.NDArray[np.int64]:
        """Answers as a ScaNN index that searches some of its leaves."""
        index = ScannIndex(self.item, ScannSettings(leaves, searched, 0, NO_QUANTIZATION, CUTOFF), CUTOFF)
        rows, scores = (found.numpy() for found in index.search(self.query, tf.constant(CUTOFF)))
        return np.where(np.isnan(scores), -1, rows).astype(np.int64)

    def without(self, genre: int) -> Embedded:
        """Zeroes the vectors of a genre's items."""
        is_lost = np.arange(ITEMS) % CLASSES % GENRES == genre
        return Embedded(self.query, np.where(is_lost[:, None], np.float32(0), self.item))


class World:
    """A listening log through Transform, and towers over it."""

    def __init__(self, world: Transformed, baselines: Sequence[str]) -> None:
        self.test = world.raw["test"]
        self.queries = all_queries(self.test)
        self.train_batch, self.test_batch = world.batch("train"), world.batch("test")
        self._output = tft.TFTransformOutput(world.graph)
        spec = tft.TFTransformOutput(world.catalog_graph).transformed_feature_spec()
        catalog = CatalogArrays.read(world.catalog_files, spec)
        self._table = CatalogTable(catalog, np.unique(world.raw["train"].item_id))
        self._log_q = log_sampling_probability(catalog, training._label_counts(self._output))
        train, evaluation = TrainCounts.of(world.raw["train"]), world.raw["eval"]
        genre = (self.queries.label_item_id % CLASSES % GENRES).astype(np.str_)
        self._shared: dict[str, Any] = {
            "slices": all_slices(
                self.queries, self.test, train, evaluation, history_length=HISTORY_LENGTH, recent_from=None,
                columns=[FeatureValues("genre", np.arange(len(genre)), genre)],
            ),
            "train": train,
            "history_popularity": train.popularity_of_histories(self.test, self.queries, HISTORY_LENGTH),
        }  # fmt: skip
        fitted = fit_baselines(
            train.events, evaluation, cutoff=CUTOFF, repeats_recommendable=True, seed=SEED,
            history_length=HISTORY_LENGTH, names=baselines,
        )  # fmt: skip
        rows = np.arange(len(self.queries))
        self.baselines = {
            name: baseline.recommend(self.test, self.queries, rows, CUTOFF, False)
            for name, baseline in fitted.items()
        }

    def model(self, seed: int) -> TwoTowerModel:
        tf.keras.utils.set_random_seed(seed)
        users = self._output.vocabulary_size_by_name(features.USER_VOCABULARY)
        model = TwoTowerModel(self._table, self._log_q, users, HISTORY_LENGTH, CONFIG, aggregates=())
        model.compile(optimizer=tf.keras.optimizers.Adam(0.02))
        return model

    def train(self, model: TwoTowerModel, steps: int, batch: dict[str, Any] | None = None) -> TwoTowerModel:
        data = tf.data.Dataset.from_tensor_slices(batch or self.train_batch).shuffle(1_000, seed=SEED)
        windows = data.repeat().ragged_batch(CONFIG.windows_per_step, drop_remainder=True)
        model.fit(windows, steps_per_epoch=steps, verbose=0)
        return model

    def shuffled(self) -> dict[str, Any]:
        """Shuffles train's plays among users: labels tell of popularity, and nothing of the user."""
        items = self.train_batch[features.HISTORY_ITEM_ID]
        mixed = np.random.default_rng(SEED).permutation(items.flat_values.numpy())
        return {**self.train_batch, features.HISTORY_ITEM_ID: items.with_flat_values(mixed)}

    def embedded(self, model: TwoTowerModel) -> Embedded:
        at = Positions(*(tf.constant(of, tf.int32) for of in (self.queries.window, self.queries.position)))
        windows = windows_of(self.test_batch, self._table, HISTORY_LENGTH, ())
        return Embedded(
            model.query_tower(windows, at).numpy(), model.candidate_tower(tf.range(ITEMS)).numpy()
        )

    def judged(
        self,
        model: Embedded,
        blessed: Embedded | None = None,
        served: npt.NDArray[np.int64] | None = None,
        p95_ms: float = 8.0,
        limits: GateConfig = LIMITS,
    ) -> Judgement:
        """Follows the evaluator from answers to the verdict; `served` are the index's answers."""
        exact = model.exact()
        answers = {MODEL: exact if served is None else served, MODEL_EXACT: exact}
        answers |= {BLESSED_MODEL: blessed.exact()} if blessed else {}
        recommendations = Recommendations(
            queries=self.queries, items={**answers, **self.baselines}, cutoffs=(1, CUTOFF), seed=SEED,
            catalog_size=ITEMS, vectors=ItemVectors.of_model(np.arange(ITEMS), model.item),
            judged_cutoff=CUTOFF, **self._shared,
        )  # fmt: skip
        results = results_of(recommendations)
        figures = evaluate(recommendations, results)
        metrics = figures.pop("released_metrics")[BLESSED_MODEL]
        evaluation = {
            **figures,
            "ann": {**figures["ann"], "parity": {"ok": True, "towers": "t", "expected_towers": "t"}},
            "catalog": {"items": ITEMS},
            "latency": {"single": {"p95_ms": p95_ms}},
            "blessed_model": {"eligible": True, "reason": "", "metrics": metrics} if blessed else None,
            "bootstrap": {"resamples": 500, "seed": SEED},
        }
        return judge(evaluation, limits, results)


@dataclasses.dataclass(frozen=True)
class Models:
    """All that are judged; `equal` is of another seed than `good`, and `early` is that one before it was."""

    world: World
    good: Embedded
    equal: Embedded
    early: Embedded
    untrained: Embedded
    shuffled: Embedded


def world_of(folders: pytest.TempPathFactory, user: Ints, item: Ints, baselines: Sequence[str]) -> World:
    """Makes a world of plays in order, PLAYS for each user; train has the first thirty, test the last six."""
    log = events_of(user, item, np.tile(1_000 * np.arange(PLAYS), USERS), b"listen", play_ratio=1.0)
    split = TimeSplit(train_end=30_000, eval=(30_500, 34_000), test=(34_500, 40_000))
    cutter = WindowCutter(split, repeats_recommendable=True, history_length=HISTORY_LENGTH, positions=15)
    catalog = catalog_of_ids(ITEMS)
    found = Transformed.of(folders.mktemp("log"), log, cutter, catalog, ResolvedFeatures(history=()))
    return World(found, baselines)


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Models:
    draw = np.random.default_rng(SEED)
    share = 1 / np.arange(1, CLASSES + 1)
    of_user = draw.choice(CLASSES, USERS, p=share / share.sum())
    user = np.repeat(np.arange(USERS), PLAYS)
    item = of_user[user] + CLASSES * draw.integers(0, ITEMS_OF_A_CLASS, len(user))
    world = world_of(tmp_path_factory, user, item, ("most_popular", "decayed_popularity"))
    first, second = world.model(seed=1), world.model(seed=6)
    untrained = world.embedded(first)
    good = world.embedded(world.train(first, steps=130))
    early = world.embedded(world.train(second, steps=15))
    equal = world.embedded(world.train(second, steps=115))
    shuffled = world.embedded(world.train(world.model(seed=1), 100, world.shuffled()))
    return Models(world, good, equal, early, untrained, shuffled)


def missed(judgement: Judgement) -> set[str]:
    return {threshold.name for threshold in judgement.thresholds if not threshold.ok}


def test_a_good_model_is_blessed_and_so_is_one_that_differs_by_noise_alone(models: Models) -> None:
    first = models.world.judged(models.good, served=models.good.through(leaves=60, searched=60))
    assert first.verdict == BLESSED
    recall = first.thresholds[0]
    assert recall.name == "min_recall" and recall.value > 0.4
    again = models.world.judged(models.equal, blessed=models.good)
    assert again.verdict == BLESSED and again.refusal is None
    (change,) = (one for one in again.thresholds if one.name == "min_change_against_blessed")
    # They are two models: noise there is.
    assert change.value != 0 and change.low is not None and change.high is not None
    assert change.low < 0 < change.high
    assert "min_slice_change" in {one.name for one in again.thresholds}


@pytest.mark.parametrize(
    ("judge_it", "reasons", "part"),
    [
        pytest.param(
            lambda m: m.world.judged(m.untrained),
            {"min_recall", "min_lift_over_best_baseline"},
            None,
            id="untrained",
        ),
        pytest.param(
            lambda m: m.world.judged(m.shuffled), {"min_lift_over_best_baseline"}, None, id="shuffled labels"
        ),
        pytest.param(
            lambda m: m.world.judged(m.good.without(BROKEN), blessed=m.good),
            {"min_slice_change"},
            f"genre={BROKEN}",
            id="a broken slice",
        ),
        pytest.param(
            lambda m: m.world.judged(m.good, served=m.good.through(leaves=60, searched=1)),
            {"min_ann_recall", "worst_ann_recall"},
            None,
            id="too coarse an index",
        ),
        pytest.param(
            lambda m: m.world.judged(m.good, blessed=m.good, p95_ms=31.0),
            {"max_latency_p95"},
            None,
            id="slow",
        ),
        pytest.param(
            lambda m: m.world.judged(m.early, blessed=m.good),
            {"min_change_against_blessed"},
            None,
            id="worse than the blessed model",
        ),
    ],
)
def test_a_bad_model_is_refused_for_its_own_reason(
    models: Models, judge_it: Callable[[Models], Judgement], reasons: set[str], part: str | None
) -> None:
    judgement = judge_it(models)
    assert judgement.verdict == REFUSED
    # Who finds less everywhere finds less in the slices.
    found = missed(judgement) - ({"min_slice_change"} - reasons)
    assert found == reasons
    assert judgement.refusal is not None
    if part:
        assert judgement.refusal["slice"] == part
        assert sum(one["in_slice"] for one in judgement.refusal["examples"]) >= 8


def test_towers_that_have_learnt_nothing_are_refused_though_the_repeat_head_wins_everything(
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    """Draws plays of four items of a user's class, and later as often of the six others.

    The repeat head puts the history in front, as personal history orders it. Items of untrained towers come
    behind it.
    """
    draw = np.random.default_rng(SEED)
    of_user = np.repeat(draw.integers(0, CLASSES, USERS), PLAYS)
    own = np.argsort(draw.random([USERS, ITEMS_OF_A_CLASS]), axis=1)
    user, play = np.divmod(np.arange(USERS * PLAYS), PLAYS)
    is_new = (play >= 30) & (draw.random(len(user)) < 0.5)
    which = np.where(is_new, draw.integers(4, ITEMS_OF_A_CLASS, len(user)), draw.integers(0, 4, len(user)))
    item = of_user + CLASSES * own[user, which]
    world = world_of(tmp_path_factory, user, item, ("personal_history", "co_occurrence"))
    untrained = world.embedded(world.model(seed=1))
    heard, behind = world.baselines["personal_history"], untrained.exact()
    served = np.stack(
        [
            list(dict.fromkeys([*own_items[own_items >= 0].tolist(), *rest.tolist()]))[:CUTOFF]
            for own_items, rest in zip(heard, behind, strict=True)
        ]
    )
    limits = dataclasses.replace(
        LIMITS, min_lift_over_best_baseline=-0.05, min_discovery_lift=0, min_ann_recall=0
    )
    judgement = world.judged(untrained, served=served, limits=limits)
    assert missed(judgement) == {"min_discovery_lift"}
    (lift,) = (one for one in judgement.thresholds if one.name == "min_discovery_lift")
    assert lift.note == "best baseline there: co_occurrence" and lift.value < -0.2
