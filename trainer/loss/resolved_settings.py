"""Settings resolved by the data: the loss of `trainer.softmax=auto`, the repeat head and the user id."""

from __future__ import annotations

import dataclasses
import logging

from two_tower.base.errors import UserError
from two_tower.trainer.loss.loss_registry import AUTO, FULL, SAMPLED
from two_tower.trainer.settings import AGGREGATES, HISTORY, REPEAT_HEAD, SEED, USER_ID, TrainerConfig

_log = logging.getLogger(__name__)

# Most scores, labels times items, of a step of the full softmax: loss and gradient take two seconds of a core
# and 5 GB. An item's tower and gradient take as long as 500 of its scores; _MOST_ITEMS limits them.
_MOST_SCORES = 8_192 * 50_000
_MOST_ITEMS = 200_000


def softmax_for(config: TrainerConfig, items: int, labels: float) -> TrainerConfig:
    """Resolves `trainer.softmax=auto` to full or sampled.

    Args:
      config: the settings.
      items: the catalog's size.
      labels: the mean number of labels a step.
    """
    if config.softmax != AUTO:
        return config
    softmax = FULL if items <= _MOST_ITEMS and items * labels <= _MOST_SCORES else SAMPLED
    _log.info("trainer.softmax=auto: %s, for %d items and %.0f labels a step.", softmax, items, labels)
    return dataclasses.replace(config, softmax=softmax)


def repeats_for(config: TrainerConfig, repeats_recommendable: bool) -> TrainerConfig:
    """Removes the part repeat_head where items that a user had are not recommended again."""
    if repeats_recommendable or REPEAT_HEAD not in config.parts:
        return config
    _log.info("trainer.parts: repeat_head is left out, as items that a user had are not recommended again.")
    return dataclasses.replace(config, parts=tuple(part for part in config.parts if part != REPEAT_HEAD))


def users_for(config: TrainerConfig, users_are_new: bool, has_columns: bool = False) -> TrainerConfig:
    """Removes the part user_id where all users are new at test time: their rows would be noise.

    Args:
      config: the settings.
      users_are_new: see DataFacts.
      has_columns: columns of users/ are features.

    Raises:
      UserError: nothing else tells queries apart.
    """
    if not users_are_new or USER_ID not in config.parts:
        return config
    parts = tuple(part for part in config.parts if part != USER_ID)
    if not {HISTORY, SEED, AGGREGATES} & set(parts) and not has_columns:
        raise UserError(
            "trainer.parts has user_id as the query tower's only input, and train knows no user of the test "
            "split: all its queries would be alike. Add history to trainer.parts, as in "
            "--set trainer.parts=+history."
        )
    _log.info("trainer.parts: user_id is left out, as train knows no user of the test split.")
    return dataclasses.replace(config, parts=parts)
