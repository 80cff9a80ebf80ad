"""Times in the forms that exports have: read as what they are, or refused with a remedy that works."""

from __future__ import annotations

import datetime
import decimal
import pathlib
import re
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from tests.ingestion.test_tabular import csv, events_of, ingest, items_of, refused, write
from two_tower.ingestion import notices, time_formats

MAP = """
dataset: d
label_event: listen
repeats_recommendable: true
events: {files: e.csv, user_id: user, item_id: item, timestamp: time}
"""
PARQUET = MAP.replace("e.csv", "e.parquet")
DAYS = [datetime.datetime(2020, 9, 14) + datetime.timedelta(days=3 * day, hours=day) for day in range(12)]
SECONDS = [int(day.replace(tzinfo=datetime.timezone.utc).timestamp()) for day in DAYS]
DATES = [second // 86_400 * 86_400 for second in SECONDS]


def source(folder: pathlib.Path, times: Any, name: str = "e.csv") -> None:
    columns = {"user": [1] * len(times), "item": list(range(len(times))), "time": times}
    write(folder, name, csv(columns) if name.endswith("csv") else columns)


def read(folder: pathlib.Path) -> list[int]:
    return [row["timestamp"] for row in events_of(folder)]


def texts(form: str) -> list[str]:
    return [day.strftime(form) for day in DAYS]


FORMS = [("%Y%m%d", DATES), ("%Y%m%d%H%M%S", SECONDS), ("%Y%m%d%H%M", SECONDS), ("%Y%m%d%H%M%S123", SECONDS)]
KINDS = ["csv", "int64", "double", "string", "decimal"]


@pytest.mark.parametrize(
    ("form", "seconds", "kind"),
    # A double does not hold the digits of milliseconds.
    [(*form, kind) for form in FORMS for kind in KINDS if (form[0], kind) != (FORMS[-1][0], "double")],
)
def test_compact_dates_are_never_seconds(
    form: str, seconds: list[int], kind: str, tmp_path: pathlib.Path
) -> None:
    times = texts(form)
    with notices.collected() as told:
        if kind == "csv":
            source(tmp_path, times)
            ingest(tmp_path, MAP)
        else:
            arrays = {
                "int64": pa.array(map(int, times), pa.int64()),
                "double": pa.array(map(float, times), pa.float64()),
                "string": pa.array(times),
                "decimal": pa.array(map(decimal.Decimal, times), pa.decimal128(38, 0)),
            }
            source(tmp_path, arrays[kind], "e.parquet")
            ingest(tmp_path, PARQUET)
    assert read(tmp_path) == seconds
    assert any("'time' of the events is read as dates of the form" in text for text in told)


@pytest.mark.parametrize(
    ("unit", "factor", "scale"), [("s", 1, 9), ("s", 1, 3), ("ms", 1_000, 2), ("ns", 10**9, 1)]
)
def test_decimals_lose_no_second(unit: str, factor: int, scale: int, tmp_path: pathlib.Path) -> None:
    times = [decimal.Decimal(second * factor) for second in SECONDS]
    source(tmp_path, pa.array(times, pa.decimal128(38, scale)), "e.parquet")
    ingest(tmp_path, PARQUET.replace("time}", f"time, timestamp_unit: {unit}}}"))
    assert read(tmp_path) == SECONDS


@pytest.mark.parametrize(("unit", "factor"), [("ms", 10**3), ("us", 10**6), ("ns", 10**9)])
def test_ticks_are_refused_and_read_in_the_unit_that_the_error_names(
    unit: str, factor: int, tmp_path: pathlib.Path
) -> None:
    source(tmp_path, [second * factor + factor // 2 for second in SECONDS])
    message = refused(tmp_path, MAP)
    remedy = re.search("set '(timestamp_unit: [a-z]+)'", message)
    assert remedy is not None and remedy[1].endswith(unit) and "12 of 12 rows" in message
    ingest(tmp_path, MAP.replace("time}", f"time, {remedy[1]}}}"))
    assert read(tmp_path) == SECONDS


def test_a_unit_makes_compact_dates_numbers_and_files_have_one_form(tmp_path: pathlib.Path) -> None:
    source(tmp_path, ["20200914", "20200917", "20201231"])
    ingest(tmp_path, MAP.replace("time}", "time, timestamp_unit: s}"))
    assert read(tmp_path) == [20200914, 20200917, 20201231]
    mapping = MAP.replace("e.csv", "'*.csv'")
    source(tmp_path, ["1600000000"], "f.csv")
    with pytest.raises(Exception, match="dates of the form %Y%m%d"):
        ingest(tmp_path, mapping)


def test_a_number_among_compact_dates_is_a_wrong_row(tmp_path: pathlib.Path) -> None:
    source(tmp_path, [*texts("%Y%m%d"), "20201301"])
    assert "row 12: '20201301' is no time of the form '%Y%m%d'" in refused(tmp_path, MAP)
    assert ingest(tmp_path, MAP + "on_bad_rows: drop\n").dropped == {"wrong_rows_of_events": 1}


@pytest.mark.parametrize(
    ("origin", "name"), [(0, "days since 1970"), (25_569, "Excel's serial"), (2_440_587.5, "Julian days")]
)
def test_day_numbers_are_refused_with_what_to_do(origin: float, name: str, tmp_path: pathlib.Path) -> None:
    days = [second / 86_400 + origin for second in SECONDS]
    source(tmp_path, days)
    message = refused(tmp_path, MAP)
    assert f"column 'time' holds {name}" in message
    remedy = re.search(r"as in (?:\(time - ([0-9.]+)\)|time) \* 86400", message)
    assert remedy is not None
    subtracted = float(remedy[1] or 0)
    assert subtracted == origin
    source(tmp_path, [round((day - subtracted) * 86_400) for day in days])
    ingest(tmp_path, MAP)
    assert read(tmp_path) == SECONDS
    source(tmp_path, days)
    assert "'timestamp_unit: s'" in message
    ingest(tmp_path, MAP.replace("time}", "time, timestamp_unit: s}"))
    assert read(tmp_path) == [int(day) for day in days]


@pytest.mark.parametrize(
    "form",
    [
        "%Y-%m-%dT%H:%M:%S.123456789Z",
        "%Y-%m-%d %H:%M:%S.1234567",
        "%Y-%m-%d %H:%M:%S.000 +0000",
        "%Y-%m-%d %H:%M:%S UTC",
        "%Y-%m-%d %H:%M:%S.5 UTC",
        "%Y/%m/%d %H:%M:%S",
        "%Y-%m-%dT%H:%M:%S,25",
        " %Y-%m-%d %H:%M:%S +00:00 ",
        "%Y-%m-%d %H:%M:%S +00",
    ],
)
def test_times_near_iso_are_read(form: str, tmp_path: pathlib.Path) -> None:
    # The usual form stands among them, which Arrow reads without help.
    source(tmp_path, [*texts(form)[:-1], DAYS[-1].isoformat()])
    ingest(tmp_path, MAP)
    assert read(tmp_path) == SECONDS


def test_a_zone_after_a_blank_counts(tmp_path: pathlib.Path) -> None:
    source(tmp_path, ["2020-09-14 02:00:00.123456789 +0200", "2020-09-13 19:00:01 -05:00"])
    ingest(tmp_path, MAP)
    assert read(tmp_path) == [SECONDS[0], SECONDS[0] + 1]


def test_a_zone_of_hours_alone_counts(tmp_path: pathlib.Path) -> None:
    source(tmp_path, ["14.09.2020 02:00:00 +02", "13.09.2020 19:30:01 -0430", "14.09.2020 00:00:02 Z"])
    ingest(tmp_path, MAP.replace("time}", 'time, timestamp_format: "%d.%m.%Y %H:%M:%S %z"}'))
    assert read(tmp_path) == [SECONDS[0], SECONDS[0] + 1, SECONDS[0] + 2]


@pytest.mark.parametrize(
    "form",
    ["%m/%d/%Y %I:%M:%S %p", "%d.%m.%Y %H:%M", "%b %d, %Y", "%a %b %d %H:%M:%S %Y", "%d/%b/%Y:%H:%M:%S"],
)
def test_other_forms_are_read_by_the_format_that_the_error_names(form: str, tmp_path: pathlib.Path) -> None:
    source(tmp_path, texts(form))
    message = refused(tmp_path, MAP)
    assert "row 0:" in message and "is not in ISO 8601: set 'timestamp_format'" in message
    assert f"'{form}'" in message and "12 of 12 rows" in message
    ingest(tmp_path, MAP.replace("time}", f'time, timestamp_format: "{form}"}}'))
    assert read(tmp_path) == (DATES if "%H" not in form and "%I" not in form else SECONDS)


@pytest.mark.parametrize("form", ["%d/%b/%Y:%H:%M:%S %z", "%Y%m%dT%H%M%S%z"])
def test_times_of_web_servers_and_compact_ones_with_a_zone_get_a_proposal(
    form: str, tmp_path: pathlib.Path
) -> None:
    zoned = [day.replace(tzinfo=datetime.timezone.utc).strftime(form) for day in DAYS]
    source(tmp_path, zoned)
    assert f"'{form}'" in refused(tmp_path, MAP)
    ingest(tmp_path, MAP.replace("time}", f'time, timestamp_format: "{form}"}}'))
    assert read(tmp_path) == SECONDS


def test_a_date_that_is_us_or_european_gets_both_proposals(tmp_path: pathlib.Path) -> None:
    source(tmp_path, ["01/02/2020", "03/04/2020"])
    message = refused(tmp_path, MAP)
    assert "'%m/%d/%Y' or '%d/%m/%Y'" in message


def test_a_time_of_another_format_is_a_wrong_row(tmp_path: pathlib.Path) -> None:
    source(tmp_path, [*texts("%m/%d/%Y"), "13/13/2020", "2020-01-01", "02/30/2020", ""])
    mapping = MAP.replace("time}", 'time, timestamp_format: "%m/%d/%Y"}')
    message = refused(tmp_path, mapping)
    assert "row 12: '13/13/2020' is no time of the form '%m/%d/%Y'" in message
    assert "row 15: null is no time" in message and "4 of 16 rows" in message
    assert ingest(tmp_path, mapping + "on_bad_rows: drop\n").dropped == {"wrong_rows_of_events": 4}


def test_many_dates_that_do_not_exist_are_counted_at_once(tmp_path: pathlib.Path) -> None:
    times = ["2020-09-14 10:00:00"] * 20_000
    times[1::3] = ["0000-00-00 00:00:00"] * len(times[1::3])
    source(tmp_path, times)
    assert "6,667 of 20,000 rows" in refused(tmp_path, MAP)


def test_times_of_parquet_are_shown_as_people_write_them(tmp_path: pathlib.Path) -> None:
    old = datetime.datetime(1969, 12, 31, 23, 0, 5)
    source(tmp_path, pa.array([*DAYS[1:], old], pa.timestamp("us")), "e.parquet")
    assert "row 11: 1969-12-31 23:00:05 is a negative time" in refused(tmp_path, PARQUET)
    source(tmp_path, pa.array([*DAYS[1:], old.date()], pa.date32()), "e.parquet")
    assert "row 11: 1969-12-31 is a negative time" in refused(tmp_path, PARQUET)


def test_years_of_release_are_dates(tmp_path: pathlib.Path) -> None:
    source(tmp_path, SECONDS)
    write(tmp_path, "i.csv", "id,year\n0,1994\n1,2001\n2,\n")
    mapping = MAP + "items: {files: i.csv, item_id: id, release_timestamp: year}\n"
    ingest(tmp_path, mapping)
    items = items_of(tmp_path)
    assert [items[item]["release_timestamp"] for item in range(3)] == [757_382_400, 978_307_200, None]


def test_a_log_of_less_than_an_hour_is_noted(tmp_path: pathlib.Path) -> None:
    source(tmp_path, [second // 1_000 for second in SECONDS])
    with notices.collected() as told:
        manifest = ingest(tmp_path, MAP)
    assert manifest.noted["events_within_an_hour"] == 12
    assert "All events lie within 48.2 minutes" in told[0]


@pytest.mark.parametrize(("year", "place"), [(2037, "after"), (1991, "before")])
def test_an_event_years_from_all_others_is_noted(year: int, place: str, tmp_path: pathlib.Path) -> None:
    source(tmp_path, [*SECONDS, (year - 1970) * 365 * 86_400])
    with notices.collected() as told:
        manifest = ingest(tmp_path, MAP)
    assert manifest.noted[f"events_years_{place}_all_others"] == 1
    assert re.search(rf"1 event lies .* years {place} all others, on (2036|1990)-12", told[0])
    # A tenth of all events is no exception.
    source(tmp_path, [*SECONDS, *[(year - 1970) * 365 * 86_400 + second for second in (1, 2)]])
    assert not any("years" in name for name in ingest(tmp_path, MAP).noted)


def test_formats_equal_pythons() -> None:
    random = np.random.default_rng(1)
    forms = ("%d/%m/%y %H:%M", "%I:%M:%S %p %d-%b-%Y", "%A, %B %d %Y %H.%M.%S.%f", "%Y%m%d%H%M%S", "%F %T %z")
    for form in forms:
        times = [
            datetime.datetime(1970, 1, 1, tzinfo=datetime.timezone.utc)
            + datetime.timedelta(seconds=int(second))
            for second in random.integers(0, 40 * 365 * 86_400, 300)
        ]
        written = [time.strftime(form) for time in times]
        expected = [
            int(datetime.datetime.strptime(text, form.replace("%F", "%Y-%m-%d").replace("%T", "%H:%M:%S"))
                .replace(tzinfo=datetime.timezone.utc).timestamp())
            for text in written
        ]  # fmt: skip
        assert time_formats.seconds(pa.array(written), form).to_pylist() == expected, form


@pytest.mark.parametrize(
    ("right", "wrong"),
    [
        ("20210301", "0"),
        ("20210301", "20210231"),
        ("2021-03-01 00:00:00", "20210304"),
        ("2021-03-01 00:00:00", "44197"),
        ("1614556800", "never"),
    ],
)
@pytest.mark.parametrize("is_first", [True, False])
def test_one_wrong_time_does_not_decide_what_the_others_are(
    right: str, wrong: str, is_first: bool, tmp_path: pathlib.Path
) -> None:
    times = [right] * 3
    source(tmp_path, [wrong, *times] if is_first else [*times, wrong])
    message = refused(tmp_path, MAP)
    assert f"row {0 if is_first else 3}: " in message and "1 of 4 rows of the events is wrong" in message
    ingest(tmp_path, MAP + "on_bad_rows: drop\n")
    assert read(tmp_path) == [1_614_556_800] * 3


def test_day_numbers_are_told_by_most_of_them(tmp_path: pathlib.Path) -> None:
    source(tmp_path, [*range(44_197, 44_220), 0])
    assert "holds Excel's serial dates" in refused(tmp_path, MAP)
