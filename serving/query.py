"""Asks a served model for one user's recommendations, and shows them beside the user's last listens."""

from __future__ import annotations

import dataclasses
import io
import json
import os
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from rich import box
from rich.console import Console
from rich.table import Table

from two_tower.base import console as terminal
from two_tower.base import storage
from two_tower.base.errors import UserError
from two_tower.data_directory.feature_columns import FeatureSpec, encode_columns
from two_tower.schema import features
from two_tower.serving.request_tensors import request_tensors
from two_tower.serving.versions import find_model

if TYPE_CHECKING:
    import pyarrow as pa

SHOWN_LISTENS = 10
_WIDTH = 120
# Ids are int64.
_LARGEST_ID = 2**63 - 1


@dataclasses.dataclass(frozen=True)
class Listen:
    """An event of the past; `title` and `timestamp` (seconds) where they are known."""

    item_id: int
    title: str | None
    timestamp: int | None


@dataclasses.dataclass(frozen=True)
class Recommendation:
    """One place of the answer, from rank 1."""

    rank: int
    item_id: int
    title: str | None
    score: float


@dataclasses.dataclass(frozen=True)
class Answer:
    """What a model recommends, and to what history."""

    # The model's directory, with the version that answered.
    model: str
    user: int | None
    # What the data directory says of the user in the columns that the model knows; null is not known.
    user_columns: Mapping[str, Any]
    # Oldest first; reactions are left out.
    last_listens: tuple[Listen, ...]
    recommendations: tuple[Recommendation, ...]
    # What the reader must know: the user is new, items are unknown, titles are not at hand.
    notes: tuple[str, ...]

    def to_json(self) -> str:
        """All of it, indented."""
        return json.dumps(dataclasses.asdict(self), indent=2, ensure_ascii=False)


@dataclasses.dataclass(frozen=True)
class _History:
    """Events up to the last listen, oldest first, and every item that the user has had."""

    item_id: list[int]
    timestamp: list[int]
    event_type: list[str]
    play_ratio: list[float]
    is_organic: list[int]
    seen: list[int]


def recommend(
    model_dir: str,
    user: int | None,
    history: Sequence[int] | None,
    k: int,
    data: str | None = None,
    *,
    exclude: Sequence[int] = (),
    allow: Sequence[int] = (),
) -> Answer:
    """The k best items for a user of the data directory, or for a history of items.

    Args:
      model_dir: see `find_model`.
      user: whose events are looked up in the data directory; unknown users are answered from no history.
      history: item ids, oldest first, instead of a user's; may be empty.
      k: how many.
      data: the data directory; None is where the model was made from.
      exclude: items that must not be recommended, beside those that the user had where repeats are not.
      allow: the only items that may be recommended; none: all.

    Raises:
      UserError: no model, k out of the model's range, a negative id, no data directory for a user, or an
        allow list for a model that knows none.
    """
    path = find_model(model_dir)
    provenance = _provenance(path)
    if not 1 <= k <= provenance["max_k"]:
        raise UserError(f"-k {k}: this model answers with 1 to {provenance['max_k']} items (index.max_k).")
    ids = [*(history or []), *([] if user is None else [user]), *exclude, *allow]
    if any(number < 0 for number in ids):
        raise UserError("Ids are not negative: a negative one stands for padding.")
    if too_large := [number for number in ids if number > _LARGEST_ID]:
        raise UserError(f"{too_large[0]} is no id: the largest is {_LARGEST_ID}.")
    data = data or provenance["data"]
    notes: list[str] = []
    specs = [FeatureSpec(**spec) for spec in provenance.get("features", {}).get("users", [])]
    columns: pa.Table | None = None
    has_data = storage.is_file(storage.join(data, "manifest.json"))
    if user is not None:
        if not has_data:
            raise UserError(
                f"{data}, where this model's data was, is not a data directory now: "
                "pass --data DIR to look up the user, or --history with item ids."
            )
        events = _events_of(data, user, provenance)
        columns = _columns_of(data, user, specs, notes)
        if not events.item_id:
            what = "no listens" if events.seen else "no events"
            notes.append(f"User {user} has {what} in {data}: answered as a new user, from an empty history.")
    else:
        # Listened to at the end of training, for want of a time.
        size = len(history or [])
        at = int(provenance["train_newest_timestamp"])
        if not at and has_data:
            # No split in time: the end of the data, which is 0 where it has no times.
            at = _newest_time(data)
        items = list(history or [])
        events = _History(items, [at] * size, [""] * size, [-1.0] * size, [-1] * size, items)
        if not items:
            notes.append("The history is empty: answered as a new user.")
    seen = [] if provenance["repeats_recommendable"] else events.seen
    excluded, allowed = sorted({*seen, *exclude}), sorted(set(allow))
    item_ids, scores, unknown = _ask(
        path, user, events, excluded, allowed, k, provenance["history_length"], _as_requested(columns, specs)
    )
    if unknown:
        listed = ", ".join(map(str, unknown[:5])) + (" and more" if len(unknown) > 5 else "")
        notes.append(f"Of the history, these items are unknown to the model: {listed}.")
    past = zip(events.item_id, events.timestamp, events.event_type, strict=True)
    listens = [(item, time) for item, time, kind in past if not kind][-SHOWN_LISTENS:]
    titles = _titles(data, {*item_ids, *(item for item, _ in listens)}) if has_data else {}
    if not has_data:
        notes.append(f"There are no titles: {data} is not a data directory. Pass --data DIR.")
    if len(item_ids) < k:
        notes.append(f"The model found {len(item_ids)} items that may be recommended, of {k} asked for.")
    return Answer(
        model=path,
        user=user,
        user_columns={}
        if columns is None
        else {spec.column: columns[spec.column][0].as_py() for spec in specs},
        last_listens=tuple(
            Listen(item, titles.get(item), None if user is None else time) for item, time in listens
        ),
        recommendations=tuple(
            Recommendation(rank, item, titles.get(item), score)
            for rank, (item, score) in enumerate(zip(item_ids, scores, strict=True), start=1)
        ),
        notes=tuple(notes),
    )


