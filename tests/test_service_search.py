"""Searches and explanations of rows over HTTP are those of the index, and what is no row is said to be none."""

import io
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers import CAT, error_line, exit_status
from PIL import Image

pytest.importorskip("fastapi", reason="the service needs the extra serve")
pytest.importorskip("lance", reason="needs pylance, of the extra `index`")

from fastapi.testclient import TestClient
from service_client import b64, client_of, form, sentence

from engine import Explainer, OptionError, Rise
from engine.index import Index
from engine.index.outside import ROW_IS_QUERY
from engine.saliency.tile_means import tile_means
from engine.serve import main
from engine.service.limits import Limits
from engine.service.opening import open_index

CATS = ("noto/cat.png", "twemoji/cat.png")


@pytest.fixture(scope="module")
def index(demo: Explainer, demo_index: Path) -> Index:
    return Index.open(demo_index, demo)


@pytest.fixture(scope="module")
def client(demo: Explainer, demo_index: Path) -> Iterator[TestClient]:
    with client_of(demo, Limits(references=6), index=demo_index) as found:
        yield found


def searched(client: TestClient, options: object) -> list[dict[str, Any]]:
    answer = client.post("/v1/search", **form(options, references=()))
    assert answer.status_code == 200, answer.text
    return list(answer.json()["matches"])


def explained(client: TestClient, **body: object) -> list[dict[str, Any]]:
    answer = client.post("/v1/models/emoji demo:explain", json={"instances": [body]})
    assert answer.status_code == 200, answer.text
    return list(answer.json()["explanations"][0])


def named(id_: str) -> dict[str, str]:
    return {"id": id_}


def test_the_model_says_what_its_index_has(client: TestClient) -> None:
    assert client.get("/v1/models/emoji demo").json()["index"] == {"rows": 8, "thumbnails": True}


def test_a_row_is_searched_for_by_its_id(client: TestClient, index: Index) -> None:
    found = client.get("/v1/search", params={"id": CATS[0], "k": 3}).json()["matches"]
    wanted = index.search(CATS[0], 3)
    assert [(one["id"], one["similarity"]) for one in found] == [(one.id, one.similarity) for one in wanted]
    assert found[0]["id"] == CATS[1]
    assert set(found[0]) == {"id", "similarity", "thumbnail"}
    thumbnail = client.get(found[0]["thumbnail"])
    assert thumbnail.headers["content-type"] == "image/jpeg"
    assert Image.open(io.BytesIO(thumbnail.content)).size == (64, 64)


def test_a_picture_a_row_a_prepared_one_and_an_embedding_find_the_same(client: TestClient, index: Index) -> None:
    key = client.post("/v1/prepare", **form({"masks": 256}, references=())).json()["id"]
    vector = index.embeddings([CATS[0]])[0].tolist()
    wanted = [one.id for one in index.search(CAT[0], 3)]
    assert wanted[0] == CATS[0]
    assert [one["id"] for one in searched(client, {"k": 3})] == wanted
    for query in (b64(CAT[0]), named(key), {"embedding": vector}):
        found = client.post("/v1/search", json={"query": query, "k": 3}).json()["matches"]
        assert [one["id"] for one in found] == wanted, query
    by_id = client.post("/v1/search", json={"query": named(CATS[0])}).json()["matches"]
    assert [one["id"] for one in by_id] == [one.id for one in index.search(CATS[0])]


def test_matches_are_explained_as_by_the_index(client: TestClient, index: Index) -> None:
    found = client.get("/v1/search", params={"id": CATS[0], "k": 2, "explain": "true", "top": 2}).json()["matches"]
    for one, match in zip(found, index.search_and_explain(CATS[0], 2, top=2), strict=True):
        wanted, got = match.explanation, one["explanation"]
        assert wanted is not None
        np.testing.assert_allclose(got["saliency"], tile_means(wanted.saliency), rtol=1e-5)
        np.testing.assert_allclose(got["reference_saliency"], tile_means(wanted.reference_saliency), rtol=1e-5)
        assert [a["name"] for a in got["attributes"]] == [a.name for a in wanted.attributes]
        assert client.get(got["files"]["png"]).content.startswith(b"\x89PNG")


