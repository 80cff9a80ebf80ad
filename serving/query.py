"""Recommendations of a served model for one user, shown beside the user's last listens."""

from __future__ import annotations

import dataclasses
import io
import json
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from rich import box
from rich.console import Console
from rich.table import Table

from two_tower.base import console as terminal
from two_tower.base import storage
from two_tower.base.errors import UserError
from two_tower.data_directory.feature_columns import FeatureSpec, encode_columns
from two_tower.schema import features, text_ids
from two_tower.schema.request_inputs import IdKinds
from two_tower.serving.id_texts import IdTexts, texts_in
from two_tower.serving.loaded_model import load_model
from two_tower.serving.provenance import read_whole
from two_tower.serving.request_tensors import request_tensors, signature_by_number
from two_tower.serving.versions import find_model

if TYPE_CHECKING:
    import pyarrow as pa

SHOWN_LISTENS = 10
_WIDTH = 120
# Ids are int64.
_LARGEST_ID = 2**63 - 1


@dataclasses.dataclass(frozen=True)
class Listen:
    """Listen of the history; `title` and `timestamp` (seconds) are None if unknown."""

    item_id: int | str
    title: str | None
    timestamp: int | None


@dataclasses.dataclass(frozen=True)
class Recommendation:
    """Recommended item with its rank, from 1."""

    rank: int
    item_id: int | str
    title: str | None
    score: float


@dataclasses.dataclass(frozen=True)
class Answer:
    """Recommendations of a model and the history that they follow.

    Attributes:
        model: directory of the version that answered.
        user: the user's id; None for a history of items.
        user_columns: the user's values in the columns of users/ that the model takes; null is unknown.
        last_listens: the last listens, oldest first, without reactions.
        recommendations: the recommended items, best first.
        notes: remarks for the reader, such as a new user, unknown items or missing titles.
    """

    model: str
    user: int | str | None
    user_columns: Mapping[str, Any]
    last_listens: tuple[Listen, ...]
    recommendations: tuple[Recommendation, ...]
    notes: tuple[str, ...]

    def to_json(self) -> str:
        """Returns the answer as indented JSON."""
        return json.dumps(dataclasses.asdict(self), indent=2, ensure_ascii=False)


@dataclasses.dataclass(frozen=True)
class _History:
    """Events up to the last listen, oldest first, and all items of the user's events (`seen`)."""

    item_id: list[int]
    timestamp: list[int]
    event_type: list[str]
    play_ratio: list[float]
    is_organic: list[int]
    seen: list[int]


def recommend(
    model_dir: str,
    user: int | str | None,
    history: Sequence[int | str] | None,
    k: int,
    data: str | None = None,
    *,
    exclude: Sequence[int | str] = (),
    allow: Sequence[int | str] = (),
) -> Answer:
    """Recommends the k best items for a user of the data directory, or for a history of items.

    Args:
      model_dir: the model's directory, see `find_model`.
      user: id of the user in the data's own form, a number or a text. The events come from the data
        directory. An unknown user has an empty history.
      history: item ids, oldest first, instead of a user's events; may be empty.
      k: number of items.
      data: the data directory; None: the one that the model was trained on.
      exclude: items that must not be recommended. If the data set has no repeats, the user's items are
        excluded too.
      allow: the only items that may be recommended; empty: all.

    Raises:
      UserError: no model, k out of the model's range, an id that the data cannot have, no data directory for
        a user or one of other ids, or an allow list for a model that takes none.
    """
    path = find_model(model_dir)
    provenance = read_whole(path)
    if not 1 <= k <= provenance["max_k"]:
        raise UserError(f"-k {k}: this model answers with 1 to {provenance['max_k']} items (index.max_k).")
    asked = _Asked.of(IdKinds.of(provenance), user, history, exclude, allow)
    data = data or provenance["data"]
    notes: list[str] = []
    specs = [FeatureSpec(**spec) for spec in provenance.get("features", {}).get("users", [])]
    columns: pa.Table | None = None
    has_data = storage.is_file(storage.join(data, "manifest.json"))
    if user is not None:
        if not has_data:
            raise UserError(
                f"{data} is the model's data directory, and is no data directory now. "
                "Pass --data DIR to look up the user, or --history with item ids."
            )
        _check_ids_of_data(data, asked.kinds)
        assert asked.user is not None
        events = _events_of(data, asked.user, provenance)
        columns = _columns_of(data, asked.user, specs, notes)
        if not events.item_id:
            lacking = "no listens" if events.seen else "no events"
            notes.append(f"User {user} has {lacking} in {data}. The history is empty, as for a new user.")
    else:
        events = _events_given(asked.history, data if has_data else None, provenance)
        if not events.item_id:
            notes.append("The history is empty, as for a new user.")
    seen = [] if provenance["repeats_recommendable"] else events.seen
    excluded, allowed = sorted({*seen, *asked.exclude}), sorted(set(asked.allow))
    item_ids, scores, unknown, texts = _ask(
        path,
        asked.user,
        events,
        excluded,
        allowed,
        k,
        provenance["history_length"],
        _as_requested(columns, specs),
    )
    texts.items |= asked.texts
    if unknown:
        if texts.kinds.item_id != text_ids.INTEGER and has_data:
            texts.items |= texts_in(data, "items", unknown)
        listed = ", ".join(str(texts.own_item(item)) for item in unknown[:5]) + (
            " and more" if len(unknown) > 5 else ""
        )
        notes.append(f"The model does not know these items of the history: {listed}.")
    past = zip(events.item_id, events.timestamp, events.event_type, strict=True)
    listens = [(item, time) for item, time, kind in past if not kind][-SHOWN_LISTENS:]
    titles = _titles(data, {*item_ids, *(item for item, _ in listens)}) if has_data else {}
    if not has_data:
        notes.append(f"Titles are missing, because {data} is not a data directory. Pass --data DIR.")
    if len(item_ids) < k:
        notes.append(f"The model found {len(item_ids)} allowed items of {k} requested ones.")
    return Answer(
        model=path,
        user=user,
        user_columns={}
        if columns is None
        else {spec.column: columns[spec.column][0].as_py() for spec in specs},
        last_listens=tuple(
            Listen(texts.own_item(item), titles.get(item), None if user is None else time)
            for item, time in listens
        ),
        recommendations=tuple(
            Recommendation(rank, texts.own_item(item), titles.get(item), score)
            for rank, (item, score) in enumerate(zip(item_ids, scores, strict=True), start=1)
        ),
        notes=tuple(notes),
    )


