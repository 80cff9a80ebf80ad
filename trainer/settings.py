"""Settings of the towers, the loss and the training."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping

from two_tower.base.errors import UserError
from two_tower.base.settings import setting
from two_tower.trainer.loss.loss_registry import CHOICES as LOSS_CHOICES
from two_tower.trainer.loss.loss_registry import LOSSES, SAMPLED, SAMPLING_CHOICES, RegisteredLoss
from two_tower.trainer.model.encoder_registry import CHOICES as ENCODER_CHOICES
from two_tower.trainer.model.encoder_registry import (
    COMBINATIONS,
    ENCODERS,
    RegisteredEncoder,
    has_dropout,
    registered,
)

# Values of trainer.parts.
HISTORY, SEED, USER_ID, EXAMPLE_AGE = "history", "seed", "user_id", "example_age"
AGGREGATES, SHARED_TABLES, NORMALISATION = "aggregates", "shared_tables", "normalisation"
ITEM_BIAS, REPEAT_HEAD = "item_bias", "repeat_head"
PARTS = (
    HISTORY,
    SEED,
    USER_ID,
    EXAMPLE_AGE,
    AGGREGATES,
    SHARED_TABLES,
    NORMALISATION,
    ITEM_BIAS,
    REPEAT_HEAD,
)
# Parts that the towers have unless they are left out.
DEFAULT_PARTS = PARTS[:7]


def _meanings(registered: Mapping[str, RegisteredEncoder | RegisteredLoss]) -> str:
    return ", ".join(f"{name} ({one.meaning})" for name, one in registered.items())


_SAMPLED = {"trainer.softmax": SAMPLING_CHOICES}


@dataclasses.dataclass(frozen=True)
class Negatives:
    """Keys of trainer.negatives."""

    uniform: int = setting(
        0,
        help="Negatives drawn from the whole catalog at each step, beside the batch's labels.",
        unit="items",
        at_least=0,
        at_most=10_000_000,
        applies=_SAMPLED,
    )
    memory: int = setting(
        0,
        help="Labels of earlier steps that stay negatives.",
        unit="labels",
        at_least=0,
        at_most=10_000_000,
        applies=_SAMPLED,
    )
    hard: int = setting(
        0,
        help="Negatives of each query that count: those with the highest logits; 0: all.",
        unit="items",
        at_least=0,
        at_most=10_000_000,
    )
    deduplicate: bool = setting(
        False,
        help="Whether an item is a negative once a step, however often it is in the batch.",
        applies=_SAMPLED,
    )


# Values of trainer.frequency.estimate.
EXACT, STREAMING = "exact", "streaming"
_STREAMING: dict[str, tuple[str | bool, ...]] = {"trainer.frequency.estimate": (STREAMING,)}


@dataclasses.dataclass(frozen=True)
class Frequency:
    """Keys of trainer.frequency."""

    estimate: str = setting(
        EXACT,
        help="Sampling probability of an item: exact counts train's labels, streaming estimates it from the "
        "batches. Streaming counts an item once a batch and needs negatives.deduplicate.",
        choices=(EXACT, STREAMING),
        applies={**_SAMPLED, "trainer.frequency.correction": ("logq", "refined")},
    )
    hashes: int = setting(
        2,
        help="Hash functions of the streaming estimate.",
        at_least=1,
        at_most=16,
        applies=_STREAMING,
    )
    rate: float = setting(
        0.01,
        help="Weight of the newest gap between two batches with an item, in the streaming estimate.",
        at_least=1e-6,
        at_most=1,
        applies=_STREAMING,
    )
    # The least gap is 1: an item in every batch.
    initial_gap: float = setting(
        100.0,
        help="Gap of an item that no batch had yet, in the streaming estimate.",
        unit="batches",
        at_least=1,
        at_most=1e9,
        applies=_STREAMING,
    )
    correction: str = setting(
        "logq",
        help="Correction for sampling: logq (2019 paper), refined (arXiv 2507.09331), or none, for "
        "comparison.",
        choices=("logq", "refined", "none"),
        applies=_SAMPLED,
    )


@dataclasses.dataclass(frozen=True)
class Schedule:
    """Keys of trainer.schedule."""

    shape: str = setting(
        "constant",
        help="Learning rate after the warm-up: constant, or half a cosine, down to 1% at the last step of "
        "all epochs.",
        choices=("constant", "cosine"),
    )
    warmup: int = setting(
        0,
        help="First steps, over which the learning rate rises from zero; at most half of all steps.",
        unit="steps",
        at_least=0,
        at_most=100_000_000,
    )


@dataclasses.dataclass(frozen=True)
class Dropout:
    """Keys of trainer.dropout."""

    hidden: float = setting(
        0.1,
        help="Chance that a number of a hidden layer, or of the attention encoder, becomes zero.",
        at_least=0,
        at_most=0.99,
    )
    id: float = setting(
        0.1,
        help="Chance that an item's id, or a user's, is replaced by its out-of-vocabulary row. Thereby a new "
        "release, or a new user, is placed by everything else that is known.",
        at_least=0,
        at_most=0.99,
    )
    history: float = setting(
        0.02,
        help="Chance that a position is trained with an empty history, as a new user will be served.",
        at_least=0,
        at_most=0.99,
        applies={"trainer.parts": (HISTORY, SEED, AGGREGATES)},
    )


@dataclasses.dataclass(frozen=True)
class LabelWeights:
    """Keys of trainer.label_weights."""

    play_ratio_floor: float = setting(
        0.3,
        help="Weight of a label with a play ratio of zero. With ratio r it is floor + (1 - floor) * min(r, "
        "1); 1 turns play ratios off.",
        at_least=0,
        at_most=1,
    )
    max_per_user: int = setting(
        0,
        help="Labels as many of which one user's labels weigh together, at most; 0: no limit.",
        unit="labels",
        at_least=0,
    )
    reactions: tuple[tuple[str, float], ...] = setting(
        (),
        help="Factor of the labels that the user reacted to by such an event, as in like: 2 or dislike: 0.",
        at_least=0,
        may_be_empty=True,
        open_keys="event type",
    )


@dataclasses.dataclass(frozen=True)
class TrainerConfig:
    """The two towers and their training."""

    embedding_dim: int = setting(
        64, help="Width of a query's and of an item's embedding.", at_least=2, at_most=4_096, shown=True
    )
    item_embedding_dim: int = setting(
        0,
        help="Width of the table of items, where artist, album or content vectors say more of them: then few "
        "numbers of an item's own do. Without any of these, or at 0, it is embedding_dim.",
        at_least=0,
        at_most=4_096,
    )
    item_initial: str = setting(
        "random",
        help="Initialisation of items' embeddings: random, or co_occurrence, factors of how often items come "
        "shortly after each other, for data with few labels an item. A training that begins from an earlier "
        "model keeps that model's embeddings.",
        choices=("random", "co_occurrence"),
    )
    encoder: str = setting(
        "mean",
        help=f"Encoder of the history: {_meanings(ENCODERS)}, or {', '.join(COMBINATIONS)}.",
        choices=ENCODER_CHOICES,
        shown=True,
        applies={"trainer.parts": (HISTORY,)},
    )
    parts: tuple[str, ...] = setting(
        DEFAULT_PARTS,
        help="Parts of the towers. normalisation makes scores cosines; without it they are dot products. "
        "Without shared_tables history and seed read item tables of their own. item_bias gives each item's "
        "score a term for its popularity: an embedding's last number, the mean of what is listened to for "
        "items new to train. repeat_head gives the items of the history an extra score, where the data "
        "recommends items again. On the command line -user_id,+repeat_head changes the preset's list.",
        choices=PARTS,
        may_be_empty=True,
    )
    query_hidden_units: tuple[int, ...] = setting(
        (256,),
        help="Widths of the query tower's hidden layers, between the joined features and the embedding.",
        at_least=1,
        at_most=65_536,
        may_be_empty=True,
    )
    temperature: float = setting(
        0.07,
        help="Softmax temperature: the divisor of scores. The default suits the cosine; at 1 a dot product "
        "stays what it is.",
        at_least=1e-4,
        at_most=100,
    )
    softmax: str = setting(
        SAMPLED,
        help=f"Negatives of a label at each step: {_meanings(LOSSES)}, or auto (full where 8,192 labels and "
        "50,000 items fit a step, else sampled).",
        choices=LOSS_CHOICES,
        shown=True,
    )
    negatives: Negatives = setting(
        Negatives(), help="Negatives of the softmax, beside the labels of the batch.", experimental=True
    )
    frequency: Frequency = setting(
        Frequency(),
        help="Sampling probability of items, and the correction of the sampled softmax by it.",
        experimental=True,
    )
    label_horizon: int = setting(
        1,
        help="Label of a position in training: the next listen (1), or any one of this many next ones within "
        "its window, where a query asks for what comes in a day and not for the next track.",
        unit="listens",
        at_least=1,
        at_most=1_000_000,
    )
    label_weights: LabelWeights = setting(LabelWeights(), help="Weights of labels in the loss.")
    epochs: int = setting(
        3, help="Passes over the train split, at most.", at_least=1, at_most=10_000, shown=True
    )
    learning_rate: float = setting(0.002, help="Learning rate.", at_least=0, at_most=100, shown=True)
    schedule: Schedule = setting(Schedule(), help="Course of the learning rate.")
    weight_decay: float = setting(
        0.0,
        help="Decoupled weight decay: the share of kernels, and of the embeddings that a step reads, that a "
        "step takes away, by learning rate.",
        at_least=0,
        at_most=1_000,
    )
    dropout: Dropout = setting(Dropout(), help="Chances that training hides something.")
    windows_per_step: int = setting(
        32,
        help="Windows a step reads; 0: by how many there are, so that an epoch has some 190 steps.",
        unit="windows",
        at_least=0,
        at_most=1_000_000,
    )
    # In-batch negatives: a position alone would have none.
    positions_per_step: int = setting(
        1_024,
        help="Labelled positions a step trains, at most, drawn at random across its windows.",
        unit="positions",
        at_least=2,
        at_most=1_000_000,
    )
    patience: int = setting(
        2,
        help="Epochs without a rise of validation recall (at gate.cutoff), after which training stops.",
        unit="epochs",
        at_least=1,
        at_most=10_000,
    )
    distribution: str = setting(
        "none",
        help="Distribution of training: none, mirrored (over this machine's GPUs), or multi_worker (over the "
        "machines that TF_CONFIG names). A step has the same windows and positions with any number of "
        "replicas.",
        choices=("none", "mirrored", "multi_worker"),
    )
    warm_start: bool = setting(
        False,
        help="Whether training begins with what the latest blessed model knows of the ids that both have, "
        "instead of from scratch.",
        shown=True,
    )

    def __post_init__(self) -> None:
        """Sorts the parts: equal sets are equal settings."""
        order = {part: place for place, part in enumerate(PARTS)}
        parts = sorted(set(self.parts), key=lambda part: (order.get(part, len(order)), part))
        object.__setattr__(self, "parts", tuple(parts))


def contradictions(trainer: TrainerConfig) -> Iterator[tuple[str, str, str]]:
    """Yields meaningless settings that `applies` cannot declare: name, the other's name, an explanation."""
    parts = trainer.parts
    is_given = trainer.dropout.hidden != Dropout().hidden
    if is_given and not trainer.query_hidden_units and not has_dropout(trainer.encoder):
        yield (
            "trainer.dropout.hidden",
            "trainer.query_hidden_units",
            f"trainer.dropout.hidden is {trainer.dropout.hidden:g}, and there is nothing to drop: "
            f"trainer.query_hidden_units is empty, and trainer.encoder is {trainer.encoder}.",
        )
    if REPEAT_HEAD in parts and HISTORY not in parts:
        yield (
            "trainer.parts",
            "trainer.parts",
            "trainer.parts has repeat_head, which scores the items of the history, and is without history: "
            "leave out repeat_head too, as in trainer.parts=-history,-repeat_head.",
        )
    if SHARED_TABLES not in parts and not {HISTORY, SEED} & set(parts):
        yield (
            "trainer.parts",
            "trainer.parts",
            "trainer.parts is without shared_tables, and without history and seed no second table is read: "
            "add shared_tables.",
        )


def check_trainer(trainer: TrainerConfig) -> None:
    """Raises UserError for settings of towers and loss that cannot go together."""
    for encoder in registered(trainer.encoder):
        if trainer.embedding_dim % encoder.heads:
            raise UserError(
                f"trainer.embedding_dim is {trainer.embedding_dim}, and trainer.encoder={trainer.encoder} "
                f"divides it among {encoder.heads} heads: set a multiple of {encoder.heads}."
            )
    if trainer.frequency.estimate == STREAMING and not trainer.negatives.deduplicate:
        raise UserError(
            "trainer.frequency.estimate=streaming counts an item once a batch: set "
            "trainer.negatives.deduplicate=true, so that it is a negative once as well."
        )
