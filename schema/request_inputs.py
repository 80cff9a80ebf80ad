"""Table of served inputs: names, types, shapes, defaults, ranges and meanings.

The signatures of the served model, `two-tower query`, evaluation, request validation and
docs/reference/request.md read it. It imports no TensorFlow, so that any server can read it.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Mapping
from typing import Any

from two_tower.schema import features, text_ids


@dataclasses.dataclass(frozen=True)
class Shape:
    """Shape of an input or output, in words and as names of its dimensions."""

    words: str
    axes: tuple[str, ...]


PER_CALL = Shape("one per call", ())
PER_QUERY = Shape("one per query", ("queries",))
PER_EVENT = Shape("one per history event", ("queries", "events"))
LIST = Shape("list per query", ("queries", "values"))
PER_ITEM = Shape("one per item", ("items",))
PER_ROW = Shape("one per row", ("rows",))

# Most values of one list of a request: a longer one costs more than any answer is worth. Most values of all
# lists of a batch, counted as if each query had its own.
MOST_VALUES, MOST_VALUES_OF_BATCH = 100_000, 2**25
# Names of value types in messages.
_VALUE_WORDS = {"int32": "whole number", "int64": "whole number", "float32": "number", "string": "text"}


@dataclasses.dataclass(frozen=True)
class RequestInput:
    """One input of a served signature.

    A request may leave out an input with a default. TensorFlow Serving fills in a signature's defaults. In
    Python, call the method of the same name.

    Attributes:
        name: the input's name in requests.
        shape: PER_QUERY, PER_EVENT, LIST and the like.
        dtype: "int32", "int64", "float32" or "string".
        meaning: meaning of the value, in words.
        default: one value for all places; None: the input is required.
        least: smallest value allowed; None: any.
        greatest: largest value allowed; None: any.
        special: special values with their meaning; the range does not apply to them.
        width: number of values of a list of fixed length; 0: any number.
        allowed: texts allowed beside ""; empty: any.
        id_of: "user_id" or "item_id" if the values are ids; "": they are not.
    """

    name: str
    shape: Shape
    dtype: str
    meaning: str
    default: Any = None
    least: float | None = None
    greatest: float | None = None
    special: Mapping[Any, str] = dataclasses.field(default_factory=dict, hash=False)
    width: int = 0
    allowed: tuple[str, ...] = ()
    id_of: str = ""

    @property
    def is_required(self) -> bool:
        """True if every request needs the input."""
        return self.default is None

    @property
    def is_single(self) -> bool:
        """True if one request has one value, False if it has a list."""
        return len(self.shape.axes) < 2

    @property
    def value_words(self) -> str:
        """A value's type in words: "whole number", "number" or "text"."""
        return _VALUE_WORDS[self.dtype]

    @property
    def axes(self) -> tuple[str | int, ...]:
        """Dimensions: names, and the number of values of a list of fixed length."""
        return (*self.shape.axes[:-1], self.width) if self.width else self.shape.axes

    @property
    def sizes(self) -> list[int | None]:
        """Dimensions as a tensor's shape: None for any size."""
        return [axis if isinstance(axis, int) else None for axis in self.axes]

    @property
    def default_value(self) -> Any:
        """Default in dimensions of 1, which broadcast; None for a required input."""
        if self.default is None:
            return None
        value = self.default
        for size in reversed(self.sizes):
            value = [value] * (size or 1)
        return value

    @property
    def padding(self) -> Any:
        """Padding of a history."""
        if self.default is None:
            return "" if self.dtype == "string" else features.PADDING
        return self.default

    @property
    def values(self) -> str:
        """Range and special values in words; "" if all values are allowed."""
        low, high = (None if limit is None else f"{limit:,}" for limit in (self.least, self.greatest))
        whole = " to ".join(limit for limit in (low or "", high) if limit) if high else f"{low} or more"
        in_range = [] if low is None and high is None else [whole]
        return "; ".join([*in_range, *(f"{_literal(one)}: {says}" for one, says in self.special.items())])

    def as_text(self) -> RequestInput:
        """Returns the input for data whose ids are texts; the empty text is padding."""
        return dataclasses.replace(
            self,
            dtype="string",
            default=None if self.default is None else "",
            least=None,
            special={"": "padding"} if self.special else {},
        )

    def is_special(self, value: Any) -> bool:
        """Tells the default and special values, to which no range applies."""
        if isinstance(value, float) and math.isnan(value):
            return isinstance(self.default, float) and math.isnan(self.default)
        return value == self.default or value in self.special


