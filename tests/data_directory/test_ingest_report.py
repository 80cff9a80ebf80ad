from __future__ import annotations

import pathlib

from tests.data_directories import (
    PROPERTIES,
    events,
    items,
)
from two_tower.data_directory import ingest_report
from two_tower.data_directory.writer import DataDirectoryWriter


def test_report_tells_counts_days_and_what_was_dropped(tmp_path: pathlib.Path) -> None:
    with DataDirectoryWriter(str(tmp_path / "data"), PROPERTIES) as writer:
        writer.write("events", events(timestamp=[0, 86_400, 864_000, 864_000]))
        writer.write("items", items())
        writer.dropped["duplicate_events"] += 1234
    text = ingest_report.render(writer.manifest)
    assert "10.0 days" in text
    assert "1,234 duplicate events" in text
    assert "1 play ratio over 1" in text
