"""Texts of ids by number, for readers of what a model answers and for requests in the data's own ids."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from two_tower.base import storage
from two_tower.base.errors import UserError
from two_tower.schema import features, text_ids
from two_tower.schema.request_inputs import REQUEST_INPUTS, IdKinds

Ints = npt.NDArray[np.int64]


class IdTexts:
    """Texts of ids by number, of a data set with ids of given kinds.

    Attributes:
        kinds: the kinds of the ids.
        users: text by number.
        items: text by number.
    """

    def __init__(self, kinds: IdKinds) -> None:
        self.kinds = kinds
        self.users: dict[int, str] = {}
        self.items: dict[int, str] = {}

    @classmethod
    def of_model(cls, model: Any, item_id: Ints) -> IdTexts:
        """Reads the kinds of ids and the items' texts from a loaded SavedModel.

        Args:
            model: the loaded SavedModel.
            item_id: [items] the catalog by number, in the index's order.
        """
        inputs = model.signatures["serving_default"].structured_input_signature[1]
        kinds = IdKinds(
            *(
                text_ids.TEXT if inputs[name].dtype.name == "string" else text_ids.INTEGER
                for name in (features.USER_ID, features.HISTORY_ITEM_ID)
            )
        )
        texts = cls(kinds)
        if kinds.item_id != text_ids.INTEGER:
            found = model.signatures["catalog"]()[features.ITEM_ID].numpy()
            texts.items = {n: text.decode() for n, text in zip(item_id.tolist(), found.tolist(), strict=True)}
        return texts

    def read_those_of(self, inputs: Mapping[str, Any], data: str) -> None:
        """Reads the texts of a request's ids that no model holds, as of users and of withdrawn items.

        Args:
            inputs: the request by number.
            data: the data directory; one that has moved, or has none of the ids, adds no text.
        """
        for values, known, table in self._ids_of(inputs):
            if lacking := set(values.ravel().tolist()) - known.keys() - {features.PADDING}:
                known |= texts_in(data, table, sorted(lacking))

    def knows(self, inputs: Mapping[str, Any]) -> npt.NDArray[np.bool_]:
        """Tells the queries [Q] of a request by number whose text ids all have a known text."""
        found = np.ones(len(inputs[features.USER_ID]), bool)
        for values, known, _ in self._ids_of(inputs):
            is_known = [n == features.PADDING or n in known for n in values.ravel().tolist()]
            found &= np.array(is_known, bool).reshape(len(values), -1).all(axis=1)
        return found

    def _ids_of(self, inputs: Mapping[str, Any]) -> Iterator[tuple[Ints, dict[int, str], str]]:
        """Yields each input of text ids by number, with the known texts and their table."""
        for name, values in inputs.items():
            if name in REQUEST_INPUTS and self.kinds.is_text(REQUEST_INPUTS[name]):
                is_user = REQUEST_INPUTS[name].id_of == features.USER_ID
                known, table = (self.users, "users") if is_user else (self.items, "items")
                yield np.asarray(values, np.int64), known, table

    def of_items(self, numbers: Ints) -> npt.NDArray[Any]:
        """Returns items by number in the data's own ids, in their shape; see `texts_of`."""
        return numbers if self.kinds.item_id == text_ids.INTEGER else texts_of(numbers, self.items)

    def own_item(self, number: int) -> int | str:
        """Returns one item in the data's own form: its number, or its text."""
        return number if self.kinds.item_id == text_ids.INTEGER else self.items.get(number, f"?{number}")

    def of_request(self, inputs: Mapping[str, Any]) -> dict[str, Any]:
        """Returns a request's values in the data's own ids; see `texts_of`."""
        found = dict(inputs)
        for name, values in inputs.items():
            if name in REQUEST_INPUTS and self.kinds.is_text(REQUEST_INPUTS[name]):
                known = self.users if REQUEST_INPUTS[name].id_of == features.USER_ID else self.items
                found[name] = texts_of(np.asarray(values, np.int64), known)
        return found


def texts_of(numbers: Ints, known: Mapping[int, str]) -> npt.NDArray[np.object_]:
    """Returns texts of ids by number, in their shape: "" for padding, "?<number>" for an unknown one.

    The text of an unknown number has another number, which a model does not know either.
    """
    flat = ["" if n < 0 else known.get(n, f"?{n}") for n in numbers.ravel().tolist()]
    return np.array(flat, object).reshape(numbers.shape)


def texts_in(data: str, table: str, numbers: npt.ArrayLike) -> dict[int, str]:
    """Reads the texts of some ids from "users" or "items" of a data directory.

    Returns:
        Text by number; {} for integer ids, and for a directory that is none any more.
    """
    import pyarrow as pa
    import pyarrow.dataset as pads

    from two_tower.data_directory.checked_columns import open_dataset
    from two_tower.data_directory.manifest import MANIFEST, REQUIRED, item_files, user_files

    key = REQUIRED[table][0]
    try:
        if not data or not storage.is_file(storage.join(data, MANIFEST)):
            return {}
        files = item_files(data) if table == "items" else user_files(data)
        if not files or text_ids.ORIGINAL_ID not in (rows := open_dataset(files)).schema.names:
            return {}
        wanted = pads.field(key).isin(np.unique(np.asarray(numbers, np.int64)))
        found = rows.to_table(columns=[key, text_ids.ORIGINAL_ID], filter=wanted)
    except (OSError, UserError, pa.ArrowInvalid):
        return {}
    return dict(zip(found[key].to_pylist(), found[text_ids.ORIGINAL_ID].to_pylist(), strict=True))
