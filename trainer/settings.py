"""Settings of the towers, the loss and the training."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator, Mapping, Set

from two_tower.base.settings import Fault, from_plain, setting
from two_tower.trainer.loss.loss_registry import AUTO, FULL, LOSSES, SAMPLED, SAMPLING_CHOICES, RegisteredLoss
from two_tower.trainer.loss.loss_registry import CHOICES as LOSS_CHOICES
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
    return " ".join(f"{name}: {one.meaning}." for name, one in registered.items())


_SAMPLED = {"trainer.softmax": SAMPLING_CHOICES}


@dataclasses.dataclass(frozen=True)
class Negatives:
    """Keys of trainer.negatives."""

    uniform: int = setting(
        0,
        help="Number of negatives drawn from the whole catalog at each step, beside the batch's labels.",
        unit="items",
        at_least=0,
        at_most=10_000_000,
        applies=_SAMPLED,
    )
    memory: int = setting(
        0,
        help="Number of earlier steps' labels that stay negatives.",
        unit="labels",
        at_least=0,
        at_most=10_000_000,
        applies=_SAMPLED,
    )
    hard: int = setting(
        0,
        help="Number of a query's hardest negatives in the loss, those with the highest logits; 0: all.",
        unit="items",
        at_least=0,
        at_most=10_000_000,
    )
    deduplicate: bool = setting(
        False,
        help="Deduplication of negatives: a step counts an item once, however often the batch holds it.",
        applies={"trainer.softmax": (*SAMPLING_CHOICES, AUTO)},
    )


# Values of trainer.frequency.estimate.
EXACT, STREAMING = "exact", "streaming"
_STREAMING: dict[str, tuple[str | bool, ...]] = {"trainer.frequency.estimate": (STREAMING,)}


@dataclasses.dataclass(frozen=True)
class Frequency:
    """Keys of trainer.frequency."""

    estimate: str = setting(
        EXACT,
        help="Estimate of an item's sampling probability. exact counts train's labels; streaming estimates "
        "from the batches. streaming counts an item once a batch and needs negatives.deduplicate.",
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
        help="Learning rate of the streaming estimate: the weight of an item's newest gap between batches. "
        "The first 1 / rate gaps are averaged.",
        at_least=1e-6,
        at_most=1,
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
        help="Shape of the learning rate after the warm-up. cosine decays it along half a cosine, to 1% at "
        "the last step of all epochs.",
        choices=("constant", "cosine"),
    )
    warmup: int = setting(
        0,
        help="Length of the warm-up, in which the learning rate rises from zero; at most half of all steps.",
        unit="steps",
        at_least=0,
        at_most=100_000_000,
    )


@dataclasses.dataclass(frozen=True)
class Dropout:
    """Keys of trainer.dropout."""

    hidden: float = setting(
        0.1,
        help="Dropout rate of the hidden layers and of the attention encoder.",
        at_least=0,
        at_most=0.99,
    )
    id: float = setting(
        0.1,
        help="Chance that the out-of-vocabulary row replaces an item's id, or a user's. The towers then "
        "learn to place new items and users by their other features.",
        at_least=0,
        at_most=0.99,
    )
    history: float = setting(
        0.02,
        help="Chance that training empties a position's history, which prepares the towers for new users.",
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
        help="Largest total weight of one user's labels; 0: no limit.",
        unit="labels",
        at_least=0,
        at_most=1_000_000_000,
    )
    reactions: tuple[tuple[str, float], ...] = setting(
        (),
        help="Weight factor of labels with a reaction of this event type, such as like: 2 or dislike: 0.",
        at_least=0,
        at_most=1_000_000,
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
        help="Width of an item's own embedding if items also have artists, albums or content vectors. These "
        "describe an item already, so few own numbers suffice. Without them, or at 0, the width is "
        "embedding_dim.",
        at_least=0,
        at_most=4_096,
    )
    item_initial: str = setting(
        "random",
        help="Initialisation of items' embeddings. co_occurrence takes factors of the items' co-occurrence "
        "matrix, which suit data with few labels an item. A warm start keeps the earlier model's embeddings.",
        choices=("random", "co_occurrence"),
    )
    encoder: str = setting(
        "mean",
        help=f"Encoder of the history. {_meanings(ENCODERS)} {', '.join(COMBINATIONS)}: both, concatenated.",
        choices=ENCODER_CHOICES,
        shown=True,
        applies={"trainer.parts": (HISTORY,)},
    )
    parts: tuple[str, ...] = setting(
        DEFAULT_PARTS,
        help="Parts of the towers. normalisation makes scores cosines; without it they are dot products. "
        "Without shared_tables history and seed read item tables of their own. item_bias adds a popularity "
        "term to each item's score, the last number of the item's embedding. A cold item gets the mean bias "
        "of train's labels. repeat_head gives the items of the history an extra score, where the data "
        "recommends items again. user_id is left out where train knows no user of the test split. On the "
        "command line -user_id,+repeat_head changes the preset's list.",
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
        help="Softmax temperature, the divisor of scores. The default suits cosines. At 1 dot products stay "
        "unchanged.",
        at_least=1e-4,
        at_most=100,
    )
    softmax: str = setting(
        SAMPLED,
        help=f"Negatives of a label at each step. {_meanings(LOSSES)} auto: full if a step's labels times "
        "the catalog's items are at most 8,192 times 50,000, else sampled.",
        choices=LOSS_CHOICES,
        shown=True,
    )
    negatives: Negatives = setting(
        Negatives(), help="Negatives of the softmax, beside the batch's labels.", experimental=True
    )
    frequency: Frequency = setting(
        Frequency(),
        help="Sampling probability of items, and the sampled softmax's correction for it.",
        experimental=True,
    )
    label_horizon: int = setting(
        1,
        help="Horizon of labels: training draws a position's label from this many next listens of its "
        "window. 1 takes the next listen. A longer horizon suits predictions for a day instead of the next "
        "item.",
        unit="listens",
        at_least=1,
        at_most=1_000_000,
    )
    label_weights: LabelWeights = setting(LabelWeights(), help="Weights of labels in the loss.")
    epochs: int = setting(
        3, help="Passes over the train split, at most.", at_least=1, at_most=10_000, shown=True
    )
    # A rate of zero would learn nothing.
    learning_rate: float = setting(0.002, help="Learning rate.", at_least=1e-9, at_most=100, shown=True)
    schedule: Schedule = setting(Schedule(), help="Course of the learning rate.")
    weight_decay: float = setting(
        0.0,
        help="Decoupled weight decay. Each step shrinks kernels, and the embeddings that it reads, by this "
        "share times the learning rate.",
        at_least=0,
        at_most=1_000,
    )
    dropout: Dropout = setting(Dropout(), help="Dropout of hidden layers, ids and histories.")
    windows_per_step: int = setting(
        32,
        help="Number of windows a step reads. 0 chooses it by the data, for some 190 steps an epoch.",
        unit="windows",
        at_least=0,
        at_most=1_000_000,
    )
    # In-batch negatives: a position alone would have none.
    positions_per_step: int = setting(
        1_024,
        help="Largest number of labelled positions a step trains on, drawn at random across its windows.",
        unit="positions",
        at_least=2,
        at_most=1_000_000,
    )
    patience: int = setting(
        2,
        help="Number of epochs without a rise of validation recall (at gate.cutoff) that ends training.",
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
        help="Warm start: training begins with the weights of the latest blessed model, for the ids that "
        "both models know.",
        shown=True,
    )

    def __post_init__(self) -> None:
        """Sorts the parts: equal sets are equal settings."""
        order = {part: place for place, part in enumerate(PARTS)}
        parts = sorted(set(self.parts), key=lambda part: (order.get(part, len(order)), part))
        object.__setattr__(self, "parts", tuple(parts))


def recorded(text: str) -> TrainerConfig:
    """Builds settings from the JSON of a training's run, of this release or of 0.2.0.

    Raises:
      UserError: an earlier release recorded other settings.
    """
    values = json.loads(text)
    if isinstance(frequency := values.get("frequency"), dict):
        # A key of 0.2.0, on which no tower depends.
        frequency.pop("initial_gap", None)
    return from_plain(TrainerConfig, values, "trainer")


def faults(trainer: TrainerConfig, given: Set[str] = frozenset()) -> Iterator[Fault]:
    """Yields faults of the settings that `applies` cannot declare.

    Args:
      trainer: the settings.
      given: dotted names of settings that somebody asked for; others at their default are no fault.
    """
    yield from _faults_of_parts(trainer.parts)
    hidden, name = trainer.dropout.hidden, "trainer.dropout.hidden"
    is_given = name in given or hidden != Dropout().hidden
    if is_given and not trainer.query_hidden_units and not has_dropout(trainer.encoder):
        yield Fault(
            f"{name} is {hidden:g}, and there is nothing to drop: trainer.query_hidden_units is empty, and "
            f"trainer.encoder is {trainer.encoder}.",
            ({name: None}, {"trainer.query_hidden_units": TrainerConfig().query_hidden_units}),
            meaningless=name,
        )
    for encoder in registered(trainer.encoder):
        if short := -trainer.embedding_dim % encoder.heads:
            yield Fault(
                f"trainer.embedding_dim is {trainer.embedding_dim}, and trainer.encoder={trainer.encoder} "
                f"divides it among {encoder.heads} heads.",
                ({"trainer.embedding_dim": trainer.embedding_dim + short},),
            )
    samples = trainer.softmax in SAMPLING_CHOICES
    if samples and trainer.frequency.estimate == STREAMING and not trainer.negatives.deduplicate:
        yield Fault(
            "trainer.frequency.estimate=streaming counts an item once a batch, so that it has to be a "
            "negative once as well.",
            ({"trainer.negatives.deduplicate": True}, {"trainer.frequency.estimate": EXACT}),
        )
    others = trainer.negatives.uniform + trainer.negatives.memory
    if (samples or trainer.softmax == AUTO) and trainer.windows_per_step == 1 and not others:
        yield Fault(
            "trainer.windows_per_step is 1. The negatives of a sampled softmax are labels of other windows, "
            "and there are none.",
            ({"trainer.windows_per_step": 2}, {"trainer.softmax": FULL}),
        )


def _faults_of_parts(parts: tuple[str, ...]) -> Iterator[Fault]:
    def changed(*left_out: str, added: str = "") -> tuple[str, ...]:
        kept = {*parts, added} - set(left_out)
        return tuple(part for part in PARTS if part in kept)

    if REPEAT_HEAD in parts and HISTORY not in parts:
        yield Fault(
            "trainer.parts has repeat_head and lacks history, whose items repeat_head scores.",
            ({"trainer.parts": changed(REPEAT_HEAD)}, {"trainer.parts": changed(added=HISTORY)}),
        )
    if SHARED_TABLES not in parts and not {HISTORY, SEED} & set(parts):
        yield Fault(
            "trainer.parts lacks shared_tables, history and seed. Without history and seed no second table "
            "is read.",
            ({"trainer.parts": changed(added=SHARED_TABLES)}, {"trainer.parts": changed(added=HISTORY)}),
        )