def test_a_picture_is_explained_by_the_passes_of_the_index(client: TestClient, index: Index) -> None:
    (found,) = searched(client, {"k": 1, "explain": True, "mode": "fixed", "deadline": 60})
    (wanted,) = index.search_and_explain(CAT[0], 1, mode="fixed")
    assert wanted.explanation is not None
    assert found["explanation"]["passes"] == wanted.explanation.passes
    np.testing.assert_allclose(found["explanation"]["saliency"], tile_means(wanted.explanation.saliency), rtol=1e-5)


def test_what_another_search_found_keeps_its_order(client: TestClient, index: Index) -> None:
    ids = ["noto/bandage.png", "from/elsewhere", CATS[1]]
    found = client.post("/v1/annotate", json={"query": named(CATS[0]), "ids": ids}).json()["explanations"]
    wanted = index.annotate(CATS[0], ids)
    assert [one and one["similarity"] for one in found] == [one and one.similarity for one in wanted]
    by_file = client.post("/v1/annotate", **form({"ids": ids, "mode": "fixed"}, references=())).json()["explanations"]
    assert by_file[1] is None
    assert by_file[2]["reference_saliency"] is None
    assert by_file[2]["similarity"] == pytest.approx(found[2]["similarity"], abs=1e-5)


def test_rows_stand_for_pictures_in_explanations(client: TestClient, index: Index, demo: Explainer) -> None:
    (of_rows,) = explained(client, query=named(CATS[0]), references=[named(CATS[1])], mode="pair")
    (wanted,) = index.explain(CATS[0], [CATS[1]])
    np.testing.assert_allclose(of_rows["reference_saliency"], tile_means(wanted.reference_saliency), rtol=1e-5)
    (of_picture,) = explained(client, query=b64(CAT[0]), references=[named(CATS[1])], masks=256)
    direct = demo.explain(*CAT, Rise(masks=256))
    np.testing.assert_allclose(of_picture["saliency"], tile_means(direct.saliency), rtol=1e-3, atol=1e-6)
    (outside,) = explained(client, query=named(CATS[0]), references=[b64(CAT[1])], rather_than=named("noto/bandage.png"))
    (told,) = index.explain(CATS[0], [CAT[1]], mode="fixed", rather_than="noto/bandage.png")
    assert outside["rather_than_similarity"] == told.rather_than_similarity
    key = client.post("/v1/prepare", **form({"masks": 256}, references=())).json()["id"]
    (of_prepared,) = explained(client, query=named(key), references=[named(CATS[1])])
    assert of_prepared["saliency"] == of_picture["saliency"]
    row = client.post("/v1/models/emoji demo:predict", json={"instances": [named(CATS[1])]}).json()["predictions"][0]
    np.testing.assert_array_equal(np.float32(row), index.embeddings([CATS[1]])[0])


def test_a_row_that_is_masked_for_an_embedding_is_said_to_be(client: TestClient, index: Index) -> None:
    vector = {"embedding": index.embeddings([CATS[1]])[0].tolist()}
    (wanted,) = explained(client, query=named(CATS[0]), references=[vector])  # the same with its sides named
    (of_row,) = explained(client, query=vector, references=[named(CATS[0])])
    (searched_for,) = client.post("/v1/annotate", json={"query": vector, "ids": [CATS[0]]}).json()["explanations"]
    for found in (of_row, searched_for):
        assert found["saliency"] == wanted["saliency"]
        assert (found["mode"], found["reference_saliency"], found["notes"][0]) == ("fixed", None, ROW_IS_QUERY)
    assert ROW_IS_QUERY not in wanted["notes"]
    assert ROW_IS_QUERY in client.get(of_row["files"]["html"]).text


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"masks": 256}, "masks cannot change"),
        ({"method": "mask"}, "method mask learns a mask"),
        ({"mode": "both"}, "explains in mode fixed or pair, got 'both'"),
        ({"ranking": "sane"}, "ranking joint, not sane"),
        ({"condition": "shoe"}, "condition"),
        ({"mode": "pair", "rather_than": named(CATS[1])}, "rather_than"),
        ({"references": [named(CATS[1]), b64(CAT[1])]}, "in two calls"),
        ({"references": [named("nobody")]}, "there is no row with this id"),
    ],
)
def test_what_rows_cannot_do_is_said(client: TestClient, changes: dict[str, Any], said: str) -> None:
    body = {"query": named(CATS[0]), "references": [named(CATS[1])], **changes}
    answer = client.post("/v1/models/emoji demo:explain", json={"instances": [body]})
    assert said in sentence(answer, 404 if "no row" in said else 422)


