"""Registry of the history encoders, by the names of `trainer.encoder`. It imports no TensorFlow.

An encoder is a Keras layer made from (history_length, config). Its `call` has the arguments of
`mean_encoder.MeanEncoder.call`. It sees only the last N events, through all of its layers together: a window
in training is longer than a request, and both must get the same vector.
"""

from __future__ import annotations

import dataclasses

MEAN, ATTENTION = "mean", "attention"
BOTH = f"{ATTENTION}+{MEAN}"
# Layers and heads of the attention encoder.
ATTENTION_LAYERS, ATTENTION_HEADS = 2, 2


@dataclasses.dataclass(frozen=True)
class RegisteredEncoder:
    """Registration of an encoder.

    Attributes:
        layer: the import path of its class. Digests of sources follow it.
        meaning: the meaning of its name, for the help.
        has_dropout: whether it applies `trainer.dropout.hidden`.
        heads: divisor of `trainer.embedding_dim`.
    """

    layer: str
    meaning: str
    has_dropout: bool = False
    heads: int = 1


# The order is that of the encoders' outputs in a combination.
ENCODERS = {
    MEAN: RegisteredEncoder(
        "two_tower.trainer.model.mean_encoder.MeanEncoder",
        meaning="means of the last N listens and of the last few",
    ),
    ATTENTION: RegisteredEncoder(
        "two_tower.trainer.model.attention_encoder.AttentionEncoder",
        meaning="causal self-attention by distance in events and in time, two layers of two heads",
        has_dropout=True,
        heads=ATTENTION_HEADS,
    ),
}
# Names joined by "+": the outputs are concatenated.
COMBINATIONS = (BOTH,)
CHOICES = (*ENCODERS, *COMBINATIONS)


def registered(choice: str) -> list[RegisteredEncoder]:
    """Returns the encoders of a value of `trainer.encoder`, in the order of the registry."""
    names = choice.split("+")
    return [encoder for name, encoder in ENCODERS.items() if name in names]


def has_dropout(choice: str) -> bool:
    """Tells whether an encoder of a value of `trainer.encoder` applies `trainer.dropout.hidden`."""
    return any(encoder.has_dropout for encoder in registered(choice))
