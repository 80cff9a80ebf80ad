"""State of a push directory: what its records, and the pointer beside it, say of the version in service."""

from __future__ import annotations

import datetime
import json
import math
from pathlib import Path
from typing import Any

import pytest

from tests.published_models import RECORD, model
from two_tower.base import pointers
from two_tower.base.errors import UserError
from two_tower.base.pointers import Pointer
from two_tower.serving import push_record, versions
from two_tower.serving.push_record import PushRecord
from two_tower.serving.service import Service, in_service, unsettled, versions_of
from two_tower.serving.versions import NothingBefore, publish, version_before


def published(pushed: Path, *models: str, weights: str = "abc") -> list[str]:
    """Publishes models of these URIs and weights, in this order."""
    return [
        publish(
            model(pushed.parent / "artifacts" / f"{number}", own),
            str(pushed),
            PushRecord(model=uri),
            check=lambda path, record: None,
        )
        for number, (uri, own) in enumerate(zip(models, weights, strict=False))
    ]


def written(pushed: Path, version: int, content: str) -> str:
    path = Path(push_record.path_of(str(pushed), version))
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content)
    return str(pushed)


def test_the_version_in_service_is_told_with_the_one_before(tmp_path: Path) -> None:
    pushed = tmp_path / "pushed"
    assert in_service(str(pushed)) is None
    paths = published(pushed, "m/1", "m/2")
    record = push_record.read(str(pushed), 2)
    assert in_service(str(pushed)) == Service(paths[1], 2, record, before=1, fault="")
    assert record.model == "m/2"


def test_versions_are_listed_by_the_model_that_they_came_from(tmp_path: Path) -> None:
    pushed = tmp_path / "pushed"
    assert versions_of(str(pushed)) == {}
    published(pushed, "m/1", "", "m/2", "m/1", "m/3", weights="abcde")
    written(pushed, 5, "{")  # a damaged record names no model
    assert versions_of(str(pushed)) == {"m/1": [1, 4], "m/2": [3]}


@pytest.mark.parametrize(
    ("models", "pointed", "is_unsettled"),
    [
        (["m/1"], "m/2", True),
        (["m/1"], "m/1", False),
        (["m/1"], None, False),
        # Versions of earlier releases do not name their models.
        ([""], "m/2", False),
        ([], "m/2", False),
    ],
)
def test_a_version_is_unsettled_while_the_pointer_names_another_model(
    models: list[str], pointed: str | None, is_unsettled: bool, tmp_path: Path
) -> None:
    published(tmp_path / "pushed", *models)
    if pointed is not None:
        pointers.point(str(tmp_path), pointers.BLESSED, Pointer(pointed, {}))
    found = unsettled(str(tmp_path / "pushed"))
    assert found == (in_service(str(tmp_path / "pushed")) if is_unsettled else None)


def test_the_same_model_published_twice_is_no_earlier_model(tmp_path: Path) -> None:
    published(tmp_path / "pushed", "m/1", "m/2", weights="aa")
    with pytest.raises(NothingBefore, match="version 2 is in service, and no earlier model exists"):
        version_before(str(tmp_path / "pushed"))


def test_an_only_version_has_none_before_it_whatever_its_record_holds(tmp_path: Path) -> None:
    pushed = tmp_path / "pushed"
    published(pushed, "m/1")
    with pytest.raises(NothingBefore, match="version 1 is in service, and no earlier model exists"):
        version_before(written(pushed, 1, "{"))


def test_the_first_number_of_an_empty_directory_is_one(tmp_path: Path) -> None:
    """Checks the directory of an object store, which holds no lock."""
    assert versions._next_number(str(tmp_path)) == 1


def test_a_publication_records_its_time_in_utc(tmp_path: Path) -> None:
    begun = datetime.datetime.now(datetime.timezone.utc).replace(microsecond=0)
    published(tmp_path / "pushed", "m/1")
    time = datetime.datetime.fromisoformat(push_record.read(str(tmp_path / "pushed"), 1).published)
    assert time.utcoffset() == datetime.timedelta(0) and time.microsecond == 0
    assert begun <= time <= datetime.datetime.now(datetime.timezone.utc)


@pytest.mark.parametrize(
    ("content", "canary"),
    [
        # Earlier releases wrote the queries alone, or null for a model without any.
        (RECORD, RECORD),
        (None, None),
        ({"canary": RECORD}, RECORD),
        ({"canary": None}, None),
    ],
)
def test_records_of_earlier_releases_hold_the_queries_alone(
    content: Any, canary: Any, tmp_path: Path
) -> None:
    assert push_record.read(written(tmp_path, 1, json.dumps(content)), 1) == PushRecord(canary=canary)
    assert push_record.read(str(tmp_path), 2) == PushRecord()


def test_an_absent_number_of_a_recorded_query_stays_absent(tmp_path: Path) -> None:
    push_record.write(str(tmp_path), 3, PushRecord({**RECORD, "inputs": {"age": [math.nan, 31.0]}}))
    canary = push_record.read(str(tmp_path), 3).canary
    assert canary is not None
    absent, age = canary["inputs"]["age"]
    assert math.isnan(absent) and age == 31.0


@pytest.mark.parametrize(
    ("content", "fault"),
    [
        ({"model": 7}, "model is 7"),
        ({"copy_of": True}, "copy_of is True"),
        ({"canary": "text"}, "canary is 'text'"),
    ],
)
def test_a_record_s_damage_names_key_and_value(content: dict[str, Any], fault: str, tmp_path: Path) -> None:
    with pytest.raises(UserError) as raised:
        push_record.read(written(tmp_path, 1, json.dumps(content)), 1)
    assert str(raised.value).startswith(f"{push_record.path_of(str(tmp_path), 1)} is damaged ({fault}). ")
