from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from benchmarks import ablation
from two_tower.base.errors import UserError
from two_tower.evaluation.queries import LabelSets
from two_tower.evaluation.slices import Slice
from two_tower.pipeline.settings import pipeline_config

pytestmark = pytest.mark.slow


def write(output: Path, recalls: dict[str, list[float]]) -> None:
    """Writes finished trainings: part → recall of each seed."""
    with (output / "trainings.jsonl").open("w") as file:
        for part, values in recalls.items():
            for seed, value in enumerate(values):
                recall = dict.fromkeys(ablation.COLUMNS, value)
                line = {"part": part, "seed": seed, "recall": recall, "seconds": 60.0}
                file.write(json.dumps(line) + "\n")
    sizes = {column: {"labels": 1_000} for column in ablation.COLUMNS}
    references = {"most popular": dict.fromkeys(ablation.COLUMNS, 0.1)}
    (output / "prepared.json").write_text(json.dumps({"sizes": sizes, "references": references}))


def test_every_part_changes_a_setting_and_seeds_change_the_seed_alone() -> None:
    full = ablation.variant(ablation.SETTINGS, ablation.FULL, 0)
    found = [ablation.variant(ablation.SETTINGS, part, 0) for part in ablation.PARTS]
    assert all(without != full for without in found)
    assert len({json.dumps(one.to_dict()) for one in found}) == len(ablation.PARTS)
    other = pipeline_config.settings(ablation.variant(ablation.SETTINGS, ablation.FULL, 2))
    changed = {name for name, value in pipeline_config.settings(full).items() if other[name] != value}
    assert changed == {"seed"}


def test_differences_are_paired_by_seed(tmp_path: Path) -> None:
    """Uses seeds that differ far more than the part does, so that only paired differences reveal the part."""
    recalls = {ablation.FULL: [0.40, 0.50, 0.60], "seed": [0.30, 0.41, 0.49], "user_id": [0.3, 0.7, 0.6]}
    write(tmp_path, recalls)
    summary = ablation.summarize(tmp_path, ["seed", "user_id"], 3)
    mean, half = summary["seed"]["overall"]
    assert mean == pytest.approx(-0.1)
    assert half == pytest.approx(4.303 * 0.01 / 3**0.5)
    assert summary[ablation.FULL]["cold"] == pytest.approx((0.5, 4.303 * 0.1 / 3**0.5))
    rows = ablation.render(tmp_path, ["seed", "user_id"], 3).splitlines()
    assert rows[4].startswith("| **all parts** |  | 0.5000 ± 0.2484 |")
    assert rows[5].startswith("| without seed track | overall | **−0.1000 ± 0.0248** |")
    assert rows[6].startswith("| without user id | overall | +0.0333 ± 0.3795 |")
    assert json.loads((tmp_path / "ablation.json").read_text())["summary"]["seed"]["tail"] == [mean, half]


def test_logq_is_taken_out_where_nothing_scores_on_its_own(tmp_path: Path) -> None:
    """Compares models without the repeat head, whose unsampled items would outweigh uncorrected sums."""
    trainer = ablation.variant(ablation.SETTINGS, "logq", 0).trainer
    assert trainer.frequency.correction == "none" and "repeat_head" not in trainer.parts
    assert ablation.required_variants(["seed", "logq"]) == [ablation.FULL, "repeats", "seed", "logq"]
    write(tmp_path, {ablation.FULL: [0.6], "repeats": [0.5], "logq": [0.3]})
    text = ablation.render(tmp_path, ["logq"], 1)
    assert "| without logQ correction (both without repeat head) | overall, head | −0.2000 |" in text


def test_one_seed_has_no_interval(tmp_path: Path) -> None:
    write(tmp_path, {ablation.FULL: [0.4], "seed": [0.3]})
    assert "| without seed track | overall | −0.1000 |" in ablation.render(tmp_path, ["seed"], 1)


def test_a_training_whose_line_was_cut_short_is_not_done(tmp_path: Path) -> None:
    assert ablation.trainings(tmp_path) == {}
    write(tmp_path, {ablation.FULL: [0.4, 0.5]})
    path = tmp_path / "trainings.jsonl"
    path.write_text(path.read_text()[:-3])
    assert list(ablation.trainings(tmp_path)) == [(ablation.FULL, 0)]


def test_what_is_asked_is_read_back(tmp_path: Path) -> None:
    labels = LabelSets.of_one([3, 5, 3])
    asked = ablation.LabelledQueries(
        np.array([4, 7, 9]), labels, [Slice("odd", np.array([True, False, True]))]
    )
    asked.save(tmp_path / "asked.npz")
    again = ablation.LabelledQueries.load(tmp_path / "asked.npz")
    assert again.rows.tolist() == [4, 7, 9]
    recommended = np.array([[1, 3], [5, 2], [1, 2]])
    assert again.recalls(recommended) == asked.recalls(recommended) == {"odd": 0.5}


def test_the_table_stands_between_the_marks(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(f"before\n{ablation._BEGIN}\nold\n{ablation._END}\nafter\n")
    for text in ("first", "second"):
        ablation.write_between_marks(page, text)
    assert page.read_text() == f"before\n{ablation._BEGIN}\nsecond\n{ablation._END}\nafter\n"
    page.write_text("nothing")
    with pytest.raises(UserError, match="add them around the table"):
        ablation.write_between_marks(page, "text")
    marks = Path(__file__).parents[2] / "docs" / "ablation.md"
    assert ablation._BEGIN in marks.read_text() and ablation._END in marks.read_text()