def render(answer: Answer) -> str:
    """The answer as text: the last listens, and beside them what is recommended."""
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
    """Without what would move a terminal's cursor or change its colours."""
    return "".join(letter if letter.isprintable() else " " for letter in title or "")


def _provenance(path: str) -> dict[str, Any]:
    file_path = os.path.join(path, "assets.extra", "provenance.json")
    try:
        with open(file_path, encoding="utf-8") as file:
            return dict(json.load(file))
    except (OSError, ValueError) as error:
        raise UserError(
            f"{file_path} cannot be read ({error}): not a model of this pipeline, or not copied whole."
        ) from error


def _events_of(data: str, user: int, provenance: Mapping[str, Any]) -> _History:
    import numpy as np
    import pyarrow as pa
    import pyarrow.dataset as pads

    from two_tower.data_directory.checked_columns import open_dataset
    from two_tower.data_directory.manifest import event_files

    events = open_dataset(event_files(data))
    time = "timestamp" if "timestamp" in events.schema.names else "order"
    names = ("item_id", time, "event_type", "play_ratio", "is_organic")
    table = events.to_table(
        columns=[name for name in names if name in events.schema.names], filter=pads.field("user_id") == user
    )
    label_event = provenance["label_event"]
    has_types = "event_type" in table.column_names
    kinds = table["event_type"].to_pylist() if has_types else [label_event] * len(table)
    # The model's "" is the label event, whatever the data set calls it; no other may have a name for it.
    other = {None: "unknown", "": "unknown", features.LISTEN: f"other {features.LISTEN}"}
    kinds = ["" if kind == label_event else other.get(kind, kind) for kind in kinds]
    # As the windows of training: by time, at equal times listens before reactions, then as in the files; of
    # events that agree in time, item and type, as overlapping spans have them, the first.
    items, times = table["item_id"].to_numpy(), table[time].to_numpy()
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
        # Without times every time is 0, as in training.
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
    """The user's row of users/, with nulls for what it lacks, which is noted; None where nothing is asked."""
    import pyarrow as pa
    import pyarrow.dataset as pads

    from two_tower.data_directory.checked_columns import open_dataset
    from two_tower.data_directory.manifest import user_files

    if not specs:
        return None
    nobody = pa.table({spec.column: pa.nulls(1) for spec in specs})
    files = user_files(data)
    if not files:
        notes.append(f"{data} has no table users/: answered without what the model could know of a user.")
        return nobody
    users = open_dataset(files)
    names = [spec.column for spec in specs if spec.column in users.schema.names]
    missing = [spec.column for spec in specs if spec.column not in names]
    if missing:
        notes.append(f"users/ of {data} lacks {', '.join(missing)}, which the model could use.")
    row = users.to_table(columns=names, filter=pads.field("user_id") == user).slice(0, 1)
    if not len(row):
        notes.append(f"User {user} has no row in users/ of {data}.")
        return nobody
    return pa.table({**{name: nobody[name] for name in missing}, **{name: row[name] for name in names}})


def _as_requested(columns: pa.Table | None, specs: Sequence[FeatureSpec]) -> dict[str, Any]:
    """Returns the inputs of one request; `columns` None is a user of whom nothing is known."""
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

    from two_tower.data_directory.checked_columns import open_dataset
    from two_tower.data_directory.manifest import item_files

    items = open_dataset(item_files(data))
    if "title" not in items.schema.names:
        return {}
    found = items.to_table(columns=["item_id", "title"], filter=pads.field("item_id").isin(sorted(item_ids)))
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
) -> tuple[list[int], list[float], list[int]]:
    """Item ids and scores without padding, and the history's items that the model does not know."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    os.environ.setdefault("TF_USE_LEGACY_KERAS", "1")
    with terminal.hushed():
        import scann  # noqa: F401  (registers the operations that the model is made of)
        import tensorflow as tf

        model = tf.saved_model.load(path)
        recent = slice(-history_length, None)
        serve = model.signatures["serving_default"]
        if allow and features.ALLOW_ITEM_ID not in serve.structured_input_signature[1]:
            raise UserError(f"--allow: {path} was built before models took such a list. Build it again.")
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
        known = set(model.catalog()["item_id"].numpy().tolist())
    found = zip(answer["item_id"].numpy()[0].tolist(), answer["score"].numpy()[0].tolist(), strict=True)
    pairs = [(item, score) for item, score in found if item >= 0]
    unknown = sorted(set(events.item_id[recent]) - known)
    return [item for item, _ in pairs], [score for _, score in pairs], unknown