def _literal(value: Any) -> str:
    return f'"{value}"' if isinstance(value, str) else str(value)


# Times up to the year 2100, in seconds.
_LATEST = 4_102_444_800
_UNKNOWN = {features.UNKNOWN: "unknown"}

# Inputs of a query in the signature's order. The users' columns follow them.
QUERY_INPUTS = (
    RequestInput(
        features.USER_ID,
        PER_QUERY,
        "int64",
        "user; may be unknown to the model",
        least=0,
        id_of=features.USER_ID,
    ),
    RequestInput(
        features.HISTORY_ITEM_ID,
        PER_EVENT,
        "int64",
        "items of the history, oldest first. The last listen is the seed item. A history may be empty",
        least=0,
        special={features.PADDING: "padding, as any negative id"},
        id_of=features.ITEM_ID,
    ),
    RequestInput(
        features.HISTORY_TIMESTAMP,
        PER_EVENT,
        "int64",
        "time of each event in seconds",
        least=0,
        greatest=_LATEST,
    ),
    RequestInput(
        features.HISTORY_PLAY_RATIO,
        PER_EVENT,
        "float32",
        "played share of the item; 1.0 is the whole item, and larger values are possible",
        default=features.UNKNOWN,
        least=-1,
        special=_UNKNOWN,
    ),
    RequestInput(
        features.HISTORY_EVENT_TYPE,
        PER_EVENT,
        "string",
        f'type of each event; "{features.LISTEN}" is a listen, anything else a reaction',
        default="",
        special={"": "listen"},
    ),
    RequestInput(
        features.HISTORY_IS_ORGANIC,
        PER_EVENT,
        "int64",
        "1: the user found the item alone; 0: a recommender offered it",
        default=features.UNKNOWN,
        least=-1,
        greatest=1,
        special=_UNKNOWN,
    ),
    RequestInput(
        features.REQUEST_TIMESTAMP,
        PER_QUERY,
        "int64",
        "time of the request in seconds",
        default=features.UNKNOWN,
        least=0,
        greatest=_LATEST,
        special={features.UNKNOWN: "while the seed item plays"},
    ),
)

# Inputs of `serving_default` alone, after the users' columns.
ANSWER_INPUTS = (
    RequestInput(
        features.EXCLUDE_ITEM_ID,
        LIST,
        "int64",
        "items that must not be returned",
        default=features.PADDING,
        special={features.PADDING: "padding, as any negative id"},
        id_of=features.ITEM_ID,
    ),
    RequestInput(
        features.ALLOW_ITEM_ID,
        LIST,
        "int64",
        "the only items that may be returned, except excluded ones. Padding alone allows all items",
        default=features.PADDING,
        special={features.PADDING: "padding, as any negative id"},
        id_of=features.ITEM_ID,
    ),
    RequestInput(
        features.K,
        PER_CALL,
        "int32",
        "number of items to return, up to the built maximum (index.max_k)",
        default=100,
        least=1,
    ),
)

# Inputs of a request by name, without the users' columns, which depend on the settings.
REQUEST_INPUTS = {one.name: one for one in (*QUERY_INPUTS, *ANSWER_INPUTS)}

ITEM = RequestInput(
    features.ITEM_ID, PER_ITEM, "int64", "items; an unknown item has unknown features", id_of=features.ITEM_ID
)
ROW = RequestInput("row", PER_ROW, "int32", "rows of the index, from 0")


# Added to a signature's name in a model of text ids: the same signature by the ids' numbers, for evaluation.
BY_NUMBER = "_by_number"


