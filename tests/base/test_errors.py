from __future__ import annotations

import pytest

from two_tower.base.errors import UserError, in_words


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (MemoryError(), "memory ran out. Give the process more, and run it again: it continues there."),
        (
            OSError(28, "No space left on device"),
            "[Errno 28] No space left on device. The disk is full. Free space, and run it again: it "
            "continues there.",
        ),
        (AssertionError(), "AssertionError"),
        (UserError("a sentence."), "a sentence."),
    ],
)
def test_every_error_has_words(error: Exception, words: str) -> None:
    assert in_words(error) == words
