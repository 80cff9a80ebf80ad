"""Trainings of matrix factorisations by `implicit`'s solvers, which go on where more epochs help.

A query's user is folded in from the listens that the query knows, whoever the user is. Users and listens that
train has not seen are served as the model serves them.
"""

from __future__ import annotations

import logging
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Generic, TypeVar

Result = TypeVar("Result")


class Training(Generic[Result]):
    """One training, continued from where it stands when more epochs are asked for."""

    def __init__(self, go_on: Callable[[int, int], Result]) -> None:
        """Args:
        go_on: trains from one number of epochs to another and returns the result.
        """
        self._go_on = go_on
        self._epochs = 0
        self._result: Result | None = None

    def after(self, epochs: int) -> Result:
        """Returns the result after a number of epochs.

        Raises:
            ValueError: the number is lower than at the last call.
        """
        if epochs < self._epochs:
            raise ValueError(f"{epochs} epochs are asked for after {self._epochs}.")
        if self._result is None or epochs > self._epochs:
            with quiet_and_single_threaded_blas():
                self._result = self._go_on(self._epochs, epochs)
            self._epochs = epochs
        return self._result


class Trainings(Generic[Result]):
    """Trainings by their settings, each kept as long as a scorer of it is held.

    A search holds the best training so far, which it may ask for more epochs, and the one that it tries. With
    a million items each takes a gigabyte.
    """

    def __init__(self, begin: Callable[..., Training[Result]]) -> None:
        self._begin = begin
        self._held: weakref.WeakValueDictionary[Any, Training[Result]] = weakref.WeakValueDictionary()

    def of(self, *settings: float) -> Training[Result]:
        """Returns the training of these settings, begun or still held."""
        training = self._held.get(settings)
        if training is None:
            training = self._held[settings] = self._begin(*settings)
        return training


@contextmanager
def quiet_and_single_threaded_blas() -> Iterator[None]:
    """Limits BLAS to one thread: beside `implicit`'s own threads those of BLAS make it many times slower."""
    import threadpoolctl  # comes with implicit, which asks for just this

    logger = logging.getLogger("implicit")
    level = logger.level
    logger.setLevel(logging.WARNING)
    try:
        with threadpoolctl.threadpool_limits(1, "blas"):
            yield
    finally:
        logger.setLevel(level)
