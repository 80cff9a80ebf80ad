"""The page's sections on example users, the map of items, the oracle and the run."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any

from two_tower.evaluation.recommenders import recommender
from two_tower.evaluation.report import charts
from two_tower.evaluation.report.formats import duration, interval, number, setting

_MAP_COLOURS = tuple(f"map-{place}" for place in range(8))
_POPULARITY_BANDS = ("most played", "often", "sometimes", "rarely")


def outcome(example: Mapping[str, Any]) -> str:
    """Says at which rank the model had the best-placed of the user's labels."""
    first = example["played_next"][:1] if example.get("labels", 1) == 1 else example["played_next"]
    ranks = [one["rank"] for one in first if one.get("rank")]
    return f"found at rank {min(ranks)}" if ranks else "not found"


def item_map(item_map: Mapping[str, Any] | None) -> dict[str, Any] | None:
    """Gives the map, coloured by the most frequent first tags, or without tags by plays in train."""
    if not item_map or not item_map.get("items"):
        return None
    items = item_map["items"]
    tags = Counter(item["tags"][0] for item in items if item.get("tags"))
    if len(tags) > 1:
        groups = [tag for tag, _ in tags.most_common(len(_MAP_COLOURS))]
        group_of = [item["tags"][0] if item.get("tags") else "" for item in items]
        coloured = dict(zip(groups, _MAP_COLOURS, strict=False))
    else:
        ranked = sorted(range(len(items)), key=lambda place: -(items[place].get("plays") or 0))
        group_of = [""] * len(items)
        for rank, place in enumerate(ranked):
            group_of[place] = _POPULARITY_BANDS[rank * len(_POPULARITY_BANDS) // len(items)]
        coloured = {band: f"band-{place}" for place, band in enumerate(_POPULARITY_BANDS)}
    colours = [coloured.get(group, "other") for group in group_of]
    legend = [{"label": group, "colour": colour} for group, colour in coloured.items()]
    if "other" in colours:
        legend.append({"label": "other", "colour": "other"})
    return {
        "chart": charts.draw_map(items, colours),
        "legend": legend,
        "count": len(items),
        "method": item_map.get("method") or "",
        "is_by_tag": len(tags) > 1,
    }


def oracle(evaluation: Mapping[str, Any]) -> dict[str, Any] | None:
    """Gives the comparison with the oracle, or None where there is none."""
    oracle = evaluation.get("oracle")
    if not oracle:
        return None
    names = ("best_baseline", "model", "oracle_observed", "oracle", "share_of_gap_observed", "share_of_gap")
    return {
        "queries": oracle["queries"],
        "users": oracle.get("users"),
        "rows": [
            (
                cutoff,
                recommender(values["baseline"]).label if values.get("baseline") else "",
                [
                    (number(values.get(name), 4), interval((values.get("intervals") or {}).get(name), 4))
                    for name in names
                ],
            )
            for cutoff, values in oracle.items()
            if cutoff.startswith("recall@")
        ],
    }


def run(run: Mapping[str, Any] | None) -> dict[str, Any] | None:
    """Gives components with their share of the longest, and settings by section."""
    if not run:
        return None
    components = run.get("components") or []
    longest = max((one["seconds"] for one in components if not one["cached"]), default=0.0) or 1.0
    sections: dict[str, list[dict[str, Any]]] = {}
    changed = set(run.get("changed") or ())
    for name, value in (run.get("settings") or {}).items():
        section, _, last = name.rpartition(".")
        sections.setdefault(section or "run", []).append(
            {"name": last, "value": setting(value), "is_changed": name in changed}
        )
    return {
        "output": run.get("output") or "",
        "components": [
            {
                "name": one["name"],
                "time": "cached" if one["cached"] else duration(one["seconds"]),
                "share": "0%" if one["cached"] else f"{100 * one['seconds'] / longest:.1f}%",
                "memory": f"{one['peak_memory_bytes'] / 2**30:.1f} GiB"
                if one.get("peak_memory_bytes")
                else "",
                "is_failed": one["state"] == "FAILED",
            }
            for one in components
        ],
        "total": duration(sum(one["seconds"] for one in components if not one["cached"])),
        "sections": sections,
        "changed": len(changed),
    }
