"""Settings of the two towers and of training."""

from __future__ import annotations

import dataclasses
import math

from two_tower.base.errors import UserError

# A learned temperature never falls below this: however sure training is, scores stay finite.
LEAST_LEARNED_TEMPERATURE = 0.01


@dataclasses.dataclass(frozen=True)
class TrainerConfig:
    """The two towers and how they are trained."""

    embedding_dim: int = 64
    # Width of the table of items where artist, album or content vectors say more of them: then few numbers of
    # an item's own do. Without any of these, or of 0, it is embedding_dim.
    item_embedding_dim: int = 0
    # A term of its own in each item's score, whoever asks: its popularity. It is an embedding's last number;
    # items that train does not know have the mean of what is listened to.
    item_bias: bool = False
    # Where items' own embeddings begin: random, or co_occurrence, at factors of how often items come shortly
    # after each other, for data with few labels an item. A training that begins from an earlier model begins
    # there.
    item_initial: str = "random"
    # What makes the history one vector at each position: mean (of the last N and of the last few listens),
    # attention (causal self-attention, with the distance in events and in time), or attention+mean.
    encoder: str = "mean"
    # Together the layers see the last N events: each one looks back (N - 1) / layers of them.
    attention_layers: int = 2
    attention_heads: int = 2
    # Scores of query and candidate: cosine, or dot. Either is divided by the temperature: of 1, a plain dot
    # product stays what it is.
    similarity: str = "cosine"
    # Parts of the towers to leave out, to see what they are worth or because the data does not bear them:
    # history, seed, user_id, example_age, aggregates, shared_tables (then history and seed read item tables
    # of their own).
    leave_out: tuple[str, ...] = ()
    # Scores of their own for the items of the history, beside the inner product, where items are recommended
    # again; elsewhere it changes nothing.
    repeat_head: bool = False
    # Widths of the query tower's hidden layers, between the joined features and the embedding.
    query_hidden_units: tuple[int, ...] = (256,)
    # By which the softmax divides scores; the default suits the cosine.
    temperature: float = 0.07
    epochs: int = 3
    learning_rate: float = 0.002
    # constant, or cosine: half a cosine, down to 1% of the learning rate at the last step of all epochs.
    learning_rate_schedule: str = "constant"
    # Over so many first steps the learning rate rises from zero; at most half of all.
    warmup_steps: int = 0
    # Decoupled: what a step takes away of kernels, and of the embeddings that it reads, by learning rate.
    weight_decay: float = 0.0
    # The greatest norm of all gradients together; 0: any.
    clip_norm: float = 0.0
    # What towers are computed in: float32, mixed_float16 (GPUs), mixed_bfloat16 (TPUs and new GPUs), or auto,
    # by the hardware: float16 on GPUs of compute capability 7.0 and more. What is served is float32.
    precision: str = "auto"
    # Windows read per step (0: by how many there are, so that an epoch has some 190 steps), and labelled
    # positions drawn at random across them.
    windows_per_step: int = 32
    positions_per_step: int = 1_024
    # Chance that an item's id (or a user's) is replaced by its out-of-vocabulary row in training: it
    # is what places a new release, or a new user, by everything else that is known.
    id_dropout: float = 0.1
    # Chance that a position is trained with an empty history, as a new user will be served.
    history_dropout: float = 0.02
    dropout: float = 0.1
    # Learn the temperature too, from `temperature` on.
    learned_temperature: bool = False
    # What a label is told from at each step: sampled negatives; the full catalog, if that is small, and then
    # nothing is left to correct; or auto: full where 8,192 labels could be told from 50,000 items.
    softmax: str = "sampled"
    # How sampling is corrected for: logq (2019 paper), refined (arXiv 2507.09331), or none, for comparison.
    sampling_correction: str = "logq"
    # An item is a negative once a step, however often it is in the batch.
    deduplicate_negatives: bool = False
    # How often items are labels: exact, train's counts, or streaming, estimated from the batches.
    frequency: str = "exact"
    # Of streaming: weight of the newest gap between two batches with an item, number of hash functions, and
    # the gap of an item never seen.
    frequency_learning_rate: float = 0.01
    frequency_hashes: int = 2
    frequency_initial_gap: float = 100.0
    # Negatives drawn from the whole catalog at each step, beside the batch's labels.
    uniform_negatives: int = 0
    # Labels of earlier steps that stay negatives.
    memory_negatives: int = 0
    # Of each query's negatives only so many count, those of the highest logits; 0: all.
    hard_negatives: int = 0
    # What is a position's label in training: the next listen (1), or any one of so many next ones within its
    # window, where a user is asked for what comes in a day and not for the next track.
    label_horizon: int = 1
    # Loss weight of a label with play ratio r: floor + (1 - floor) * min(r, 1).
    play_ratio_floor: float = 0.3
    # Loss weights of labels that the user reacted to, as in like=2 or dislike=0.
    event_type_weights: tuple[str, ...] = dataclasses.field(default=(), metadata={"by_name": True})
    # The labels of one user together weigh no more than so many would; 0: no limit.
    max_labels_per_user: int = 0
    # How training is spread: none, mirrored (over this machine's GPUs), or multi_worker (over machines that
    # TF_CONFIG names). A step has the same windows and positions however many replicas there are.
    distribution: str = "none"
    # Begin with what the latest blessed model knows of the ids that both have, instead of from scratch.
    warm_start: bool = False
    # Stop when validation recall (at gate.cutoff) has not risen for this many epochs.
    patience: int = 2
    seed: int = 17


