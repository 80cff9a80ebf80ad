"""Presets: whole sets of settings, each with what was measured when it was chosen."""

from __future__ import annotations

import dataclasses

from two_tower.base.durations import DAY
from two_tower.components.interaction_example_gen.settings import SplitConfig, WindowConfig
from two_tower.evaluation.settings import EvaluationConfig, GateConfig
from two_tower.pipeline.settings.pipeline_config import PipelineConfig
from two_tower.trainer.settings import (
    AGGREGATES,
    DEFAULT_PARTS,
    ITEM_BIAS,
    REPEAT_HEAD,
    USER_ID,
    Dropout,
    Negatives,
    Schedule,
    TrainerConfig,
)

HOUR = 3_600

# What each preset is for stands in the command line's help.
# Chosen on eval of the simulated default run, one seed each: Recall@100 .507 with a constant rate of .002,
# three epochs and 64 dimensions; .514 with this schedule and four epochs; .521 with 128 dimensions as well;
# .543 with scores of their own for the history's items, and .551 with 100 of them, not 50; .553 with 32
# numbers of an item's own, not 128, and .552 with histories of 200 too; .558 with items' biases as well, in
# three epochs (docs/decisions/0011-item-embeddings.md); .563 with every label of a step's windows, some
# 3,400, twice the rate and decay, in two (docs/decisions/0013-all-labels-of-a-step.md). Before scores of the
# history's items 256 dimensions, a dot product, a learnt temperature and attention gave no more in two to
# six epochs.
_LISTENING = TrainerConfig(
    embedding_dim=128,
    parts=(*DEFAULT_PARTS, REPEAT_HEAD),
    learning_rate=0.005,
    schedule=Schedule("cosine", warmup=100),
)


def _without(parts: tuple[str, ...], *left_out: str) -> tuple[str, ...]:
    return tuple(part for part in parts if part not in left_out)