@dataclasses.dataclass(frozen=True)
class IdKinds:
    """Kinds of a data set's ids, `text_ids.INTEGER` or `text_ids.TEXT`.

    Attributes:
        user_id: kind of the users' ids.
        item_id: kind of the items' ids.
    """

    user_id: str = text_ids.INTEGER
    item_id: str = text_ids.INTEGER

    @classmethod
    def of(cls, recorded: Mapping[str, Any]) -> IdKinds:
        """Reads the kinds from a model's provenance, as `user_ids` and `item_ids`."""
        return cls(recorded.get("user_ids", text_ids.INTEGER), recorded.get("item_ids", text_ids.INTEGER))

    @property
    def has_text(self) -> bool:
        """True if users or items have text ids."""
        return self != IdKinds()

    def is_text(self, one: RequestInput) -> bool:
        """Tells if an input's values are text ids."""
        return bool(one.id_of) and getattr(self, one.id_of) != text_ids.INTEGER

    def served(self, inputs: Iterable[RequestInput]) -> tuple[RequestInput, ...]:
        """Returns the inputs as a model of these ids takes them."""
        return tuple(one.as_text() if self.is_text(one) else one for one in inputs)


@dataclasses.dataclass(frozen=True)
class RequestOutput:
    """One output of a served signature."""

    name: str
    shape: Shape
    dtype: str
    meaning: str
    # Condition of the output; "": every model has it.
    requires: str = ""


@dataclasses.dataclass(frozen=True)
class ServedSignature:
    """One signature of the served model."""

    name: str
    meaning: str
    inputs: tuple[RequestInput, ...]
    outputs: tuple[RequestOutput, ...]

    @property
    def takes_query(self) -> bool:
        """True if the signature takes a query, with the users' columns after QUERY_INPUTS."""
        return self.inputs[: len(QUERY_INPUTS)] == QUERY_INPUTS


_RECOMMENDED = Shape("k per query", ("queries", "k"))
_QUERY_VECTOR = Shape("vector per query", ("queries", "embedding_dim"))
_HISTORY_ITEMS = Shape("list per query", ("queries", "values"))
_ITEM_VECTOR = Shape("vector per item", ("items", "embedding_dim"))
_ROW_VECTOR = Shape("vector per row", ("rows", "embedding_dim"))

SERVED_SIGNATURES = (
    ServedSignature(
        "serving_default",
        "recommends the k best items for each history",
        (*QUERY_INPUTS, *ANSWER_INPUTS),
        (
            RequestOutput(features.ITEM_ID, _RECOMMENDED, "int64", "items, best first, padded with -1"),
            RequestOutput("score", _RECOMMENDED, "float32", "the items' scores, padded with -inf"),
        ),
    ),
    ServedSignature(
        "query_embedding",
        "embeds each history",
        QUERY_INPUTS,
        (
            RequestOutput("embedding", _QUERY_VECTOR, "float32", "the query's embedding"),
            RequestOutput(
                features.REPEAT_ITEM_ID,
                _HISTORY_ITEMS,
                "int64",
                "items of the history that the repeat head scores; -1: padding",
                "the part repeat_head of trainer.parts",
            ),
            RequestOutput(
                features.REPEAT_SCORE,
                _HISTORY_ITEMS,
                "float32",
                "the repeat head's scores, which replace the inner products; -inf: padding",
                "the part repeat_head of trainer.parts",
            ),
        ),
    ),
    ServedSignature(
        "candidate_embedding",
        "embeds items by the candidate tower",
        (ITEM,),
        (RequestOutput("embedding", _ITEM_VECTOR, "float32", "the items' embeddings"),),
    ),
    ServedSignature(
        "catalog",
        "lists all items that the index holds",
        (),
        (RequestOutput(features.ITEM_ID, PER_ITEM, "int64", "items in the order of the index's rows"),),
    ),
    ServedSignature(
        "indexed_embedding",
        "reads rows of the index",
        (ROW,),
        (
            RequestOutput(features.ITEM_ID, PER_ROW, "int64", "the rows' items"),
            RequestOutput("embedding", _ROW_VECTOR, "float32", "embeddings that the index holds"),
        ),
    ),
)
