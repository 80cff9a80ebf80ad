"""Rules of the preset `auto`: settings that follow from the data, each with its reason.

A rule reads the shape of the data and the settings before it, and writes its own. Settings that somebody gave
are never changed, and later rules go by them. The same data and settings give the same result.

docs/decisions/0024-auto.md has the measurements that led to the numbers.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Collection, Mapping
from typing import TYPE_CHECKING, Any

from two_tower.base.durations import DAY
from two_tower.base.settings import Declaration
from two_tower.components.interaction_example_gen.settings import SplitConfig
from two_tower.trainer.model.encoder_registry import ATTENTION_HEADS
from two_tower.trainer.settings import (
    AGGREGATES,
    DEFAULT_PARTS,
    EXAMPLE_AGE,
    ITEM_BIAS,
    REPEAT_HEAD,
    USER_ID,
)

if TYPE_CHECKING:  # the command line imports this module, and should start without NumPy and Arrow
    from two_tower.data_directory.event_shape import EventShape
    from two_tower.data_directory.manifest import Manifest

HOUR = 3_600
# Periods that people take, in seconds.
_PERIODS = (HOUR, 6 * HOUR, 12 * HOUR, *(days * DAY for days in (1, 2, 3, 7, 14, 28)))
# A verdict wants some thousand test labels: Recall@100 of .3 has then a 95% interval of +-.013.
_TEST_LABELS = 5_000
# Train keeps this share of the time and of the labels.
_TRAIN_SHARE = 0.8
_LONGEST_HISTORY = 200
# Steps of a training, and the labels of a step: too few steps learn little from any number of labels, and a
# step of few labels has few negatives and a noisy gradient.
_STEPS, _STEPS_PER_EPOCH = 3_000, 190
_MOST_LABELS_PER_STEP = 4_096
_MOST_EPOCHS, _FEWEST_EPOCHS = 16, 2


@dataclasses.dataclass(frozen=True)
class Choice:
    """A settled setting.

    Attributes:
      name: its dotted name.
      value: its value.
      reason: the reason, in a few words.
      subject: the rule's subject, such as "windows"; choices of a subject are told in one line.
    """

    name: str
    value: Any
    reason: str
    subject: str


class Settling:
    """Settings while rules settle them.

    Attributes:
      shape: shape of the label events.
      manifest: manifest of the data.
      choices: settled settings, in the order of the rules.
      subject: subject of the rule that applies now.
    """

    def __init__(
        self,
        shape: EventShape,
        manifest: Manifest,
        values: Mapping[str, Any],
        declared: Mapping[str, Declaration],
        automatic: Collection[str],
    ) -> None:
        """Args:
        shape: shape of the label events.
        manifest: manifest of the data.
        values: all settings by dotted name, as given or at their base.
        declared: declarations of all settings.
        automatic: dotted names of the settings that rules may change.
        """
        self.shape, self.manifest = shape, manifest
        self.choices: list[Choice] = []
        self.subject = ""
        self._values, self._declared = dict(values), declared
        self._automatic = frozenset(automatic)

    def __getitem__(self, name: str) -> Any:
        return self._values[name]

    def settle(self, name: str, value: Any, reason: str) -> None:
        """Sets a setting, unless somebody gave it, or another setting makes it meaningless."""
        if name not in self._automatic:
            return
        for other, wanted in self._declared[name].setting.applies.items():
            held = self[other] if isinstance(self[other], tuple) else (self[other],)
            if not set(held) & set(wanted):
                return
        self._values[name] = value
        self.choices.append(Choice(name, value, reason, self.subject))

    @property
    def holds_back(self) -> bool:
        """True where eval and test are periods of time."""
        return self["split.protocol"] in ("next_event", "frozen")

    @property
    def train_labels(self) -> int:
        """Number of label events of train, about."""
        if not self.holds_back:
            return self.shape.label_events
        return self.shape.label_events - self.shape.labels_in_last(2 * self["split.holdout_seconds"])

    @property
    def labels_an_item(self) -> float:
        """Mean number of train's label events of an item that has any."""
        return self.train_labels / max(1, len(self.shape.items))

    @property
    def test_from(self) -> int:
        """Time at which test begins, in seconds."""
        return self.shape.newest + 1 - self["split.holdout_seconds"]

    @property
    def is_described(self) -> bool:
        """True where items have content vectors, artists or albums, or columns that are features."""
        columns = self.manifest.columns["items"]
        named = bool(self["features.items"])
        return bool(self.manifest.has_embedding) or named or bool({"artist_id", "album_id"} & columns.keys())


def settle(
    shape: EventShape,
    manifest: Manifest,
    values: Mapping[str, Any],
    declared: Mapping[str, Declaration],
    automatic: Collection[str],
) -> list[Choice]:
    """Applies all rules; for the arguments see `Settling`."""
    settling = Settling(shape, manifest, values, declared, automatic)
    for settling.subject, rule in _RULES.items():
        rule(settling)
    return settling.choices


