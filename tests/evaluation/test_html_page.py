from __future__ import annotations

import copy
import dataclasses
import itertools
import json
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests import synthetic_evaluation
from two_tower.evaluation.queries import LabelSets
from two_tower.evaluation.query_results import QueryResults
from two_tower.evaluation.report import charts, report_files
from two_tower.evaluation.report.html_page import render
from two_tower.evaluation.report.materials import Materials
from two_tower.evaluation.report.svg import Scale, apart

# Elements without an end.
VOID = {"meta", "br", "link", "img", "hr", "input"}
SECTIONS = [
    "thresholds",
    "recall",
    "metrics",
    "slices",
    "index",
    "training",
    "popularity",
    "users",
    "map",
    "run",
]


class Page(HTMLParser):
    """A parsed page, which is well formed if every element is closed where it should be."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.sections: list[str] = []
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(text)
        self.close()
        assert not self.open, self.open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag == "section":
            self.sections.append(dict(attrs)["id"] or "")
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] != "style":
            self.text += data


@pytest.fixture(scope="module")
def full() -> Materials:
    return synthetic_evaluation.everything()


@pytest.fixture(scope="module")
def page(full: Materials) -> str:
    return render(full)


def without_reasons_to_show(full: Materials, **changes: Any) -> dict[str, Any]:
    return {**full.evaluation, **changes}


def test_a_full_evaluation_shows_every_section_and_the_links_lead_to_them(page: str) -> None:
    parsed = Page(page)
    assert parsed.sections == SECTIONS
    links = [attributes["href"] for tag, attributes in parsed.elements if tag == "a"]
    assert links == [f"#{section}" for section in SECTIONS]


def test_the_page_loads_nothing(page: str) -> None:
    assert not re.search(r"https?:|//[a-z]+\.|@import|url\(", page)
    loading = {"src", "srcset", "href", "data", "action", "poster"}
    for tag, attributes in Page(page).elements:
        assert tag not in {"script", "link", "iframe", "object", "img"}
        assert all((attributes[name] or "").startswith("#") for name in loading & attributes.keys())
    assert "default-src 'none'" in page


def test_it_has_two_colour_schemes_with_the_same_colours_and_reads_on_a_phone(page: str) -> None:
    style = page.split("<style>")[1].split("</style>")[0]
    light, dark = (
        set(re.findall(r"(--[\w-]+):", part)) for part in style.split("prefers-color-scheme: dark")[:2]
    )
    used = set(re.findall(r"var\((--[\w-]+)\)", page)) - {"--c"}
    assert used <= light
    assert light - dark <= {"--serif", "--sans", "--mono"}
    assert "width=device-width" in page and "max-width: 640px" in style
    assert page.count('class="wide"') <= page.count('class="narrow"')


def test_charts_have_names_for_those_who_cannot_see_them(page: str) -> None:
    drawings = [attributes for tag, attributes in Page(page).elements if tag == "svg"]
    assert drawings and all(one["role"] == "img" and one["aria-label"] for one in drawings)


def test_what_others_wrote_is_shown_and_never_run(full: Materials) -> None:
    evil = "<script>alert('x')</script>\"><b>"
    examples = json.loads(json.dumps(full.examples))
    examples[0]["recommended"][0]["title"] = examples[0]["played_next"][0]["tags"][0] = evil
    assert full.item_map is not None
    items = [{**full.item_map["items"][0], "title": evil, "tags": [evil]}, *full.item_map["items"][1:]]
    evil_slices = {evil: next(iter(full.evaluation["slices"].values()))}
    shown = render(
        dataclasses.replace(
            full,
            evaluation=without_reasons_to_show(full, dataset=evil, slices=evil_slices),
            examples=examples,
            item_map={**full.item_map, "items": items},
        )
    )
    assert "<script" not in shown and "<b>" not in shown
    assert Page(shown).text.count(evil) >= 4


def test_the_verdict_comes_first_with_its_reasons(full: Materials) -> None:
    lost = {"name": "min_change_against_blessed", "value": -0.031, "limit": -0.005, "ok": False,
            "low": -0.045, "high": -0.017, "note": "more than noise", "direction": "min"}  # fmt: skip
    slow = {
        "name": "max_latency_p95",
        "value": 48.0,
        "limit": 25.0,
        "ok": False,
        "note": "",
        "direction": "max",
    }
    label = {"item_id": 31, "title": "Lost Song", "artist": None, "tags": None}
    found = {"query": 1, "user": 4, "label_item": 31, "rank": None,
             "found_by": "blessed_model", "found_at": 3, "in_slice": True, "label": label}  # fmt: skip
    refused = without_reasons_to_show(
        full,
        verdict="refused",
        thresholds=[*full.evaluation["thresholds"], lost, slow],
        refusal={"slice": "cold", "examples": [found]},
    )
    materials = dataclasses.replace(full, evaluation=refused)
    text = " ".join(Page(render(materials)).text.split())
    header = text.split("Thresholds")[0]
    assert "Refused" in header
    assert "is -0.0310 (95% interval -0.0450 to -0.0170), below the limit of -0.0050" in header
    assert "is 48, above the limit of 25" in header
    # The numbers are the example users'.
    assert "Lost Song" in text and "user A" in text and "items that train has not seen" in text
    hidden = Page(render(materials, examples=False)).text
    assert "Lost Song" not in hidden and "user A" not in hidden and "items that train has not seen" in hidden


def test_without_examples_no_user_appears(full: Materials) -> None:
    parsed = Page(render(full, examples=False))
    assert "users" not in parsed.sections
    assert "User 1" not in parsed.text and "Song 26 — Someone" not in parsed.text


def test_a_popularity_lift_of_zero_is_drawn_as_once_as_popular(full: Materials) -> None:
    evaluation = json.loads(json.dumps(full.evaluation))
    name = f"popularity_lift@{evaluation['cutoff']}"
    evaluation["metrics"]["test"][name] = -0.25
    evaluation["baselines"]["most_popular"][name] = 2.4
    evaluation["baselines"]["personal_history"][name] = 0.0
    page = render(dataclasses.replace(full, evaluation=evaluation))
    for who, times in (("two-tower", "0.75"), ("most popular", "3.4"), ("personal history", "1")):
        assert f"{who}: {times} times" in page


def test_the_story_goes_from_words_over_factors_to_the_towers(full: Materials, page: str) -> None:
    families = re.findall(r'<p class="family">([\w -]+)', page)
    assert [family.strip() for family in families] == ["token matching", "factorisation", "two-tower"]
    # The strongest baseline is among the steps, and the last gain is over it.
    strong = copy.deepcopy(full.evaluation)
    recall = strong["metrics"]["test"]["recall@100"]
    strong["baselines"]["co_occurrence"] = {"recall@100": 0.8 * recall}
    drawn = render(dataclasses.replace(full, evaluation=strong))
    families = re.findall(r'<p class="family">([\w -]+)', drawn)
    assert [family.strip() for family in families][-2:] == ["co-occurrence", "two-tower"]
    assert "<span>1.2×</span>" in drawn.partition('<p class="family">two-tower')[2][:60]
    fewer = without_reasons_to_show(full, baselines={})
    assert 'class="family"' not in render(dataclasses.replace(full, evaluation=fewer))


@pytest.mark.parametrize(
    ("absent", "sections"),
    [
        ({"results": None, "examples": (), "item_map": None, "curves": None, "run": None},
         {"thresholds", "recall", "metrics", "slices", "index", "popularity"}),
        ({"item_map": {"method": "PCA", "items": []}, "curves": {"epochs": []}},
         set(SECTIONS) - {"map", "training"}),
    ],
)  # fmt: skip
def test_what_is_not_there_is_left_out(full: Materials, absent: dict[str, Any], sections: set[str]) -> None:
    assert set(Page(render(dataclasses.replace(full, **absent))).sections) == sections


def test_an_evaluation_of_an_earlier_version_is_shown_as_far_as_it_goes(full: Materials) -> None:
    known = (
        "verdict",
        "unchanged",
        "dataset",
        "protocol",
        "cutoff",
        "split",
        "queries",
        "metrics",
        "catalog",
    )
    old = {name: full.evaluation[name] for name in known}
    old |= {
        "metrics": {"test": {"recall@10": 0.1, "recall@100": 0.4, "mrr": 0.2}},
        "thresholds": [{"name": "min_recall", "value": None, "limit": 0.01, "ok": False, "note": ""}],
        "baselines": {},
        "ann": {"recall@100": None, "kind": "exact"},
        "blessed_model": None,
        "verdict": "refused",
        "oracle": {"queries": 5, "recall@10": {"model": 0.2, "best_baseline": 0.1, "oracle": None}},
    }
    parsed = Page(render(Materials(old)))
    assert parsed.sections == ["thresholds", "metrics", "index", "oracle"]
    assert "could not be measured" in parsed.text and "Search is exact." in parsed.text


def test_without_a_blessed_model_slices_are_held_against_the_best_baseline(full: Materials) -> None:
    slices = {
        name: {
            **one,
            "metrics": {who: found for who, found in one["metrics"].items() if who != "blessed_model"},
        }
        for name, one in full.evaluation["slices"].items()
    }
    alone = without_reasons_to_show(full, blessed_model=None, slices=slices)
    text = " ".join(Page(render(dataclasses.replace(full, evaluation=alone))).text.split())
    assert "hollow matrix factorisation, iALS for want of a blessed model" in text


def test_the_map_without_tags_is_coloured_by_plays(full: Materials) -> None:
    assert full.item_map is not None
    plain = [{**item, "tags": None} for item in full.item_map["items"]]
    shown = render(dataclasses.replace(full, item_map={"method": "PCA", "items": plain}))
    assert "most played" in Page(shown).text and "--band-0" in shown.split("</style>")[1]


def test_recall_curves_are_the_metrics_at_every_k_and_within_their_bounds() -> None:
    results = QueryResults(
        np.array([0, 0, 1, 2], np.int32),
        LabelSets(np.array([1, 2, 3, 4, 5]), np.array([0, 2, 3, 4, 5])),
        {"model": np.array([1, 4, 2, np.inf, 10], np.float32)},
        {},
    )
    found = charts.recall_curves(results)
    curve = dict(zip(found["k"], found["curves"]["model"]["mean"], strict=True))
    # Of the first query one of two labels is at 1, and the other at 4.
    assert curve[1] == pytest.approx(0.125) and curve[2] == pytest.approx(0.375)
    assert curve[4] == pytest.approx(0.5) and curve[10] == pytest.approx(0.75)
    assert found["k"][-1] == 10
    one = found["curves"]["model"]
    assert all(
        low <= mean <= high for low, mean, high in zip(one["low"], one["mean"], one["high"], strict=True)
    )


def test_files_are_written_beside_the_evaluation_and_examples_can_be_removed(
    full: Materials, tmp_path: Path
) -> None:
    refusal = {"slice": "cold", "examples": [{"user": 1, "label_item": 7, "found_by": "ials", "found_at": 2}]}
    evaluation = without_reasons_to_show(full, verdict="refused", refusal=refusal)
    directory = synthetic_evaluation.write(tmp_path / "evaluation", evaluation, full.results)
    training = tmp_path / "training"
    training.mkdir()
    (training / "training_curves.json").write_text(json.dumps(full.curves))
    report_files.write_reports(str(directory), full.examples, full.item_map, str(training))
    names = {"examples.json", "item_map.json", "training_curves.json", "report.md", "report.html"}
    assert names <= {path.name for path in directory.iterdir()}
    read = Materials.read(str(directory))
    assert Page(render(read)).sections == [name for name in SECTIONS if name != "run"]
    assert "item 7" in (directory / "report.md").read_text()
    report_files.remove_examples(str(directory))
    assert not (directory / "examples.json").exists()
    assert "item 7" not in (directory / "report.md").read_text()
    assert json.loads((directory / "evaluation.json").read_text())["refusal"] == {
        "slice": "cold",
        "examples": [],
    }


@pytest.mark.parametrize("content", [b"", b"cut off", b"PK\x03\x04 cut off"])
def test_a_damaged_file_beside_the_evaluation_is_left_out(
    full: Materials, tmp_path: Path, content: bytes
) -> None:
    directory = synthetic_evaluation.write(tmp_path, dict(full.evaluation), None)
    (directory / "queries.npz").write_bytes(content)
    (directory / "item_map.json").write_text("{")
    read = Materials.read(str(directory))
    assert read.results is None and read.item_map is None


@pytest.mark.parametrize(
    "scale", [Scale(0, 0.53, 0, 100), Scale(1, 100, 0, 100, log=True), Scale(0.7, 0.9, 9, 3)]
)
def test_ticks_lie_within_their_scale_and_are_round(scale: Scale) -> None:
    ticks = scale.ticks(5)
    assert 2 <= len(ticks) <= 12
    for tick in ticks:
        assert scale.low * 0.99 <= tick <= scale.high * 1.01 + 1e-9
        assert len(f"{tick:.6g}".replace("0", "").replace(".", "")) <= 2


def test_a_scale_of_one_value_or_none_can_be_drawn() -> None:
    for values in ([], [0.0], [5.0], [float("nan")]):
        scale = Scale.around(values, 0, 10)
        assert 0 <= scale(0.0) <= 10 and scale.ticks()


def test_labels_are_moved_apart_and_stay_in_order() -> None:
    moved = apart([10, 11, 12, 50], 8, 0, 60)
    assert moved == sorted(moved)
    assert all(after - before >= 8 for before, after in itertools.pairwise(moved))


def test_who_has_no_value_at_a_place_keeps_the_others_at_theirs() -> None:
    axis = "items by their plays in train, least first"
    drawn = charts.draw_deciles(["1", "2", "3"], {"model": [0.1, None, 0.3]}, "recall@10", axis)(500)
    assert re.findall(r"<title>([^<]+)", drawn) == ["two-tower, 1: .100", "two-tower, 3: .300"]
    assert axis in drawn


def test_epochs_stand_where_their_numbers_are() -> None:
    curves = {"best_epoch": 6, "epochs": [{"epoch": epoch, "loss": 1.0 / epoch} for epoch in (5, 6, 7)]}
    drawn = charts.draw_training(curves, ["loss"], "Loss")(500)
    places = [float(place) for place in re.findall(r'<circle cx="([\d.]+)"', drawn)]
    assert places == sorted(set(places)) and places[1] - places[0] == pytest.approx(places[2] - places[1])


def test_names_that_would_leave_the_chart_are_cut() -> None:
    row = {"name": "tags=" + "x" * 90, "queries": 5, "value": 0.1, "bounds": None, "other": None,
           "other_bounds": None}  # fmt: skip
    for width, most in ((charts.HALF, 22), (charts.NARROW, 44)):
        drawn = charts.draw_slices([row], (0, 1), "recall@10", "ials")(width)
        (name,) = re.findall(r"tags=x+…", drawn)
        assert len(name) <= most


@pytest.mark.parametrize(
    ("run", "word", "said"),
    [
        ({"pushed_model": "runs/a/pushed/7"}, "Blessed", "was pushed to runs/a/pushed/7"),
        ({"pushed_model": None}, "Blessed", "may be pushed"),
        ({"not_pushed_because": "not pushed: 4 is newer."}, "Blessed, not pushed", "not pushed: 4 is"),
        (
            {
                "components": [
                    {"name": "Pusher", "seconds": 3.0, "cached": False, "state": "FAILED",
                     "error": "The copy answers otherwise."}
                ]
            },
            "Blessed, not pushed",
            "Pusher failed: The copy answers otherwise.",
        ),
    ],
)  # fmt: skip
def test_the_verdict_says_what_became_of_the_model(
    full: Materials, run: dict[str, Any], word: str, said: str
) -> None:
    parsed = Page(render(dataclasses.replace(full, run={**(full.run or {}), **run})))
    header = " ".join(parsed.text.split("Thresholds")[0].split())
    assert f"✓{word} " in header.replace("✕", "✓") and said in header and ".." not in header


def test_an_index_of_unknown_towers_is_not_said_to_be_of_others(full: Materials) -> None:
    parity = {"ids": True, "order": False, "max_norm_error": 0.5, "max_score_error": None,
              "towers": "sha256:1", "expected_towers": None, "ok": False}  # fmt: skip
    judged = {"name": "index_parity", "value": 0.0, "limit": 1.0, "ok": False,
              "note": "its ids are in another order than its vectors"}  # fmt: skip
    evaluation = without_reasons_to_show(
        full, verdict="refused", thresholds=[judged], ann={**full.evaluation["ann"], "parity": parity}
    )
    text = " ".join(Page(render(dataclasses.replace(full, evaluation=evaluation))).text.split())
    assert "no its ids are in another order than its vectors." in text and "other towers" not in text
    assert "The index does not hold what the towers give: its ids" in text


def test_what_a_training_does_not_say_is_left_out(full: Materials) -> None:
    shown = Page(render(dataclasses.replace(full, curves={"epochs": [{"epoch": 1, "loss": 2.0}]}))).text
    assert "1 epoch." in shown and "None" not in shown


def test_settings_of_baselines_stand_apart_from_the_table(full: Materials) -> None:
    baselines = json.loads(json.dumps(full.evaluation["baselines"]))
    baselines["ials"] |= {"factors": 64, "alpha": None}
    evaluation = without_reasons_to_show(full, baselines=baselines)
    text = Page(render(dataclasses.replace(full, evaluation=evaluation))).text
    assert "factors 64" in text.split("How the baselines were set")[1] and "alpha" not in text