def test_what_cannot_be_searched_for_is_said(client: TestClient) -> None:
    assert "there is no row with this id" in sentence(client.get("/v1/search?id=nobody"), 404)
    assert "there is no row with this id" in sentence(client.get("/v1/thumbnail?id=nobody"), 404)
    assert "query.id: field required" in sentence(client.get("/v1/search"), 422)
    assert "query.k" in sentence(client.get("/v1/search", params={"id": CATS[0], "k": 0}), 422)
    assert "k = 7" in sentence(client.get("/v1/search", params={"id": CATS[0], "k": 7, "explain": True}), 413)
    assert "at most 6 ids" in sentence(client.post("/v1/annotate", json={"query": named(CATS[0]), "ids": ["x"] * 7}), 413)
    for path in ("/v1/search", "/v1/annotate"):
        asked = {"ids": ["x"]} if path == "/v1/annotate" else {}
        assert "a query is needed" in sentence(client.post(path, json=asked), 422)
        assert "sent twice" in sentence(client.post(path, **form({**asked, "query": named("x")}, references=())), 422)
        assert "not a readable picture" in sentence(client.post(path, **form(asked, Path(__file__), ())), 422)
        assert "application/json" in sentence(client.post(path, content=b"x", headers={"content-type": "text/plain"}), 415)
        sentence(client.post(path, content=b"[" * 90_000, headers={"content-type": "application/json"}), 422)
        sentence(client.post(path, content=b"x", headers={"content-type": "multipart/form-data; boundary=b"}), 400)
        assert "send them as such" in sentence(client.post(path, files={"options": b"{}"}), 422)
        assert "send them as such" in sentence(client.post(path, files={"x": b""}, data={"query": "x"}), 422)


def test_without_an_index_or_thumbnails_that_is_said(demo: Explainer, demo_index: Path, tmp_path: Path) -> None:
    with client_of(demo) as client:
        assert "started with --index" in sentence(client.get("/v1/search?id=x"), 404)
        assert "started with --index" in sentence(client.post("/v1/annotate", json={"query": named("x"), "ids": ["x"]}), 404)
    folder = tmp_path / "pictures"
    folder.mkdir()
    for file in CAT:
        shutil.copy(file, folder)
    Index.build(tmp_path / "index", demo, folder, method=Rise(masks=64))
    with client_of(demo, index=tmp_path / "index") as client:
        assert "no thumbnails" in sentence(client.get("/v1/thumbnail", params={"id": CAT[0].name}), 404)
        (match,) = client.get("/v1/search", params={"id": CAT[0].name, "explain": 1}).json()["matches"]
        assert match["thumbnail"] is None
        shutil.rmtree(folder)
        gone = sentence(client.get(match["explanation"]["files"]["png"]), 422)
        assert "has changed or is gone" in gone
        assert str(tmp_path) not in gone


def test_an_index_that_would_fetch_pictures_is_refused(demo: Explainer, tmp_path: Path, demo_index: Path) -> None:
    listed = tmp_path / "listed.csv"
    listed.write_text(f"id,url\ncat,file://{CAT[0].absolute()}\n")
    Index.build(tmp_path / "index", demo, listed, method=Rise(masks=64))
    with pytest.raises(OptionError, match="makes no request of its own"):
        open_index(tmp_path / "index", demo)
    Index.build(tmp_path / "kept", demo, listed, method=Rise(masks=64), thumbnails=True)
    assert len(open_index(tmp_path / "kept", demo)) == 1


def test_a_folder_that_is_no_index_is_one_line(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    for workers in ("1", "2"):
        assert exit_status(main, ["--port", "0", "--index", str(tmp_path), "--workers", workers]) == 2
        assert "index" in error_line(capsys)


def test_the_examples_of_the_document_are_of_the_right_kind(client: TestClient) -> None:
    document = client.get("/openapi.json").json()
    for path in ("/v1/search", "/v1/annotate"):
        content = document["paths"][path]["post"]["requestBody"]["content"]
        assert set(content) == {"application/json", "multipart/form-data"}
        schema = content["application/json"]["schema"]
        assert set(schema["example"]) <= set(schema["properties"])
        for reference in [one for one in json.dumps(schema).split('"') if one.startswith("#/")]:
            assert reference.removeprefix("#/components/schemas/") in document["components"]["schemas"]
