"""Exports: written embeddings answer as exact search does, or no files are left."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from two_tower.base import storage
from two_tower.base.errors import UserError
from two_tower.pipeline.commands import exit_status
from two_tower.pipeline.commands.main import main
from two_tower.schema import text_ids
from two_tower.serving.exports import export, faiss_index, parquet, vertex
from two_tower.serving.exports.export import ExportFailed, items_as_queries, write_checked
from two_tower.serving.exports.vectors import Queries, Vectors, check_same, exact_search, recall_of

ITEMS, DIM, K = 1_500, 16, 10


def clustered(items: int = ITEMS, dim: int = DIM, seed: int = 3) -> Vectors:
    """Draws items of length one around 40 centres, with ids above 32 bits that are no row numbers."""
    draw = np.random.default_rng(seed)
    centres = draw.normal(size=(40, dim))
    embedding = centres[draw.integers(40, size=items)] + draw.normal(0, 0.4, (items, dim))
    embedding /= np.linalg.norm(embedding, axis=1, keepdims=True)
    item_id = np.sort(draw.choice(2**40, items, replace=False))
    return Vectors(item_id, embedding.astype(np.float32), {"digest": "sha256:model"})


@pytest.fixture(scope="module")
def vectors() -> Vectors:
    return clustered()


@pytest.fixture(scope="module")
def queries() -> Queries:
    return Queries(clustered(200, seed=4).embedding, "queries of a test")


def described(directory: Path) -> dict[str, Any]:
    return dict(json.loads((directory / "export.json").read_text()))


@pytest.mark.parametrize("home", ["faiss", "vertex", "parquet"])
def test_text_ids_are_exported_as_texts(home: str, queries: Queries, tmp_path: Path) -> None:
    texts = [f'SKU "{number}"\\é' for number in range(ITEMS - 1)] + ["2020-01-01"]
    embedding = clustered().embedding
    vectors = Vectors(text_ids.numbers_of(texts), embedding, {}, pa.array(texts))
    found = write_checked(vectors, queries, home, str(tmp_path / "export"), k=K)
    assert found["check"]["recall"] == 1
    if home == "faiss":
        table = pq.read_table(tmp_path / "export" / faiss_index.IDS_FILE)
        assert table["item_id"].to_pylist() == texts
        assert table["number"].to_pylist() == vectors.item_id.tolist()
    elif home == "parquet":
        (file,) = (tmp_path / "export" / "embeddings").iterdir()
        assert pq.read_table(file)["item_id"].to_pylist() == texts
    else:
        (file,) = (tmp_path / "export" / "embeddings").iterdir()
        assert [json.loads(line)["id"] for line in file.read_text().splitlines()] == texts


# Exact search and recall against it.


def test_exact_search_finds_the_highest_products_and_breaks_ties_by_id() -> None:
    embedding = np.array([[1, 0], [0, 1], [1, 0], [-1, 0]], np.float32)
    vectors = Vectors(np.array([9, 5, 7, 1]), embedding, {})
    exact = exact_search(vectors, embedding[[0, 3]], 3)
    assert exact.item_id.tolist() == [[7, 9, 5], [1, 5, exact.item_id[1, 2]]]
    assert exact.score.tolist() == [[1, 1, 0], [1, 0, -1]]


def test_recall_counts_ties_as_found_and_an_id_once() -> None:
    embedding = np.array([[1.0], [0.5], [0.5], [0.1]], np.float32)
    vectors = Vectors(np.array([1, 2, 3, 4]), embedding, {})
    query = np.ones([1, 1], np.float32)
    exact = exact_search(vectors, query, 2)
    for found, recall in (([1, 3], 1.0), ([1, 4], 0.5), ([1, 1], 0.5), ([-1, -1], 0.0), ([1, 77], 0.5)):
        assert recall_of(np.array([found]), vectors, query, exact).tolist() == [recall]


@pytest.mark.parametrize("size", [1e-4, 300.0])
def test_scores_are_compared_by_their_size(vectors: Vectors, size: float, tmp_path: Path) -> None:
    """Scales the vectors: dot-product towers give any length, and rounding grows with it."""
    scaled = Vectors(vectors.item_id, (size * vectors.embedding).astype(np.float32), {})
    asked = items_as_queries(scaled)
    assert write_checked(scaled, asked, "faiss", str(tmp_path / "index"), "flat")["check"]["recall"] == 1
    exact = exact_search(scaled, asked.embedding, K)
    missed = exact_search(scaled, asked.embedding, 2 * K).item_id[:, K:]
    assert recall_of(missed, scaled, asked.embedding, exact).mean() < 0.1
    with pytest.raises(ValueError, match="with scores that differ"):
        check_same(scaled, scaled.item_id, 1.001 * scaled.embedding, asked.embedding, exact)


def test_what_reads_back_otherwise_is_told(vectors: Vectors, queries: Queries) -> None:
    exact = exact_search(vectors, queries.embedding, K)
    check_same(vectors, vectors.item_id, vectors.embedding, queries.embedding, exact)
    for item_id, embedding in (
        (vectors.item_id[::-1], vectors.embedding),
        (vectors.item_id, vectors.embedding[:, :-1]),
        (vectors.item_id, np.roll(vectors.embedding, 1, axis=0)),
        (vectors.item_id, np.round(vectors.embedding, 2)),
    ):
        with pytest.raises(ValueError):
            check_same(vectors, item_id, embedding, queries.embedding, exact)


# Plain vectors.


@pytest.mark.parametrize("form", [vertex, parquet])
def test_vectors_read_back_to_the_bit_from_several_files(vectors: Vectors, tmp_path: Path, form: Any) -> None:
    extreme = Vectors(vectors.item_id, vectors.embedding * np.float32(1e-7), {})
    for number, written in enumerate((vectors, extreme)):
        directory = str(tmp_path / str(number))
        form.write(written, directory, 400)
        assert len(os.listdir(os.path.join(directory, "embeddings"))) == 4
        own_id, embedding = form.read(directory)
        item_id = written.by_number(own_id)
        assert (item_id == written.item_id).all() and item_id.dtype == np.int64
        assert (embedding == written.embedding).all() and embedding.dtype == np.float32


@pytest.mark.parametrize("repeat_scores", [True, False])
def test_it_is_told_where_inner_products_are_not_all(
    vectors: Vectors, queries: Queries, tmp_path: Path, repeat_scores: bool
) -> None:
    of_model = Vectors(vectors.item_id, vectors.embedding, {"repeat_scores": repeat_scores})
    written = write_checked(of_model, queries, "parquet", str(tmp_path / "out"))
    assert described(tmp_path / "out")["model"]["repeat_scores"] == repeat_scores
    assert ("repeat_score of query_embedding" in export.summary(written, "out")) == repeat_scores


def test_vertex_files_are_as_google_describes_them(
    vectors: Vectors, queries: Queries, tmp_path: Path
) -> None:
    write_checked(vectors, queries, "vertex", str(tmp_path / "out"))
    # The import folder may hold data files alone; their description lies above.
    assert sorted(os.listdir(tmp_path / "out")) == ["embeddings", "export.json"]
    (name,) = os.listdir(tmp_path / "out" / "embeddings")
    assert name.endswith(".json")
    records = [json.loads(line) for line in (tmp_path / "out" / "embeddings" / name).open()]
    assert len(records) == ITEMS
    assert set(records[0]) == {"id", "embedding"}
    assert records[0]["id"] == str(vectors.item_id[0])
    assert np.float32(records[0]["embedding"]).tolist() == vectors.embedding[0].tolist()
    form = described(tmp_path / "out")["format"]
    assert (form["dimensions"], form["distanceMeasureType"]) == (DIM, "DOT_PRODUCT_DISTANCE")


def test_more_files_than_an_import_takes_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"6,000 items.*6,000 files.*5,000"):
        vertex.write(clustered(6_000, 2), str(tmp_path), 1)


def test_parquet_has_a_fixed_width_that_other_tools_see(
    vectors: Vectors, queries: Queries, tmp_path: Path
) -> None:
    write_checked(vectors, queries, "parquet", str(tmp_path / "out"))
    schema = pq.read_schema(tmp_path / "out" / "embeddings" / "part-00000-of-00001.parquet")
    assert str(schema.field("item_id").type) == "int64"
    assert schema.field("embedding").type.list_size == DIM
    assert str(schema.field("embedding").type.value_type) == "float"


# Faiss.


@pytest.mark.parametrize("kind", faiss_index.KINDS)
def test_an_index_that_is_read_again_meets_the_target_with_what_lies_in_it(
    vectors: Vectors, queries: Queries, tmp_path: Path, kind: str
) -> None:
    import faiss

    out = tmp_path / "out"
    write_checked(vectors, queries, "faiss", str(out), kind, 0.9, K)
    found = described(out)
    assert found["index"]["kind"] == kind
    assert found["check"] == {
        "k": K, "recall": found["check"]["recall"], "target": 1.0 if kind == "flat" else 0.9,
        "queries": 200, "queries_are": "queries of a test",
    }  # fmt: skip
    assert found["check"]["recall"] >= found["check"]["target"]
    index = faiss.read_index(str(out / "index.faiss"))
    answers = index.search(queries.embedding, K)[1]
    recall = recall_of(
        answers, vectors, queries.embedding, exact_search(vectors, queries.embedding, K)
    ).mean()
    # A reader of the file reaches the recall without setting any parameter.
    assert recall == pytest.approx(found["check"]["recall"], abs=1e-5)
    assert pq.read_table(out / "item_ids.parquet")["item_id"].to_numpy().tolist() == vectors.item_id.tolist()


def test_codes_too_coarse_for_the_target_are_ranked_again(
    vectors: Vectors, queries: Queries, tmp_path: Path
) -> None:
    tuned = {}
    for target in (0.3, 0.97):
        out = tmp_path / str(target)
        write_checked(vectors, queries, "faiss", str(out), "ivfpq", target, K)
        tuned[target] = described(out)
    assert tuned[0.3]["index"]["reordering_factor"] == 0
    assert tuned[0.97]["index"]["reordering_factor"] > 1
    assert tuned[0.97]["check"]["recall"] >= 0.97
    # The fewest lists: any point with fewer missed the target.
    chosen = tuned[0.97]["index"]
    same = [p for p in tuned[0.97]["tuning"] if p["reordering_factor"] == chosen["reordering_factor"]]
    assert all(point["recall_low"] < 0.97 for point in same if point["nprobe"] < chosen["nprobe"])


def test_a_graph_is_searched_no_wider_than_the_target_asks_for(
    vectors: Vectors, queries: Queries, tmp_path: Path
) -> None:
    write_checked(vectors, queries, "faiss", str(tmp_path / "out"), "hnsw", 0.95, K)
    points = described(tmp_path / "out")["tuning"]
    assert [point["recall_low"] >= 0.95 for point in points] == [False] * (len(points) - 1) + [True]


def test_a_target_out_of_reach_names_what_can_be_done(queries: Queries, tmp_path: Path) -> None:
    vectors = clustered(400)
    exact = exact_search(vectors, queries.embedding, K)
    with pytest.raises(UserError, match=r"finds .* at most; the target is 1.01.*--index flat"):
        faiss_index.build("ivfpq", vectors, queries, exact, 1.01)
    with pytest.raises(UserError, match=r"ivfpq learns its codes from at least 256 items.*has 100"):
        write_checked(clustered(100), queries, "faiss", str(tmp_path / "out"), "ivfpq")
    assert os.listdir(tmp_path) == []


def test_the_models_own_target_holds_unless_another_is_asked_for(
    vectors: Vectors, queries: Queries, tmp_path: Path
) -> None:
    tuned = Vectors(
        vectors.item_id, vectors.embedding, {"index": {"kind": "scann", "tuning": {"target": 0.8, "k": 20}}}
    )
    check = write_checked(tuned, queries, "faiss", str(tmp_path / "1"), "hnsw")["check"]
    assert (check["target"], check["k"]) == (0.8, 20)
    check = write_checked(tuned, queries, "faiss", str(tmp_path / "2"), "hnsw", 0.5, 5)["check"]
    assert (check["target"], check["k"]) == (0.5, 5)
    # A model of exact search has no tuning.
    untuned = Vectors(vectors.item_id, vectors.embedding, {"index": {"kind": "exact", "tuning": None}})
    check = write_checked(untuned, queries, "faiss", str(tmp_path / "3"), "hnsw")["check"]
    assert (check["target"], check["k"]) == (0.95, 100)


# Destinations.


@pytest.mark.parametrize("home", export.HOMES)
def test_what_fails_its_check_is_not_left_there(
    vectors: Vectors, queries: Queries, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, home: str
) -> None:
    def damaged(directory: str) -> Any:
        return vectors.own_id, vectors.embedding[::-1]

    monkeypatch.setattr(vertex, "read", damaged)
    monkeypatch.setattr(parquet, "read", damaged)
    write = faiss_index.write

    def write_coarsely(built: faiss_index.Built, *rest: Any) -> None:
        built.index.index.this.disown()
        import faiss

        faiss.downcast_index(built.index.index).hnsw.efSearch = 1
        write(built, *rest)

    monkeypatch.setattr(faiss_index, "write", write_coarsely)
    with pytest.raises(ExportFailed, match="check of the written files failed"):
        write_checked(vectors, queries, home, str(tmp_path / "out"), "hnsw" if home == "faiss" else None)
    assert os.listdir(tmp_path) == []


def test_an_object_store_gets_the_description_last_and_all_or_nothing(
    vectors: Vectors, queries: Queries, monkeypatch: pytest.MonkeyPatch
) -> None:
    output = "memory://exports/one"
    uploaded: list[str] = []
    upload = storage.upload

    def recorded(local: str, path: str) -> None:
        uploaded.append(path)
        upload(local, path)

    monkeypatch.setattr(storage, "upload", recorded)
    write_checked(vectors, queries, "vertex", output)
    assert uploaded[-1] == f"{output}/export.json"
    assert storage.list_files(output) == ["embeddings/part-00000-of-00001.json", "export.json"]

    def broken(local: str, path: str) -> None:
        if path.endswith("export.json"):
            raise OSError("no more")
        upload(local, path)

    monkeypatch.setattr(storage, "upload", broken)
    with pytest.raises(OSError, match="no more"):
        write_checked(vectors, queries, "vertex", "memory://exports/two")
    assert not storage.list_files("memory://exports/two")


# Bad input, refused before the model is loaded.


def told(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    assert main(["export", *arguments]) == exit_status.USER_ERROR
    return capsys.readouterr().err


def test_mistakes_on_the_command_line_are_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = tmp_path / "model"
    model.mkdir()
    (model / "saved_model.pb").write_bytes(b"")
    there = ["--model", str(model), "--output", str(tmp_path / "new")]
    assert "--to fais: the nearest is 'faiss' of faiss, vertex, parquet" in told(
        capsys, *there, "--to", "fais"
    )
    wrong = told(capsys, *there, "--to", "faiss", "--index", "hnws")
    assert "--index hnws: the nearest is 'hnsw' of flat, ivfpq, hnsw" in wrong
    assert "--index is for --to faiss" in told(capsys, *there, "--to", "parquet", "--index", "flat")
    assert "--recall is for --to faiss" in told(capsys, *there, "--to", "vertex", "--recall", ".9")
    assert "--recall 1.2: give a share" in told(capsys, *there, "--to", "faiss", "--recall", "1.2")
    assert "-k 0: give at least 1" in told(capsys, *there, "--to", "faiss", "-k", "0")
    there[-1] = str(model)
    assert f"{model} exists already" in told(capsys, *there, "--to", "faiss")
    nowhere = ["--model", str(tmp_path / "nowhere"), "--output", str(tmp_path / "new"), "--to", "faiss"]
    assert "holds no served model" in told(capsys, *nowhere)


def test_embeddings_that_say_nothing_are_refused(vectors: Vectors) -> None:
    broken = vectors.embedding.copy()
    broken[7] = np.nan
    item = vectors.item_id[7]
    with pytest.raises(UserError, match=f"1 of 1,500 items are not finite numbers, such as item {item}"):
        Vectors(vectors.item_id, broken, {}).check()
    broken[7] = 0  # one item without known features
    Vectors(vectors.item_id, broken, {}).check()
    with pytest.raises(UserError, match="embeddings of all 1,500 items are zero"):
        Vectors(vectors.item_id, 0 * broken, {}).check()
    with pytest.raises(UserError, match="catalog is empty"):
        Vectors(vectors.item_id[:0], broken[:0], {}).check()
    with pytest.raises(UserError, match=f"item {item} more than once"):
        Vectors(np.full(ITEMS, item), vectors.embedding, {}).check()
    vectors.check()


def test_a_k_above_the_catalog_is_told_and_the_default_is_all_of_it(tmp_path: Path) -> None:
    few = clustered(30)
    queries = items_as_queries(few)
    assert "items" in queries.source
    with pytest.raises(UserError, match="-k 31: the catalog has 30 items"):
        write_checked(few, queries, "faiss", str(tmp_path / "1"), "hnsw", k=31)
    assert write_checked(few, queries, "faiss", str(tmp_path / "2"))["check"]["k"] == 30