@dataclasses.dataclass(frozen=True)
class _Asked:
    """Ids of a question by number; `texts` holds the items' texts by number."""

    kinds: IdKinds
    user: int | None
    history: list[int]
    exclude: list[int]
    allow: list[int]
    texts: dict[int, str]

    @classmethod
    def of(
        cls,
        kinds: IdKinds,
        user: int | str | None,
        history: Sequence[int | str] | None,
        exclude: Sequence[int | str],
        allow: Sequence[int | str],
    ) -> _Asked:
        """Reads ids in the data's own form; raises UserError for one that the data cannot have."""
        items = {one: _number(one, kinds.item_id) for one in {*(history or ()), *exclude, *allow}}
        return cls(
            kinds,
            None if user is None else _number(user, kinds.user_id),
            [items[one] for one in history or ()],
            [items[one] for one in exclude],
            [items[one] for one in allow],
            {} if kinds.item_id == text_ids.INTEGER else {n: str(one) for one, n in items.items()},
        )


def _number(one: int | str, kind: str) -> int:
    """Returns an id's number; raises UserError for an id that the data cannot have."""
    if kind != text_ids.INTEGER:
        if not one:
            raise UserError("The empty text is no id, because it is padding.")
        return text_ids.number_of(str(one))
    try:
        number = int(one)
    except ValueError:
        raise UserError(f"{one!r} is no id: the model's data has whole numbers as ids.") from None
    if number < 0:
        raise UserError(f"{number} is no id: ids are not negative, because negative ids are padding.")
    if number > _LARGEST_ID:
        raise UserError(f"{number} is no id: the largest id is {_LARGEST_ID}.")
    return number


def _check_ids_of_data(data: str, kinds: IdKinds) -> None:
    """Raises UserError if a data directory has ids of other kinds than the model."""
    from two_tower.data_directory.manifest import Manifest

    manifest = Manifest.load(data)
    if (found := IdKinds(manifest.user_ids, manifest.item_ids)) != kinds:
        raise UserError(
            f"{data}: its ids (users: {found.user_id}, items: {found.item_id}) are not those of the model "
            f"(users: {kinds.user_id}, items: {kinds.item_id}). Pass --data DIR with the model's data, or "
            "train a model on this data."
        )


def _events_given(history: Sequence[int], data: str | None, provenance: Mapping[str, Any]) -> _History:
    """Builds listens of given items, which have no times of their own.

    Their time is the end of train, or the end of the data if the protocol does not split by time.
    """
    size, items = len(history), list(history)
    at = int(provenance["train_newest_timestamp"])
    if not at and data is not None:
        at = _newest_time(data)
    return _History(items, [at] * size, [""] * size, [-1.0] * size, [-1] * size, items)


