#!/usr/bin/env python3
"""Counts docstrings that break the opening rule; `make lint` wants none.

A function's docstring starts with a verb, a class's, module's or property's with a noun phrase. None starts
with Of, Where, What, How, As, Whether, Which, Who, Whose, By which, To what or For what.
"""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

_NEVER = re.compile(r"(Of|Where|What|How|As|Whether|Which|Who|Whose|By which|To what|For what)\b")
# Third person singular. A verb that is missing here is added here.
_VERBS = """
    Accepts Accumulates Adds Aggregates Aligns Allocates Answers Appends Applies Arranges Asks Asserts Assigns
    Changes Distributes Ingests Inspects Replays Suppresses
    Averages Begins Binds Bins Blocks Broadcasts Builds Caches Calls Carries Casts Checks Chooses Clears Clips
    Closes Collects Combines Compares Compiles Completes Computes Concatenates Configures Connects Converts
    Copies Counts Creates Cuts Decays Decides Decodes Deduplicates Defines Deletes Delivers Derives Describes
    Determines Divides Downloads Draws Drops Embeds Encodes Ends Ensures Enters Equals Estimates Evaluates
    Excludes Executes Expands Explains Exports Extends Extracts Fails Feeds Fetches Fills Filters Finds
    Finishes Fits Flattens Flushes Follows Formats Freezes Gathers Generates Gets Gives Goes Groups Guards
    Handles Hands Hashes Hides Holds Identifies Ignores Imports Includes Indexes Infers Initialises Inserts
    Installs Interleaves Interrupts Iterates Joins Judges Keeps Kills Launches Lays Learns Leaves Limits Lists
    Loads Locates Locks Logs Looks Lowers Makes Maps Marks Masks Matches Measures Merges Mirrors Moves Names
    Normalises Notes Numbers Observes Opens Orders Overrides Packs Pads Parses Partitions Picks Places Plots
    Points Pools Prepares Presents Preserves Prevents Prints Produces Projects Prunes Publishes Pulls Pushes
    Puts Quantises Queries Raises Ranks Reads Rebuilds Receives Recommends Reconstructs Records Redirects
    Reduces Refuses Registers Rejects Releases Removes Renames Renders Repeats Replaces Reports Represents
    Requests Requires Resamples Reserves Resets Resolves Restores Restricts Resumes Returns Reverses Rewrites
    Rolls Rounds Routes Runs Samples Saves Says Scales Scans Scatters Scores Searches Seeds Selects Sends
    Separates Serialises Serves Sets Shares Shifts Shows Shuffles Simulates Sizes Skips Slices Smooths Sorts
    Spawns Splits Stacks Standardises Starts States Steps Stops Stores Streams Strips Submits Substitutes
    Subtracts Sums Summarises Suspends Swaps Takes Tells Terminates Tests Times Tokenises Tracks Trains
    Transforms Translates Traverses Treats Trims Truncates Tunes Turns Unions Unpacks Updates Uploads Uses
    Validates Verifies Waits Walks Warms Warns Watches Weighs Widens Withdraws Wraps Writes Yields Zeroes
    """
VERBS = frozenset(_VERBS.split())
# A section may stand alone, as in `__init__`.
_SECTIONS = ("Args:", "Attributes:")
_PROPERTIES = ("property", "cached_property")


def broken(file: Path) -> Iterator[str]:
    """Yields a complaint for each docstring of a file that breaks the rule."""
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if not isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            continue
        docstring = ast.get_docstring(node)
        if not docstring or docstring.startswith(_SECTIONS):
            continue
        name = getattr(node, "name", "module")
        opening = " ".join(docstring.split()[:4])
        where = f"{file}:{node.body[0].lineno}: {name}: {opening!r}"
        is_function = isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and not _is_property(node)
        if _NEVER.match(docstring):
            yield f"{where} opens with a word that names nothing; name the thing first"
        elif is_function and docstring.split()[0].rstrip(",;:.") not in VERBS:
            yield f"{where} does not open with a verb (VERBS in scripts/check_docstrings.py)"
        elif not is_function and docstring.split()[0] in VERBS and isinstance(node, ast.ClassDef):
            yield f"{where} opens with a verb; a class is named by a noun phrase"


def _is_property(node: ast.FunctionDef | ast.AsyncFunctionDef) -> bool:
    """Tells a property or fixture, which is a thing, from a function."""
    decorators = [ast.unparse(one).split("(")[0].split(".")[-1] for one in node.decorator_list]
    return any(one in (*_PROPERTIES, "fixture") for one in decorators)


def main() -> int:
    """Prints complaints and their count; returns 1 if there are any."""
    # A new file counts before it is added.
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard", "*.py"]
    listed = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    only = tuple(sys.argv[1:])
    files = [Path(name) for name in listed.split() if not only or name.startswith(only)]
    complaints = [complaint for file in files if file.exists() for complaint in broken(file)]
    print(*complaints, sep="\n", end="\n" if complaints else "")
    print(f"{len(complaints)} docstrings break the opening rule.")
    return 1 if complaints else 0


if __name__ == "__main__":
    sys.exit(main())
