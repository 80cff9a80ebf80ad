"""`two-tower export`: item embeddings of a served model, written for another home, read back and checked.

An export appears at its destination only if it answers as exact search over the model's vectors does. Local
files are written beside the destination, read back and renamed. Files for an object store are written and
read on this machine. `export.json` marks an export as complete and is uploaded last.
"""

from __future__ import annotations

import contextlib
import difflib
import json
import os
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pyarrow as pa

from two_tower.base import console, staged_folder, storage, temporary
from two_tower.base.errors import UserError
from two_tower.schema.features import REPEAT_SCORE
from two_tower.serving.exports import faiss_index, parquet, vertex
from two_tower.serving.exports.vectors import Queries, Vectors, check_same, exact_search
from two_tower.serving.loaded_model import load_model
from two_tower.serving.provenance import digest_of, read_whole
from two_tower.serving.request_tensors import signature_by_number
from two_tower.serving.versions import find_model

FAISS, VERTEX, PARQUET = HOMES = ("faiss", "vertex", "parquet")
DESCRIPTION = "export.json"
DEFAULT_RECALL, DEFAULT_K = 0.95, 100
# Smaller catalogs get exact search, which is as fast there.
_FLAT_BELOW = 20_000
_QUERIES, _SEED = 1_000, 17
_PER_BATCH = 8_192
_FACTS = ("dataset", "data_digest", "train_newest_timestamp", "user_ids", "item_ids")


# Gives queries of a loaded model, from its path and provenance; None if none are available.
QueriesOf = Callable[[Any, str, dict[str, Any]], Queries | None]


def no_queries(loaded: Any, path: str, provenance: dict[str, Any]) -> None:
    """Returns None, for models without an available run."""


class ExportFailed(Exception):
    """Failure of an export's check; the message gives the fault, and no files are left."""


def export(
    model: str,
    home: str,
    output: str,
    index: str | None = None,
    recall: float | None = None,
    k: int | None = None,
    tell: Callable[[str], None] = lambda line: None,
    queries_of: QueriesOf = no_queries,
) -> str:
    """Writes the item embeddings of a served model for another home.

    Args:
      model: the model's directory, see `versions.find_model`.
      home: one of HOMES.
      output: a new directory, a path or URL.
      index: one of `faiss_index.KINDS`, for Faiss alone; None: flat below 20,000 items, else hnsw.
      recall: share of exact search's first k that Faiss must find; None: the target of the model's own index,
        or else 0.95.
      k: the k of `recall`; None: the k of the model's own index, or else 100. The catalog's size limits it.
      tell: receives progress messages.
      queries_of: gives queries for the check; without any, items stand for queries.

    Returns:
      A summary of the export and of its check, in words.

    Raises:
      UserError: an unknown home or index, an `output` that exists or cannot be written, a number out of
        range, no such model, or embeddings that cannot be exported.
      ExportFailed: see `write_checked`.
    """
    check_options(home, index, recall, k)
    path = find_model(model)
    if storage.exists(output):
        raise UserError(
            f"{output} exists already, and --output takes a new directory. Remove it, or name another."
        )
    tell("Loading the model")
    with console.hushed():
        vectors, queries = read_model(path, queries_of)
    tell(f"Writing and checking {len(vectors):,} items")
    try:
        described = write_checked(vectors, queries, home, output, index, recall, k)
    except OSError as error:
        raise UserError(f"--output {output} cannot be written ({error}). Name another directory.") from error
    return summary(described, output)


def check_options(home: str, index: str | None, recall: float | None, k: int | None) -> None:
    """Raises UserError for invalid or contradictory options; see `export`."""
    for given, known, option in ((home, HOMES, "--to"), (index, faiss_index.KINDS, "--index")):
        if given is not None and given not in known:
            nearest = difflib.get_close_matches(given, known, n=1, cutoff=0)[0]
            raise UserError(f"{option} {given}: the nearest is {nearest!r} of {', '.join(known)}.")
    for value, option in ((index, "--index"), (recall, "--recall")):
        if home != FAISS and value is not None:
            raise UserError(f"{option} is for --to {FAISS}; other exports are exact. Leave it out.")
    if recall is not None and not 0 < recall <= 1:
        raise UserError(f"--recall {recall:g}: give a share above 0 and up to 1, as in 0.95.")
    if k is not None and k < 1:
        raise UserError(f"-k {k}: give at least 1.")


def read_model(path: str, queries_of: QueriesOf = no_queries) -> tuple[Vectors, Queries]:
    """Reads a served model's item embeddings and queries; see `export`."""
    provenance = read_whole(path)
    loaded = load_model(path)
    import tensorflow as tf

    own_id = loaded.signatures["catalog"]()["item_id"].numpy()
    item_id = signature_by_number(loaded, "catalog")()["item_id"].numpy()
    embed = signature_by_number(loaded, "candidate_embedding")
    embedding = np.zeros([0, 1], np.float32)
    if len(item_id):
        batches = [item_id[begin : begin + _PER_BATCH] for begin in range(0, len(item_id), _PER_BATCH)]
        embedding = np.concatenate(
            [embed(item_id=tf.constant(batch))["embedding"].numpy() for batch in batches]
        )
    facts = {
        "path": path,
        "digest": digest_of(path),
        **{name: provenance.get(name) for name in _FACTS},
        "index": provenance.get("index", {}),
        # True with the repeat head, whose scores no export holds.
        "repeat_scores": REPEAT_SCORE in loaded.signatures["query_embedding"].structured_outputs,
    }
    texts = None if own_id.dtype.kind == "i" else pa.array(own_id.tolist(), pa.binary()).cast(pa.string())
    vectors = Vectors(item_id, embedding, facts, texts)
    vectors.check()
    queries = queries_of(loaded, path, provenance) or items_as_queries(vectors)
    return vectors, queries


