from __future__ import annotations

import pytest

from two_tower.base.errors import UserError, in_words


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (MemoryError(), "memory ran out."),
        (AssertionError(), "AssertionError"),
        (UserError("a sentence."), "a sentence."),
    ],
)
def test_every_error_has_words(error: Exception, words: str) -> None:
    assert in_words(error) == words
