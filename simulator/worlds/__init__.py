"""Worlds of `two-tower simulate --world`, beside the listening world: each is one module with its own oracle.

A module has `Parameters`, a `WorldParameters`, and `make(parameters)`, which returns a `Simulated` world.
"""

from __future__ import annotations

# World → what it is a model of, for the help.
WORLDS = {
    "repeats": "groceries: baskets, items that return with periods of their own, complements",
    "sessions": "short sessions of anonymous visitors, with transitions between items and no content",
}