def items_as_queries(vectors: Vectors) -> Queries:
    """Samples items as queries, which are easier to answer than real ones."""
    rows = np.random.default_rng(_SEED).permutation(len(vectors))[:_QUERIES]
    return Queries(
        vectors.embedding[rows], "embeddings of items, because no run with eval windows is available"
    )


def write_checked(
    vectors: Vectors,
    queries: Queries,
    home: str,
    output: str,
    index: str | None = None,
    recall: float | None = None,
    k: int | None = None,
) -> dict[str, Any]:
    """Writes an export, checks it, and returns the content of `export.json`; see `export`.

    Raises:
      UserError: `k` exceeds the number of items, or the index cannot be built.
      ExportFailed: the files read back do not answer as exact search does. No files are left.
    """
    tuned = vectors.model.get("index", {}).get("tuning") or {}
    if k is not None and k > len(vectors):
        raise UserError(f"-k {k}: the catalog has {len(vectors)} items. Give a smaller k.")
    k = k or min(int(tuned.get("k") or DEFAULT_K), len(vectors))
    target = recall or float(tuned.get("target") or DEFAULT_RECALL)
    exact = exact_search(vectors, queries.embedding, k)
    with _new_directory(output) as directory:
        described: dict[str, Any] = {
            "home": home,
            "model": vectors.model,
            "items": len(vectors),
            "embedding_dim": vectors.dim,
            "score": "inner product",
        }
        try:
            if home == FAISS:
                kind = index or (faiss_index.FLAT if len(vectors) < _FLAT_BELOW else faiss_index.HNSW)
                if kind == faiss_index.FLAT:
                    target = 1.0
                built = faiss_index.build(kind, vectors, queries, exact, target)
                faiss_index.write(built, vectors, directory)
                found = faiss_index.check(directory, vectors, queries, exact, target)
                described |= {"index": built.settings, "tuning": built.points}
            else:
                form = vertex if home == VERTEX else parquet
                described["format"] = form.write(vectors, directory)
                own_id, embedding = form.read(directory)
                check_same(vectors, vectors.by_number(own_id), embedding, queries.embedding, exact)
                found, target = 1.0, 1.0
        except ValueError as error:
            raise ExportFailed(
                f"The check of the written files failed: {error}. {output} was not created."
            ) from error
        described["check"] = {
            "k": k,
            "recall": round(found, 5),
            "target": target,
            "queries": len(queries),
            "queries_are": queries.source,
        }
        with open(os.path.join(directory, DESCRIPTION), "w", encoding="utf-8") as file:
            file.write(json.dumps(described, indent=2) + "\n")
    return described


def summary(described: dict[str, Any], output: str) -> str:
    """Summarises `export.json` in words."""
    check = described["check"]
    lines = [
        f"{output} holds {described['items']:,} items of {described['embedding_dim']} numbers for "
        f"{described['home']}."
    ]
    if described["home"] == FAISS:
        settings = ", ".join(f"{name} {value}" for name, value in described["index"].items())
        lines.append(
            f"Index: {settings}. Read back, it finds {check['recall']:.4f} of exact search's first "
            f"{check['k']} (target {check['target']:g})."
        )
    else:
        lines.append(f"Read back, it equals exact search in the first {check['k']} items.")
    lines.append(f"Queries of the check: {check['queries']:,} {check['queries_are']}.")
    if described["model"].get("repeat_scores"):
        lines.append(
            "The repeat head scores items of a query's history. Merge the results with repeat_item_id and "
            "repeat_score of query_embedding, each item once."
        )
    if described["home"] == VERTEX:
        folder = storage.join(output, vertex.FOLDER)
        lines.append(f"Import {folder} (contentsDeltaUri) with DOT_PRODUCT_DISTANCE.")
    return "\n".join(lines)


@contextlib.contextmanager
def _new_directory(output: str) -> Iterator[str]:
    """Yields a local directory that becomes `output` if the block succeeds, and is removed if it fails."""
    output = storage.absolute(output)
    if not storage.is_local(output):
        with temporary.folder() as directory:
            yield directory
            _upload(directory, output)
        return
    with staged_folder.alone(output):
        directory = staged_folder.staged(output)
        os.mkdir(directory)
        yield directory
        staged_folder.replace(output)


def _upload(directory: str, output: str) -> None:
    """Copies a directory's files to a URL, the description last; removes them if that fails."""
    sizes = storage.list_sizes(directory)
    names = sorted(sizes, key=lambda name: (name == DESCRIPTION, name))
    try:
        for name in names:
            storage.upload(os.path.join(directory, name), storage.join(output, name))
        if (there := storage.list_sizes(output)) != sizes:
            raise ExportFailed(f"{output} holds {there} after the upload; expected were {sizes}.")
    except BaseException:
        for name in names:
            with contextlib.suppress(OSError):
                storage.remove_file(storage.join(output, name))
        raise
