"""Charts of the report. Each is drawn for a width in pixels, so that its text is never scaled down."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from markupsafe import Markup

from two_tower.base.durations import milliseconds
from two_tower.evaluation.query_results import QueryResults
from two_tower.evaluation.recommenders import BLESSED_MODEL, MODEL, MODEL_EXACT, in_order, recommender
from two_tower.evaluation.report.formats import interval, number
from two_tower.evaluation.report.svg import Drawing, Scale, apart
from two_tower.evaluation.uncertainty import UserSample

WIDE, NARROW = 1_040, 328
HALF = 500
_CURVE_POINTS = 48
# Below this width a chart has no room for labels beside it.
_ROOM_BESIDE = 480


def both(chart: Callable[[float], Markup], wide: float = WIDE, narrow: float = NARROW) -> Markup:
    """Draws a chart for wide screens and for phones, of which the page shows one."""
    pair = Markup('<div class="wide">{}</div><div class="narrow">{}</div>')
    return pair.format(chart(wide), chart(narrow))


def recall_curves(results: QueryResults) -> dict[str, Any]:
    """Computes recall over k: `k` [m], and by recommender `mean`, `low` and `high` [m] of 95% bounds.

    k runs to the deepest rank of any recommender's answers, where the lists were cut off.
    """
    finite = [ranks[np.isfinite(ranks)] for ranks in results.ranks.values()]
    deepest = int(max((ranks.max() for ranks in finite if len(ranks)), default=1))
    ks = np.unique(np.geomspace(1, max(deepest, 1), _CURVE_POINTS).round().astype(int)).tolist()
    sample = UserSample(results.user.astype(np.int64))
    curves = {}
    for who in in_order(set(results.ranks) - {MODEL_EXACT}):
        values = results.values(who, ks)
        columns = np.stack([values[f"recall@{k}"] for k in ks], axis=1)
        low, high = sample.estimates(columns).bounds()
        mean = columns.mean(axis=0)
        curves[who] = {
            "mean": mean.tolist(),
            # Few users give no bounds.
            "low": np.where(np.isfinite(low), low, mean).tolist(),
            "high": np.where(np.isfinite(high), high, mean).tolist(),
        }
    return {"k": ks, "curves": curves}


def draw_recall(found: Mapping[str, Any], cutoff: int) -> Callable[[float], Markup]:
    """Draws recall over k on a logarithmic axis, as found by `recall_curves`."""

    def draw(width: float) -> Markup:
        is_wide = width > _ROOM_BESIDE
        height, left, right, top, bottom = (460 if is_wide else 300), 40, (236 if is_wide else 12), 14, 40
        ks, curves = found["k"], found["curves"]
        x = Scale(1, max(ks[-1], 2), left, width - right, log=True)
        highest = max((max(one["high"]) for one in curves.values()), default=1.0)
        y = Scale(0, max(highest * 1.04, 1e-3), height - bottom, top)
        drawing = Drawing(width, height, "Recall at k over k, of the model and every baseline")
        _axes(drawing, x, y, left, width - right, top, height - bottom, "k, how many are recommended")
        if ks[0] <= cutoff <= ks[-1]:
            drawing.line((x(cutoff), top), (x(cutoff), height - bottom), "mark")
            drawing.text((x(cutoff) - 5, top + 10), f"judged at {cutoff}", "small", "end")
        for who, one in curves.items():
            upper, lower = (
                [(x(k), y(v)) for k, v in zip(ks, one[side], strict=True)] for side in ("high", "low")
            )
            drawing.area(upper, lower, "band", recommender(who).colour)
        for who, one in curves.items():
            kind = "curve strong" if who == MODEL else "curve dashed" if who == BLESSED_MODEL else "curve"
            points = [(x(k), y(v)) for k, v in zip(ks, one["mean"], strict=True)]
            drawing.path(points, kind, recommender(who).colour)
            for k, (px, py), mean, low, high in zip(
                ks, points, one["mean"], one["low"], one["high"], strict=True
            ):
                tip = f"{recommender(who).label}: recall@{k} {number(mean)} ({number(low)} to {number(high)})"
                drawing.dot((px, py), 4, "hover", recommender(who).colour, tip)
        if is_wide:
            ends = [y(one["mean"][-1]) for one in curves.values()]
            places = apart(ends, 18, top + 6, height - bottom)
            for (who, one), end, place in zip(curves.items(), ends, places, strict=True):
                at = width - right
                drawing.path(
                    [(at + 2, end), (at + 12, place), (at + 18, place)], "leader", recommender(who).colour
                )
                kind = "name strong" if who == MODEL else "name"
                text = f"{number(one['mean'][-1])}  {recommender(who).label}"
                drawing.text((at + 22, place + 4), text, kind, who=recommender(who).colour)
        return drawing.render()

    return draw


def gauge(threshold: Mapping[str, Any]) -> Markup:
    """Draws a threshold: its limit, the value and its interval, and the side that is refused."""
    width, height = 168.0, 26.0
    value, limit = threshold.get("value"), threshold.get("limit")
    if value is None or limit is None:
        return Markup("")
    bounds = [bound for bound in (threshold.get("low"), threshold.get("high")) if bound is not None]
    known = [value, limit, *bounds]
    scale = Scale.around(known, 6, width - 6, margin=0.35)
    is_least = threshold.get("direction", "min") == "min"
    drawing = Drawing(width, height, f"value {value:g}, limit {limit:g}", "gauge")
    middle = height / 2
    at = scale(limit)
    drawing.line((2, middle), (width - 2, middle), "rail")
    drawing.box((2 if is_least else at, middle - 4), at - 2 if is_least else width - 2 - at, 8, "refused")
    drawing.line((at, 3), (at, height - 3), "limit")
    who = "good" if threshold["ok"] else "bad"
    for bound in bounds:
        drawing.line((scale(bound), middle), (scale(value), middle), "whisker", who)
        drawing.line((scale(bound), middle - 4), (scale(bound), middle + 4), "whisker", who)
    drawing.dot((scale(value), middle), 4.5, "dot", who)
    return drawing.render()


def draw_slices(
    rows: Sequence[Mapping[str, Any]], scale: tuple[float, float], metric: str, other: str
) -> Callable[[float], Markup]:
    """Draws slices of one family as dots with intervals: the model, and hollow the `other` recommender.

    Args:
        rows: `name`, `queries`, `value` and `bounds` of the model, `other` and `other_bounds`.
        scale: span of the axis, the same for all families.
        metric: name of the metric.
        other: recommender that the model is compared with.
    """

    def draw(width: float) -> Markup:
        is_wide = width > _ROOM_BESIDE
        left, right, step, top = (150, 58, 30, 6) if is_wide else (8, 46, 48, 6)
        height = top + step * len(rows) + 26
        x = Scale(*scale, left + 6, width - right - 6)
        drawing = Drawing(width, height, f"{metric} of slices, the model beside {recommender(other).label}")
        for tick in x.ticks(5 if is_wide else 4):
            drawing.line((x(tick), top), (x(tick), height - 22), "grid")
            drawing.text((x(tick), height - 6), number(tick, 2), "tick", "middle")
        for place, row in enumerate(rows):
            middle = top + step * place + (step / 2 if is_wide else step * 0.66)
            if is_wide:
                drawing.text((left - 4, middle + 4), shortened(row["name"], 22), "label", "end")
            else:
                drawing.text((left, middle - 15), shortened(row["name"], 44), "label")
            drawing.line((left, middle), (width - right, middle), "rail")
            for key, bounds, who, kind in (
                ("other", "other_bounds", other, "hollow"),
                ("value", "bounds", MODEL, "dot"),
            ):
                if row[key] is None:
                    continue
                nudge = -4 if key == "other" else 4
                colour = recommender(who).colour
                if row[bounds] and row[bounds][0] is not None:
                    low, high = ((x(bound), middle + nudge) for bound in row[bounds])
                    drawing.line(low, high, "whisker", colour)
                tip = f"{recommender(who).label}: {number(row[key])}"
                tip += f" ({interval(row[bounds])})" if row[bounds] else ""
                drawing.dot(
                    (x(row[key]), middle + nudge), 4.5, kind, colour, f"{tip}; {row['queries']:,} queries"
                )
            drawing.text((width, middle + 4), f"{row['queries']:,}", "count", "end")
        drawing.text((width, height - 6), "queries", "tick", "end")
        return drawing.render()

    return draw


def draw_tuning(tuning: Mapping[str, Any]) -> Callable[[float], Markup]:
    """Draws the index's settings that were tried: recall against bytes a query, the best of them joined.

    The choice goes by bytes, since times vary from minute to minute.
    """
    points = [one for one in tuning["points"] if one.get("recall") is not None and one.get("bytes_per_query")]
    chosen = tuning["points"][tuning["chosen"]] if tuning.get("chosen") is not None else None
    best, frontier = -1.0, []
    for one in sorted(points, key=lambda one: (one["bytes_per_query"], -one["recall"])):
        if one["recall"] > best:
            best = one["recall"]
            frontier.append(one)

    def draw(width: float) -> Markup:
        is_wide = width > _ROOM_BESIDE
        height, left, right, top, bottom = (380 if is_wide else 300), 48, 20, 16, 42
        x = Scale.around(
            [one["bytes_per_query"] / 1024 for one in points], left, width - right, log=True, margin=0.08
        )

        def place(one: Mapping[str, Any]) -> tuple[float, float]:
            return x(one["bytes_per_query"] / 1024), y(one["recall"])

        y = Scale.around([*(one["recall"] for one in points), tuning["target"]], height - bottom, top)
        drawing = Drawing(width, height, "Recall of the index against kilobytes read a query, by setting")
        _axes(drawing, x, y, left, width - right, top, height - bottom, "kilobytes read a query")
        drawing.line((left, y(tuning["target"])), (width - right, y(tuning["target"])), "mark")
        drawing.text(
            (width - right, y(tuning["target"]) - 5), f"target {number(tuning['target'])}", "small", "end"
        )
        drawing.path([place(one) for one in frontier], "curve", "model")
        for one in points:
            kind = "dot" if one in frontier else "dot faint"
            drawing.dot(place(one), 4, kind, "model", setting(one))
        if chosen is not None and chosen in points:
            at = place(chosen)
            drawing.dot(at, 9, "ring", "model", f"chosen: {setting(chosen)}")
            side, anchor = (14, "start") if at[0] < (left + width - right) / 2 else (-14, "end")
            drawing.text((at[0] + side, at[1] + 22), "chosen", "name strong", anchor, "model")
        return drawing.render()

    return draw


def shortened(text: str, most: int) -> str:
    """Cuts text that would not fit."""
    return text if len(text) <= most else f"{text[: most - 1].rstrip()}…"


def setting(point: Mapping[str, Any]) -> str:
    """Describes a setting of the index, its recall and its time."""
    parts = [
        f"{point['leaves_to_search']:,} of {point['num_leaves']:,} leaves" if point.get("num_leaves") else "",
        f"{point['reordering_candidates']:,} reordered" if point.get("reordering_candidates") else "",
        str(point.get("quantization") or ""),
        f"recall {number(point.get('recall'), 4)}",
        f"{milliseconds(point['ms_per_query'])} a query" if point.get("ms_per_query") else "",
    ]
    return ", ".join(part for part in parts if part)


def draw_training(curves: Mapping[str, Any], names: Sequence[str], title: str) -> Callable[[float], Markup]:
    """Draws values by epoch: one line a name, the best epoch marked."""
    epochs = curves["epochs"]

    def draw(width: float) -> Markup:
        height, left, right, top, bottom = 230, 48, 16, 14, 40
        known = {
            name: [(one["epoch"], one[name]) for one in epochs if one.get(name) is not None] for name in names
        }
        # A training that continues another one does not begin with epoch 1.
        numbers = [one["epoch"] for one in epochs]
        x = Scale(min(numbers) - 0.25, max(numbers) + 0.25, left, width - right)
        y = Scale.around(
            [value for line in known.values() for _, value in line], height - bottom, top, margin=0.12
        )
        drawing = Drawing(width, height, title)
        _axes(drawing, x, y, left, width - right, top, height - bottom, "epoch", whole=True)
        best = curves.get("best_epoch")
        if best:
            drawing.line((x(best), top), (x(best), height - bottom), "mark")
            is_left = x(best) < (left + width - right) / 2
            at = (x(best) + (5 if is_left else -5), height - bottom - 6)
            drawing.text(at, f"best: {best}", "small", "start" if is_left else "end")
        for name, colour in zip(names, ("model", "factors", "history"), strict=False):
            line = known[name]
            drawing.path([(x(epoch), y(value)) for epoch, value in line], "curve strong", colour)
            for epoch, value in line:
                tip = f"{name}, epoch {epoch:g}: {value:.4g}"
                drawing.dot((x(epoch), y(value)), 3.5, "dot", colour, tip)
        return drawing.render()

    return draw


def draw_deciles(
    names: Sequence[str], values: Mapping[str, Sequence[float | None]], metric: str, axis: str
) -> Callable[[float], Markup]:
    """Draws a metric over the popularity of the labels: a value for each name, by recommender."""

    def draw(width: float) -> Markup:
        height, left, right, top, bottom = 270, 44, 16, 12, 44
        x = Scale(-0.3, len(names) - 0.7, left, width - right)
        highest = max((v for one in values.values() for v in one if v is not None), default=1.0)
        y = Scale(0, max(highest * 1.06, 1e-3), height - bottom, top)
        drawing = Drawing(width, height, f"{metric} by popularity of the item")
        _axes(drawing, None, y, left, width - right, top, height - bottom, "")
        for place, name in enumerate(names):
            drawing.text((x(place), height - bottom + 16), name, "tick", "middle")
        drawing.text(((left + width - right) / 2, height - 6), axis, "axis", "middle")
        for who, line in values.items():
            colour = recommender(who).colour
            known = [(place, value) for place, value in enumerate(line) if value is not None]
            points = [(x(place), y(value)) for place, value in known]
            drawing.path(points, "curve strong" if who == MODEL else "curve", colour)
            for at, (place, value) in zip(points, known, strict=True):
                tip = f"{recommender(who).label}, {names[place]}: {number(value)}"
                drawing.dot(at, 3.5, "dot", colour, tip)
        return drawing.render()

    return draw


def draw_lifts(lifts: Mapping[str, float]) -> Callable[[float], Markup]:
    """Draws popularity lift by recommender: popularity of recommended items against played ones."""

    def draw(width: float) -> Markup:
        is_wide = width > _ROOM_BESIDE
        left, right, step, top = (190, 50, 27, 8) if is_wide else (8, 46, 42, 6)
        height = top + step * len(lifts) + 28
        x = Scale.around([*lifts.values(), 1.0], left + 6, width - right, log=True, margin=0.08)
        drawing = Drawing(width, height, "Popularity lift of everyone's recommendations")
        for tick in x.ticks(4):
            drawing.line((x(tick), top), (x(tick), height - 24), "grid")
            drawing.text((x(tick), height - 8), f"{tick:g}×", "tick", "middle")
        drawing.line((x(1.0), top), (x(1.0), height - 24), "mark")
        for place, (who, lift) in enumerate(lifts.items()):
            colour = recommender(who).colour
            middle = top + step * place + (step / 2 if is_wide else step * 0.66)
            label = recommender(who).label
            if is_wide:
                drawing.text(
                    (left - 4, middle + 4), label, "label strong" if who == MODEL else "label", "end"
                )
            else:
                drawing.text((left, middle - 13), label, "label strong" if who == MODEL else "label")
            drawing.line((x(1.0), middle), (x(lift), middle), "stem", colour)
            drawing.dot((x(lift), middle), 5, "dot", colour, f"{label}: {lift:.3g} times")
            drawing.text((width, middle + 4), f"{lift:.2f}×", "count", "end")
        return drawing.render()

    return draw


def draw_map(items: Sequence[Mapping[str, Any]], colour_of: Sequence[str]) -> Markup:
    """Draws items in two dimensions, each with a colour; the map has no text and is scaled to its place."""
    size = 640.0
    drawing = Drawing(size, size, "Map of item embeddings", "map")
    # Items without a group of their own lie below.
    order = sorted(range(len(items)), key=lambda place: colour_of[place] != "other")
    for place in order:
        item = items[place]
        tags = f" ({', '.join(item['tags'])})" if item.get("tags") else ""
        tip = f"{item.get('title') or 'item ' + str(item['item_id'])}{tags}"
        at = (12 + (size - 24) * item["x"], 12 + (size - 24) * item["y"])
        drawing.dot(at, 3.4, "point", colour_of[place], tip)
    return drawing.render()


def _axes(
    drawing: Drawing,
    x: Scale | None,
    y: Scale,
    left: float,
    right: float,
    top: float,
    bottom: float,
    title: str,
    whole: bool = False,
) -> None:
    """Draws grid lines and ticks. `x` None leaves names to the chart; `whole` ticks are integers."""
    for tick in y.ticks(5):
        drawing.line((left, y(tick)), (right, y(tick)), "grid")
        drawing.text(
            (left - 6, y(tick) + 4), f"{tick:.4g}" if abs(tick) >= 1 else number(tick, 2), "tick", "end"
        )
    if x is None:
        return
    for tick in x.ticks(6):
        if not whole or tick == round(tick):
            drawing.line((x(tick), bottom), (x(tick), bottom + 4), "grid")
            drawing.text((x(tick), bottom + 17), f"{tick:g}", "tick", "middle")
    drawing.text(((left + right) / 2, drawing.height - 4), title, "axis", "middle")
