"""Property of the import name: no file runs code when Arrow opens it, whoever imported Arrow first."""

from __future__ import annotations

import os
import pathlib
import subprocess
import sys

import pyarrow as pa
import pytest

import two_tower
from tests.crafted_files import write_crafted_parquet, write_crafted_stream

ROOT = pathlib.Path(two_tower.__file__).parents[1]
# Arrow 10 may abort a process that ends right after a failed `read_table`, whose threads have just begun. The
# commands open each file by `ParquetFile` first, which begins none. Here the process ends without teardown.
READ = """
import os, sys
{first}
import pyarrow as pa
import pyarrow.parquet as pq
for read in (pq.ParquetFile, pq.read_metadata, pq.read_table, pa.ipc.open_file):
    try:
        read(sys.argv[1] if read is not pa.ipc.open_file else sys.argv[2])
    except Exception as error:
        print(type(error).__name__, flush=True)
os._exit(0)
"""


def read_in_a_process(first: str, folder: pathlib.Path) -> tuple[list[str], bool]:
    """Returns the errors of reading two crafted files, and whether a file's code ran."""
    table, mark = pa.table({"user_id": [1, 2]}), folder / "mark"
    write_crafted_parquet(table, "user_id", mark, folder / "crafted.parquet")
    write_crafted_stream(table, "user_id", mark, folder / "crafted.arrow")
    assert not mark.exists()
    done = subprocess.run(
        [
            *(sys.executable, "-c", READ.format(first=first)),
            *(str(folder / "crafted.parquet"), str(folder / "crafted.arrow")),
        ],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.split(), mark.exists()


def test_the_crafted_files_run_their_code_without_the_hotfix(tmp_path: pathlib.Path) -> None:
    _, ran = read_in_a_process("", tmp_path)
    assert ran


@pytest.mark.parametrize(
    "first",
    [
        "import two_tower",
        "import pyarrow, two_tower",
        "from two_tower.base import storage; import pandas",
    ],
)
def test_no_file_runs_code_wherever_arrow_is_imported_first(first: str, tmp_path: pathlib.Path) -> None:
    errors, ran = read_in_a_process(first, tmp_path)
    assert (errors, ran) == (["RuntimeError"] * 4, False)


def test_the_import_name_alone_does_not_import_arrow() -> None:
    program = "import sys, two_tower; print('pyarrow' in sys.modules, 'pyarrow_hotfix' in sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    assert done.stdout.split() == ["False", "False"]