def render(answer: Answer) -> str:
    """Formats the answer as text: the last listens beside the recommendations."""
    page = io.StringIO()
    console = Console(file=page, width=_WIDTH, highlight=False, markup=False, emoji=False)
    someone = "someone with this history" if answer.last_listens else "a new user"
    who = someone if answer.user is None else f"user {answer.user}"
    past = _table("Last listens, newest first" if answer.last_listens else "No listens")
    past.add_column("item", justify="right")
    past.add_column("title", max_width=44)
    for listen in reversed(answer.last_listens):
        past.add_row(str(listen.item_id), _on_one_line(listen.title))
    recommended = _table(f"Recommended to {who}")
    recommended.add_column("", justify="right")
    recommended.add_column("item", justify="right")
    recommended.add_column("title", max_width=44)
    recommended.add_column("score", justify="right")
    for one in answer.recommendations:
        recommended.add_row(str(one.rank), str(one.item_id), _on_one_line(one.title), f"{one.score:.3f}")
    side_by_side = Table.grid(padding=(0, 3))
    side_by_side.add_row(past, recommended)
    console.print(side_by_side)
    if answer.user_columns:
        shown = ", ".join(f"{name} {_shown(value)}" for name, value in answer.user_columns.items())
        console.print(f"User {answer.user}: {shown}")
    for note in answer.notes:
        console.print(note)
    console.print(f"Model: {answer.model}", soft_wrap=True)
    return "\n".join(line.rstrip() for line in page.getvalue().splitlines()) + "\n"


def _table(title: str) -> Table:
    return Table(title=title, title_justify="left", title_style="", box=box.SIMPLE_HEAD)


def _on_one_line(title: str | None) -> str:
    """Replaces control characters, which could move a terminal's cursor or change its colours."""
    return "".join(letter if letter.isprintable() else " " for letter in title or "")


def _events_of(data: str, user: int, provenance: Mapping[str, Any]) -> _History:
    import numpy as np
    import pyarrow as pa
    import pyarrow.dataset as pads

    from two_tower.data_directory.checked_columns import open_dataset, rows_where
    from two_tower.data_directory.manifest import event_files
    from two_tower.data_directory.shuffled_order import shuffled_order

    files = event_files(data)
    events = open_dataset(files)
    time = next((name for name in ("timestamp", "order") if name in events.schema.names), "")
    names = ("item_id", time, "event_type", "play_ratio", "is_organic")
    table = rows_where(
        files, [name for name in names if name in events.schema.names], pads.field("user_id") == user
    )
    label_event = provenance["label_event"]
    has_types = "event_type" in table.column_names
    kinds = table["event_type"].to_pylist() if has_types else [label_event] * len(table)
    # "" and LISTEN name the label event in a request. Other event types with these names are renamed.
    other = {None: "unknown", "": "unknown", features.LISTEN: f"other {features.LISTEN}"}
    kinds = ["" if kind == label_event else other.get(kind, kind) for kind in kinds]
    # The order of training's windows: by time, listens before reactions at equal times, then file order.
    # Overlapping spans repeat events; the first of equal time, item and type stays.
    items = table["item_id"].to_numpy()
    # Events without an order come in a random one, as in training.
    times = table[time].to_numpy() if time else shuffled_order(np.full(len(items), user), items, seed=0)
    first: dict[tuple[int, int, str], int] = {}
    for row in np.lexsort((np.array([kind != "" for kind in kinds], dtype=bool), times)).tolist():
        first.setdefault((int(times[row]), int(items[row]), kinds[row]), row)
    order = list(first.values())
    kinds = [kinds[row] for row in order]
    last_listen = max((place for place, kind in enumerate(kinds) if not kind), default=-1)
    recent = slice(max(0, last_listen + 1 - provenance["history_length"]), last_listen + 1)
    taken = table.take(pa.array(order[recent], pa.int64()))
    return _History(
        item_id=taken["item_id"].to_pylist(),
        # Data without times has time 0 everywhere, as in training.
        timestamp=taken["timestamp"].to_pylist() if time == "timestamp" else [0] * len(taken),
        event_type=kinds[recent],
        play_ratio=[float(value) for value in _or_unknown(taken, "play_ratio")],
        is_organic=[int(value) for value in _or_unknown(taken, "is_organic")],
        seen=table["item_id"].to_pylist(),
    )


def _newest_time(data: str) -> int:
    from two_tower.data_directory.manifest import Manifest

    return Manifest.load(data).time_range[1]


