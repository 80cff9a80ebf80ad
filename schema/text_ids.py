"""Numbers of text ids: a keyed hash of the text's UTF-8 bytes, the same in ingest and in a model's graph.

The number depends on the text alone. So a later ingest, another machine and another order of rows give the
same numbers, and a model needs no table from texts to numbers. Two texts of one number are refused at ingest.
Among ten million ids their probability is 5 in a million.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable
from typing import TYPE_CHECKING

import siphash24

if TYPE_CHECKING:
    import numpy as np

# Kinds of ids, as manifests and models record them. Another hash is another kind.
INTEGER, TEXT = "integer", "text by siphash-2-4"
# Key and buckets of `tf.strings.to_hash_bucket_strong`, which has no more buckets.
KEY = (0x74776F2D746F7765, 0x72207465787420A7)
NUMBERS = 2**63 - 1
# Column of items/ and users/ with the text of each id. Tables of integer ids lack it.
ORIGINAL_ID = "original_id"

_KEY_BYTES = struct.pack("<QQ", *KEY)


def number_of(text: str) -> int:
    """Returns the number of a text id, from 0 to 2^63 - 2."""
    return int.from_bytes(siphash24.siphash24(text.encode(), key=_KEY_BYTES).digest(), "little") % NUMBERS


def numbers_of(texts: Iterable[str]) -> np.ndarray:
    """Returns the numbers of text ids, int64[n]."""
    # Imported here, because any server reads the table of served inputs, with numpy or without.
    import numpy as np

    hashed, key = siphash24.siphash24, _KEY_BYTES
    found = b"".join(hashed(text.encode(), key=key).digest() for text in texts)
    return (np.frombuffer(found, "<u8") % np.uint64(NUMBERS)).astype(np.int64)
