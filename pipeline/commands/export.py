"""`two-tower export`: writes a model's item embeddings for another search service."""

from __future__ import annotations

import argparse
import sys

from two_tower.pipeline.commands import exit_status
from two_tower.pipeline.commands.command import Command
from two_tower.pipeline.commands.messages import tell


def _add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--model",
        metavar="DIR",
        required=True,
        help="--output of `two-tower run`, for its newest published model, or one version's directory",
    )
    parser.add_argument(
        "--to", metavar="FORMAT", required=True, help="format of the export: faiss, vertex or parquet"
    )
    parser.add_argument(
        "--output", metavar="DIR", required=True, help="new directory to write, a path or gs://..."
    )
    parser.add_argument(
        "--index",
        metavar="KIND",
        help="for faiss: flat, ivfpq or hnsw (default: flat below 20,000 items, else hnsw)",
    )
    parser.add_argument(
        "--recall",
        type=float,
        metavar="SHARE",
        help="for faiss: share of exact search's first k that the index must find (default: the model's "
        "own target, else 0.95)",
    )
    parser.add_argument(
        "-k", type=int, metavar="N", help="the k of --recall (default: the model's own, else 100)"
    )


def _run(options: argparse.Namespace) -> int:
    from two_tower.pipeline.export_queries import eval_queries
    from two_tower.serving.exports import export

    try:
        done = export.export(
            options.model,
            options.to,
            options.output,
            options.index,
            options.recall,
            options.k,
            tell,
            eval_queries,
        )
    except export.ExportFailed as error:
        print(f"two-tower: the export failed. {error}", file=sys.stderr)
        return exit_status.FAILURE
    print(done)
    return 0


COMMAND = Command(
    name="export",
    summary="write a model's item embeddings for Faiss, Vertex AI Vector Search, or as Parquet",
    description=(
        "Writes the embedding of every item of a published model. The result is a Faiss index with its id "
        "map, JSON lines that Vertex AI Vector Search imports, or Parquet. A Faiss index is tuned until it "
        "finds the asked share of exact search. The export is read back and compared with exact search "
        "before it appears in --output. A score is the inner product of a query's and an item's embedding. "
        "The model's signature query_embedding gives the query's."
    ),
    add_arguments=_add_arguments,
    run=_run,
)
