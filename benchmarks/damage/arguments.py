"""Wrong arguments, which are told before anything is loaded."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

from benchmarks.damage import kinds
from benchmarks.damage.trial import Trial

# Name of the trial, the words after `two-tower`, and what the answer names.
_GIVEN: tuple[tuple[str, list[str], str], ...] = (
    ("an unknown command", ["ingst"], "ingst"),
    ("no command", [], "COMMAND"),
    ("ingest without FORMAT", ["ingest"], "FORMAT"),
    ("ingest of an unknown format", ["ingest", "movilens", ".", "out"], "movielens"),
    ("ingest without OUT", ["ingest", "yambda", "."], "OUT"),
    ("ingest of one argument more", ["ingest", "yambda", ".", "out", "more"], "more"),
    ("ingest --span of a word", ["ingest", "yambda", ".", "out", "--span", "monday"], "--span monday"),
    ("ingest --span of an empty text", ["ingest", "yambda", ".", "out", "--span", ""], "--span"),
    (
        "ingest --span of a day that is none",
        ["ingest", "yambda", ".", "o", "--span", "2024-13-01"],
        "--span",
    ),
    ("ingest --span of 5,000 digits", ["ingest", "yambda", ".", "o", "--span", "9" * 5_000], "span"),
    ("ingest --columns of another format", ["ingest", "yambda", ".", "o", "--columns", "c"], "--columns"),
    ("ingest --describe and FORMAT", ["ingest", "yambda", "--describe", "d"], "--describe"),
    ("ingest of a path that is not UTF-8", ["ingest", "yambda", "a\udcff", "o"], "SRC"),
    ("--describe of a path that is not UTF-8", ["ingest", "--describe", "a\udcff"], "data directory"),
    ("report of a path that is not UTF-8", ["report", "--output", "a\udcff"], "no run"),
    ("gate of a path that is not UTF-8", ["gate", "--model", "a\udcff"], "no directory"),
    ("ingest of a path of 10,000 letters", ["ingest", "yambda", "a" * 10_000, "o"], "SRC"),
    ("ingest of an unknown scheme", ["ingest", "yambda", "nope://x", "o"], "nope://"),
    ("--describe of an unknown scheme", ["ingest", "--describe", "nope://x"], "nope://"),
    ("simulate of -5 users", ["simulate", "o", "--users", "-5"], "users"),
    ("simulate of no users", ["simulate", "o", "--users", "0"], "users"),
    ("simulate of half a day", ["simulate", "o", "--days", "0.5"], "--days"),
    ("simulate of 10^30 tracks", ["simulate", "o", "--tracks", "1" + "0" * 30], "tracks"),
    ("simulate with a seed of -1", ["simulate", "o", "--seed", "-1"], "seed"),
    ("run without --data", ["run", "--output", "o"], "--data"),
    ("run without --output", ["run", "--data", "d"], "--output"),
    ("run of an unknown preset", ["run", "--data", "d", "--output", "o", "--preset", "smok"], "smoke"),
    ("run of an unknown option", ["run", "--data", "d", "--output", "o", "--fast"], "--fast"),
    ("report without --output", ["report"], "--output"),
    ("report of nothing", ["report", "--output", "nowhere"], "nowhere"),
    ("report of an empty name", ["report", "--output", ""], "--output"),
    ("report --compare of one", ["report", "--compare", "a"], "--compare"),
    ("report --compare of nothing", ["report", "--compare", "nowhere", "nothing"], "nowhere"),
    ("report --compare and --output", ["report", "--compare", "a", "b", "--output", "c"], "--output"),
    ("history without --output", ["history"], "--output"),
    ("history of nothing", ["history", "--output", "nowhere"], "nowhere"),
    ("gate without --model", ["gate"], "--model"),
    ("gate of nothing", ["gate", "--model", "nowhere"], "nowhere"),
    ("rollback without a place", ["rollback"], "--output"),
    ("rollback of two places", ["rollback", "--output", "a", "--push", "b"], "--push"),
    ("rollback of nothing", ["rollback", "--push", "nowhere"], "nowhere"),
    ("validate without --data", ["validate"], "--data"),
    ("validate of --data and --requests", ["validate", "--data", "d", "--requests", "r"], "--data"),
    ("validate of requests in a folder", ["validate", "--requests", "/"], "/"),
    ("tune without --data", ["tune", "--output", "o"], "--data"),
    ("compile without --image", ["compile", "-o", "job.json"], "--image"),
    ("export without --to", ["export", "--model", "m", "--output", "o"], "--to"),
    ("export of no model", ["export", "--model", "nowhere", "--to", "faiss", "--output", "o"], "nowhere"),
    ("export to an unknown home", ["export", "--model", "m", "--to", "fais", "--output", "o"], "faiss"),
    (
        "export of half a k",
        ["export", "--model", "m", "--to", "faiss", "--output", "o", "-k", "1.5"],
        "-k",
    ),
    (
        "export of a recall of nan",
        ["export", "--model", "m", "--to", "faiss", "--output", "o", "--recall", "nan"],
        "--recall",
    ),
    (
        "export of a recall of 95",
        ["export", "--model", "m", "--to", "faiss", "--output", "o", "--recall", "95"],
        "--recall",
    ),
    (
        "export of an index that is none",
        ["export", "--model", "m", "--to", "faiss", "--output", "o", "--index", "ivf"],
        "--index",
    ),
    (
        "export of an index to Parquet",
        ["export", "--model", "m", "--to", "parquet", "--output", "o", "--index", "flat"],
        "--index",
    ),
    ("query without a user", ["query", "--model", "m"], "--user"),
    ("query of no model", ["query", "--model", "nowhere", "--user", "1"], "nowhere"),
    (
        "query of a user and a history",
        ["query", "--model", "m", "--user", "1", "--history", "2"],
        "--history",
    ),
    ("query of a word", ["query", "--model", "m", "--user", "anna"], "--user"),
    ("query of half a user", ["query", "--model", "m", "--user", "1.5"], "--user"),
    ("query of a history of words", ["query", "--model", "m", "--history", "1,two"], "two"),
    ("query of missing data", ["query", "--model", "m", "--user", "1", "--data", "nowhere"], "nowhere"),
    ("clean of a word", ["clean", "--output", "o", "--keep", "few"], "--keep"),
)


def trials() -> Iterator[Trial]:
    """Yields the trials of arguments."""
    for name, words, named in _GIVEN:
        command = words[0] if len(words) > 0 and words[0] != "ingst" else "two-tower"
        yield Trial(command, "arguments", kinds.VALUES, name, _as_given(words), (named,))


def _as_given(words: list[str]) -> Callable[[Path], list[str]]:
    return lambda folder: [*words]