PRESETS: dict[str, PipelineConfig] = {
    "default": PipelineConfig(
        trainer=dataclasses.replace(
            _LISTENING,
            item_embedding_dim=32,
            parts=(*_LISTENING.parts, ITEM_BIAS),
            # All that a step's windows hold, as long as users have some 130 labels.
            positions_per_step=4_096,
            epochs=2,
            learning_rate=0.01,
            weight_decay=0.3,
        )
    ),
    "small": PipelineConfig(
        # Ratings come by the handful a day: a day's would be too few to tell two models apart.
        split=SplitConfig(holdout_seconds=14 * DAY, gap_seconds=HOUR),
        # Short windows: most users have a few events, and a batch is padded to its longest.
        windows=WindowConfig(history_length=20, positions=20),
        trainer=TrainerConfig(
            query_hidden_units=(64,),
            # Of all settings tried on MovieTweetings' eval split the one that matters: Recall@100 was .327 at
            # 0.07, .348 at 0.12, .360 at 0.2 and .369 at 0.3, where decayed popularity has .348. Later, at
            # .360, the whole catalog for negatives gave Recall@10 .106 for .089.
            temperature=0.3,
            softmax="auto",
            # 48 windows a step there. With 512, a constant rate and up to 30 epochs Recall@100 was .361 and
            # Recall@10 .100; with 48 they are .369 to .372 and .109 to .114 (two seeds), and .369 and .111 by
            # this schedule; with 64 numbers an embedding and not 32 .374 and .116 (.371 for .363 by another
            # seed). Items' biases: .366 and .117 with 32, .367 with 64. Where items begin at factors of
            # co-occurrence .399 for .377 (docs/decisions/0014-co-occurrence-initialisation.md).
            item_initial="co_occurrence",
            windows_per_step=0,
            epochs=8,
            learning_rate=0.005,
            schedule=Schedule("cosine", warmup=100),
            dropout=Dropout(hidden=0.3, id=0.2, history=0.1),
            patience=4,
        ),
        # A few thousand queries: Recall@100 of one and the same model wanders by about a point, and lower
        # bounds lie about a point below.
        gate=GateConfig(
            min_lift_over_best_baseline=-0.01, min_change_against_blessed=-0.01, min_slice_change=-0.05
        ),
    ),
    # The benchmark protocol of Yambda's authors, on any size of it: who is asked once for all that is played
    # in the test period is asked for a user's tastes, more than what follows the track now playing. Chosen on
    # eval of a simulated year of 2,500 users (152 queries; seeds of one model differ by .01). Recall@100 is
    # .288 as the default trains, .359 with labels from further on, .360 to .372 with histories of 200 and no
    # user id, .364 at this temperature in as many epochs, and .374 with scores of the history's items, which
    # take five (two seeds; .383 at the best of eight). Horizons of 20 and 80 gave .350 and .354; windows
    # bound them by their positions. About what seeds differ by: labels drawn among distinct items (-.006 to
    # +.011), 2,048 positions (+.013), items' biases (+.008). For where items begin see
    # docs/decisions/0014-co-occurrence-initialisation.md.
    "yambda": PipelineConfig(
        split=SplitConfig(protocol="yambda"),
        trainer=dataclasses.replace(
            _LISTENING,
            temperature=0.15,
            epochs=5,
            label_horizon=300,
            parts=_without(_LISTENING.parts, USER_ID),
            item_initial="co_occurrence",
        ),
    ),
    # The protocol by which next-item recommenders are compared, on sequences without times. Chosen by
    # validation alone (HR@10) on MovieLens-1M (`benchmarks/ml1m_next_item.py`; 163 labels a user) and on what
    # S3-Rec publishes. The cosine and the windows of a step, of a plain dot product and the cosine: MovieLens
    # .347 to .349 (three seeds) and .348, Beauty .094 and .102, LastFM .098 and .096; of 32 windows a step
    # and the number taken here: Beauty (118) .092 (a dot product, and three times as long) and .102, LastFM
    # (8) .086 and .096. Then of a decay of 0, .5 and 1: MovieLens .358, .357, .353, Beauty .1035, .109, .106,
    # Yelp .046, .050, .050, LastFM .104, .111, .100 (seeds differ by .01). For where items begin, and at
    # which rate they go on, see docs/decisions/0014-co-occurrence-initialisation.md.
    "next_item": PipelineConfig(
        split=SplitConfig(protocol="leave_one_out"),
        # A user's whole history is one window.
        windows=WindowConfig(history_length=200, positions=2_400),
        trainer=TrainerConfig(
            encoder="attention+mean",
            softmax="auto",
            negatives=Negatives(deduplicate=True),
            embedding_dim=128,
            parts=_without(DEFAULT_PARTS, USER_ID, AGGREGATES),
            query_hidden_units=(256,),
            dropout=Dropout(hidden=0.3, id=0.0, history=0.0),
            weight_decay=0.5,
            item_initial="co_occurrence",
            learning_rate=0.001,
            schedule=Schedule("cosine", warmup=300),
            epochs=16,
            patience=5,
            # All that the windows hold.
            windows_per_step=0,
            positions_per_step=100_000,
        ),
        evaluation=EvaluationConfig(max_queries=1_000_000),
        gate=GateConfig(cutoff=10),
    ),
    "smoke": PipelineConfig(
        windows=WindowConfig(history_length=20, positions=50),
        trainer=TrainerConfig(
            embedding_dim=16,
            parts=(*DEFAULT_PARTS, REPEAT_HEAD),
            query_hidden_units=(32,),
            epochs=3,
            learning_rate=0.01,
            windows_per_step=64,
            positions_per_step=512,
        ),
        evaluation=EvaluationConfig(max_queries=2_000),
        # So little training is not expected to beat a user's own favourites, nor two trainings to agree.
        gate=GateConfig(
            min_recall=0.01,
            min_lift_over_best_baseline=-0.5,
            min_change_against_blessed=-0.05,
            min_slice_change=-0.2,
        ),
    ),
}
PRESET_HELP: dict[str, str] = {
    "default": "a million events and more, of a few weeks or longer",
    "small": "a hundred thousand events over months: two weeks are held back for evaluation, not a day",
    "yambda": "Yambda's own protocol: the state is frozen at the split, the labels are a day's items",
    "next_item": "sequences without times: each user's last item, by causal self-attention and means",
    "smoke": "seconds of training, to see that everything works",
}