def event_type_weights(trainer: TrainerConfig) -> dict[str, float]:
    """trainer.event_type_weights by event type.

    Raises:
      UserError: one of them is not of the form "like=2", with a weight from 0 on, or names a type twice.
    """
    weights: dict[str, float] = {}
    for text in trainer.event_type_weights:
        name, _, number = (part.strip() for part in text.partition("="))
        try:
            weight = float(number)
        except ValueError:
            weight = math.nan
        if not (name and math.isfinite(weight) and weight >= 0):
            raise UserError(
                f"trainer.event_type_weights takes event types with weights from 0 on, as in like=2, and was "
                f"given {text!r}."
            )
        if name in weights:
            raise UserError(f"trainer.event_type_weights names the event type {name!r} twice.")
        weights[name] = weight
    return weights


def check_trainer(trainer: TrainerConfig) -> None:
    """Raises UserError for settings of towers and loss that contradict each other."""
    event_type_weights(trainer)
    if trainer.encoder != "mean" and trainer.embedding_dim % trainer.attention_heads:
        raise UserError(
            f"trainer.attention_heads is {trainer.attention_heads}, and trainer.embedding_dim, "
            f"{trainer.embedding_dim}, cannot be divided by it."
        )
    if trainer.learned_temperature and trainer.temperature < LEAST_LEARNED_TEMPERATURE:
        raise UserError(
            f"trainer.temperature is {trainer.temperature}, and a learned one is never below "
            f"{LEAST_LEARNED_TEMPERATURE}: begin there or above, or set trainer.learned_temperature=false."
        )
    if trainer.frequency == "streaming" and not trainer.deduplicate_negatives:
        raise UserError(
            "trainer.frequency=streaming counts an item once a batch: set trainer.deduplicate_negatives=true,"
            " so that it is a negative once as well."
        )
    if trainer.softmax == "full":
        unused = [
            name
            for name in ("deduplicate_negatives", "uniform_negatives", "memory_negatives")
            if getattr(trainer, name)
        ]
        if unused:
            raise UserError(
                f"trainer.softmax=full has the whole catalog for negatives, and trainer.{unused[0]} changes "
                "how they are sampled: take the one or the other."
            )