def _columns_of(data: str, user: int, specs: Sequence[FeatureSpec], notes: list[str]) -> pa.Table | None:
    """Reads the user's row of users/, with nulls and a note for missing values; None without columns."""
    import pyarrow as pa
    import pyarrow.dataset as pads

    from two_tower.data_directory.checked_columns import open_dataset, rows_where
    from two_tower.data_directory.manifest import user_files

    if not specs:
        return None
    nobody = pa.table({spec.column: pa.nulls(1) for spec in specs})
    files = user_files(data)
    if not files:
        notes.append(f"{data} has no table users/. The user's columns are unknown.")
        return nobody
    users = open_dataset(files)
    names = [spec.column for spec in specs if spec.column in users.schema.names]
    missing = [spec.column for spec in specs if spec.column not in names]
    if missing:
        notes.append(f"users/ of {data} lacks the model's columns {', '.join(missing)}.")
    row = rows_where(files, names, pads.field("user_id") == user).slice(0, 1)
    if not len(row):
        notes.append(f"User {user} has no row in users/ of {data}.")
        return nobody
    return pa.table({**{name: nobody[name] for name in missing}, **{name: row[name] for name in names}})


def _as_requested(columns: pa.Table | None, specs: Sequence[FeatureSpec]) -> dict[str, Any]:
    """Returns the users' columns as inputs of one request; None is a user with unknown values."""
    import pyarrow as pa

    if columns is None:
        columns = pa.table({spec.column: pa.nulls(1) for spec in specs})
    encoded = encode_columns(columns, specs, "users/")
    values: dict[str, Any] = {}
    for spec in specs:
        (members,) = encoded[spec.name].to_pylist()
        members = members or [spec.column_kind.absent]
        values[spec.name] = [members] if spec.column_kind.is_list else members
    return values


def _shown(value: Any) -> str:
    if value is None:
        return "unknown"
    if isinstance(value, list):
        numbers = bool(value) and isinstance(value[0], float)
        return f"({len(value)} numbers)" if numbers else "/".join(map(str, value))
    return str(value)


def _or_unknown(table: pa.Table, column: str) -> list[Any]:
    values = table[column].to_pylist() if column in table.column_names else [None] * len(table)
    return [features.UNKNOWN if value is None else value for value in values]


def _titles(data: str, item_ids: set[int]) -> dict[int, str]:
    import pyarrow.dataset as pads

    from two_tower.data_directory.checked_columns import open_dataset, rows_where
    from two_tower.data_directory.manifest import item_files

    files = item_files(data)
    if "title" not in open_dataset(files).schema.names:
        return {}
    found = rows_where(files, ["item_id", "title"], pads.field("item_id").isin(sorted(item_ids)))
    return {row["item_id"]: row["title"] for row in found.to_pylist() if row["title"] is not None}


def _ask(
    path: str,
    user: int | None,
    events: _History,
    exclude: Sequence[int],
    allow: Sequence[int],
    k: int,
    history_length: int,
    columns: Mapping[str, Any],
) -> tuple[list[int], list[float], list[int], IdTexts]:
    """Asks the model by number.

    Returns:
        Items and scores without padding, unknown items of the history, and texts of ids.
    """
    with terminal.hushed():
        model = load_model(path)
        recent = slice(-history_length, None)
        serve = signature_by_number(model, "serving_default")
        if allow and features.ALLOW_ITEM_ID not in serve.structured_input_signature[1]:
            raise UserError(f"--allow: the model {path} takes no allow list. Build it again.")
        request = {
            features.USER_ID: [-1 if user is None else user],
            features.HISTORY_ITEM_ID: [events.item_id[recent]],
            features.HISTORY_TIMESTAMP: [events.timestamp[recent]],
            features.HISTORY_EVENT_TYPE: [events.event_type[recent]],
            features.HISTORY_PLAY_RATIO: [events.play_ratio[recent]],
            features.HISTORY_IS_ORGANIC: [events.is_organic[recent]],
            features.EXCLUDE_ITEM_ID: [exclude],
            features.ALLOW_ITEM_ID: [allow],
            features.K: k,
            **columns,
        }
        answer = serve(**request_tensors(serve, request))
        catalog = signature_by_number(model, "catalog")()["item_id"].numpy()
        texts = IdTexts.of_model(model, catalog)
    found = zip(answer["item_id"].numpy()[0].tolist(), answer["score"].numpy()[0].tolist(), strict=True)
    pairs = [(item, score) for item, score in found if item >= 0]
    unknown = sorted(set(events.item_id[recent]) - set(catalog.tolist()))
    return [item for item, _ in pairs], [score for _, score in pairs], unknown, texts
