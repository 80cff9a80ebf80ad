"""The page's sections on the index, the served artifact and the training."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from two_tower.evaluation.report import charts
from two_tower.evaluation.report.formats import number


def index(evaluation: Mapping[str, Any], k: int) -> dict[str, Any]:
    """Gives the index's recall, its settings that were tried, parity, latency and size."""
    index = (evaluation.get("model") or {}).get("index") or {}
    tuning = index.get("tuning")
    ann = evaluation["ann"]
    chart, chosen = None, ""
    if tuning and tuning.get("points"):
        chart = charts.both(charts.draw_tuning(tuning), charts.WIDE, charts.NARROW)
        if tuning.get("chosen") is not None:
            chosen = charts.setting(tuning["points"][tuning["chosen"]])
    latency = evaluation.get("latency") or {}
    size = evaluation.get("size") or {}
    return {
        "is_exact": ann.get("kind") == "exact",
        "reason": (tuning or {}).get("reason") or index.get("reason") or "",
        "recalls": [
            (name.partition("@")[2], number(value, 4))
            for name, value in ann.items()
            if name.startswith("recall@")
        ],
        "chart": chart,
        "chosen": chosen,
        "target": tuning.get("target") if tuning else None,
        "is_met": bool(tuning.get("met")) if tuning else None,
        "target_k": (tuning or {}).get("k") or k,
        "parity": _parity(evaluation),
        "latency": [
            {
                "name": "a single query" if name == "single" else f"a batch of {one.get('size', '?')}",
                "values": [one.get(f"{part}_ms") for part in ("p50", "p95", "p99")],
                "requests": one.get("requests"),
            }
            for name, one in latency.items()
            if one
        ],
        "size": f"{size['bytes'] / 2**20:,.1f} MiB in {size['files']} files" if size.get("bytes") else "",
    }


def _parity(evaluation: Mapping[str, Any]) -> dict[str, Any] | None:
    """Gives the parity of index and towers as the gate judged it, and the differences."""
    measured = evaluation["ann"].get("parity")
    if not measured:
        return None
    judged = [one for one in evaluation["thresholds"] if one["name"] == "index_parity"]
    errors = {name: measured.get(f"max_{name}_error") for name in ("norm", "score")}
    return {
        "ok": all(one["ok"] for one in judged) if judged else bool(measured.get("ok")),
        "differences": judged[0].get("note") if judged else "",
        "errors": {name: f"{error:.2g}" for name, error in errors.items() if error is not None},
    }


def training(curves: Mapping[str, Any] | None) -> dict[str, Any] | None:
    """Gives charts of the learning curves, or None where nothing was trained."""
    if not curves or not curves.get("epochs"):
        return None
    monitor = curves.get("monitor") or ""
    measured = {name for one in curves["epochs"] for name in one}
    panels = []
    if monitor in measured:
        cold = monitor.replace("val_", "val_cold_", 1)
        names = [monitor, *([cold] if cold in measured else [])]
        title = "Recall on the validation split"
        panels.append((title, names, [monitor.removeprefix("val_"), "the same of cold items"][: len(names)]))
    if "loss" in measured:
        panels.append(("Loss on the training split", ["loss"], []))
    return {
        "panels": [
            {
                "title": title,
                "chart": charts.both(charts.draw_training(curves, names, title), charts.HALF, charts.NARROW),
                "legend": [
                    {"label": label, "colour": colour}
                    for label, colour in zip(labels, ("model", "factors"), strict=False)
                ],
            }
            for title, names, labels in panels
        ],
        "epochs": len(curves["epochs"]),
        "best": curves.get("best_epoch"),
        "monitor": monitor.removeprefix("val_"),
    }