def _protocol(of: Settling) -> None:
    protocol, why = "next_event", "events have times"
    if not of.manifest.has_timestamps:
        protocol, why = "leave_one_out", "events have an order and no times"
    if not of.manifest.has_order:
        protocol, why = "hold_out", "events have no order"
    of.settle("split.protocol", protocol, why)


def _periods(of: Settling) -> None:
    if not of.holds_back or of["split.last_timestamp"] >= 0:
        return
    shape = of.shape
    length = shape.newest - shape.oldest + 1
    of_train = (1 - _TRAIN_SHARE) / 2

    def leaves_enough(period: int) -> bool:
        few = shape.labels_in_last(period) <= of_train * shape.label_events
        return few and period <= of_train * length

    possible = [period for period in _PERIODS if leaves_enough(period)] or [max(1, int(of_train * length))]
    enough = [period for period in possible if shape.labels_in_last(period) >= _TEST_LABELS]
    # A day holds all hours, and shorter periods are taken from short data alone.
    daily = [period for period in enough if period >= DAY]
    period = daily[0] if daily else possible[-1]
    labels = shape.labels_in_last(period)
    of.settle("split.holdout_seconds", period, f"the last {_duration(period)} have {labels:,} labels")
    gap = min(SplitConfig().gap_seconds, period // 20)
    of.settle("split.gap_seconds", gap, "keeps a session within one split")


def _windows(of: Settling) -> None:
    covered = of.shape.history_length_of(0.95)
    history = min(max(20, -(-covered // 10) * 10), _LONGEST_HISTORY)
    of.settle("windows.history_length", history, f"95% of labels have {covered} earlier ones or fewer")
    if of.holds_back or of["split.protocol"] == "yambda":
        of.settle("windows.positions", min(150, max(20, history)), "a window's labels share its history")
    else:
        longest = int(of.shape.users.counts.max(initial=1))
        of.settle("windows.positions", min(2_400, max(20, longest)), "a user's whole history is one window")


def _widths(of: Settling) -> None:
    labels = of.train_labels
    width = 128 if labels >= 300_000 else 64
    of.settle("trainer.embedding_dim", width, f"{labels:,} labels to learn from")
    if of.is_described:
        of.settle("trainer.item_embedding_dim", 32, "artists, albums or content describe items already")
    else:
        of.settle("trainer.item_embedding_dim", 0, "nothing else describes items: their own row is whole")
    of.settle("trainer.query_hidden_units", (2 * width,), "one hidden layer of twice the embedding's width")


def _encoder(of: Settling) -> None:
    has_order = of.manifest.has_order and of["split.protocol"] != "hold_out"
    if not has_order:
        of.settle("trainer.encoder", "mean", "histories have no order")
    elif of.is_described:
        of.settle("trainer.encoder", "mean", "what describes items generalises from means")
    elif of.train_labels < 200_000:
        of.settle("trainer.encoder", "mean", f"{of.train_labels:,} labels are few for attention")
    elif of["trainer.embedding_dim"] % ATTENTION_HEADS:
        of.settle("trainer.encoder", "mean", f"{ATTENTION_HEADS} heads do not divide trainer.embedding_dim")
    else:
        of.settle("trainer.encoder", "attention+mean", "the order of items tells most, as nothing else does")


def _parts(of: Settling) -> None:
    parts = [*DEFAULT_PARTS, ITEM_BIAS, REPEAT_HEAD]
    why = []

    def leave_out(part: str, reason: str) -> None:
        parts.remove(part)
        why.append(f"no {part} ({reason})")

    new = of.shape.users.new_share(of.test_from) if of.holds_back else 0.0
    labels_a_user = of.train_labels / max(1, len(of.shape.users))
    if new > 0.5:
        leave_out(USER_ID, f"{new:.0%} of test's users are new")
    elif labels_a_user < 50 or not of.holds_back:
        leave_out(USER_ID, f"{labels_a_user:.0f} labels a user, whom the history describes")
    repeats = of.shape.repeat_share
    if not of.manifest.repeats_recommendable:
        leave_out(REPEAT_HEAD, "items are not recommended again")
    elif repeats < 0.01:
        leave_out(REPEAT_HEAD, f"{repeats:.1%} of labels are repeats")
    if of.labels_an_item < 30:
        leave_out(ITEM_BIAS, f"{of.labels_an_item:.0f} labels an item")
    if not of.manifest.has_timestamps:
        leave_out(EXAMPLE_AGE, "no times")
    if not of.manifest.has_order:
        leave_out(AGGREGATES, "no order")
    of.settle("trainer.parts", tuple(parts), ", ".join(why) or "all")


def _loss(of: Settling) -> None:
    of.settle("trainer.softmax", "auto", "full where a step can score all items")
    of.settle("trainer.negatives.deduplicate", True, "a popular item counts once among a step's negatives")
    sparse = of.labels_an_item < 15
    reason = f"{of.labels_an_item:.0f} labels an item"
    temperature = 0.15 if of["split.protocol"] == "hold_out" else 0.3 if sparse else 0.07
    of.settle("trainer.temperature", temperature, reason)
    few = of.labels_an_item < 50 or not of.is_described
    initial = "co_occurrence" if few else "random"
    of.settle("trainer.item_initial", initial, reason)
    if of["split.protocol"] == "hold_out":
        of.settle("trainer.label_horizon", of["windows.positions"], "any item of the user may be held out")


def _steps(of: Settling) -> None:
    labels = of.train_labels
    of.settle("trainer.windows_per_step", 0, f"some {_STEPS_PER_EPOCH} steps an epoch")
    of.settle("trainer.positions_per_step", _MOST_LABELS_PER_STEP, "what a step's cost allows")
    per_step = min(labels / _STEPS_PER_EPOCH, _MOST_LABELS_PER_STEP)
    epochs = round(_STEPS * per_step / max(1, labels))
    epochs = min(max(epochs, _FEWEST_EPOCHS), _MOST_EPOCHS)
    of.settle(
        "trainer.epochs", epochs, f"{_STEPS:,} steps of some {per_step:,.0f} labels, or the best before"
    )
    of.settle("trainer.patience", 3, "epochs without a gain of validation")
    attends = "attention" in of["trainer.encoder"]
    rate = 0.001 if attends else 0.01 if per_step > 1_500 else 0.005
    of.settle("trainer.learning_rate", rate, "attention takes small steps" if attends else "means")
    of.settle("trainer.schedule.shape", "cosine", "ends with small steps")
    of.settle("trainer.schedule.warmup", 300 if attends else 100, "moments are noise at first")


def _regularisation(of: Settling) -> None:
    hidden = 0.1 if of.labels_an_item >= 50 and of.is_described else 0.3
    of.settle("trainer.dropout.hidden", hidden, f"{of.labels_an_item:.0f} labels an item")
    of.settle("trainer.weight_decay", 0.3, "keeps rare rows small")
    if of.is_described:
        new = of.shape.items.new_share(of.test_from) if of.holds_back else 0.0
        share = round(min(0.5, max(0.1, new)), 2)
        of.settle("trainer.dropout.id", share, f"{new:.0%} of test's items are new, and content places them")
    else:
        of.settle("trainer.dropout.id", 0.0, "nothing but its id describes an item")
    history = 0.02 if of.is_described else 0.0
    of.settle("trainer.dropout.history", history, "prepares for users without a history")


def _verdict(of: Settling) -> None:
    most = 100 if of.manifest.counts["items"] >= 1_000 and of.holds_back else 10
    measured = of["evaluation.cutoffs"]
    cutoff = max((one for one in measured if one <= most), default=min(measured))
    of.settle("gate.cutoff", cutoff, f"{of.manifest.counts['items']:,} items")
    if of.holds_back and of.shape.labels_in_last(of["split.holdout_seconds"]) < 2 * _TEST_LABELS:
        why = "test is small, and its noise is"
        of.settle("gate.min_lift_over_best_baseline", -0.01, f"{why} a hundredth")
        of.settle("gate.min_discovery_lift", -0.01, f"{why} a hundredth")
        of.settle("gate.min_change_against_blessed", -0.01, f"{why} a hundredth")
        of.settle("gate.min_change_against_anchor", -0.02, f"{why} a hundredth")
        of.settle("gate.min_slice_change", -0.05, f"{why} more in slices")


_RULES: Mapping[str, Callable[[Settling], None]] = {
    "protocol": _protocol,
    "periods": _periods,
    "windows": _windows,
    "widths": _widths,
    "encoder": _encoder,
    "parts": _parts,
    "loss": _loss,
    "steps": _steps,
    "regularisation": _regularisation,
    "verdict": _verdict,
}

# Settings that rules settle.
AUTOMATIC = (
    "split.protocol",
    "split.holdout_seconds",
    "split.gap_seconds",
    "windows.history_length",
    "windows.positions",
    "trainer.embedding_dim",
    "trainer.item_embedding_dim",
    "trainer.item_initial",
    "trainer.encoder",
    "trainer.parts",
    "trainer.query_hidden_units",
    "trainer.temperature",
    "trainer.softmax",
    "trainer.negatives.deduplicate",
    "trainer.label_horizon",
    "trainer.epochs",
    "trainer.learning_rate",
    "trainer.schedule.shape",
    "trainer.schedule.warmup",
    "trainer.weight_decay",
    "trainer.dropout.hidden",
    "trainer.dropout.id",
    "trainer.dropout.history",
    "trainer.windows_per_step",
    "trainer.positions_per_step",
    "trainer.patience",
    "gate.cutoff",
    "gate.min_lift_over_best_baseline",
    "gate.min_discovery_lift",
    "gate.min_change_against_blessed",
    "gate.min_change_against_anchor",
    "gate.min_slice_change",
)


def _duration(seconds: int) -> str:
    for unit, name in ((DAY, "day"), (HOUR, "hour")):
        if seconds >= unit and seconds % unit == 0:
            count = seconds // unit
            return f"{count} {name}{'s' if count > 1 else ''}"
    return f"{seconds:,} seconds"
