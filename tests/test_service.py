"""The service answers what the engine answers, by every protocol that it speaks."""

import io
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from helpers import BANDAGE, CAT
from PIL import Image

pytest.importorskip("fastapi", reason="the service needs the extra serve")

from fastapi.testclient import TestClient
from service_client import b64, client_of, form, sentence, service_of_client

from engine import Explainer, Explanation, Rise
from engine.saliency.tile_means import tile_means

EXPLAIN = "/v1/models/emoji demo:explain"
PREDICT = "/v1/models/emoji demo:predict"


@pytest.fixture(scope="module")
def client(demo: Explainer) -> Iterator[TestClient]:
    with client_of(demo) as found:
        yield found


def test_an_instance_is_explained_as_by_the_engine(client: TestClient, demo: Explainer) -> None:
    instance = {"query": b64(CAT[0]), "references": [b64(CAT[1]), b64(BANDAGE[0])], "masks": 300, "top": 3}
    ((first, second),) = client.post(EXPLAIN, json={"instances": [instance]}).json()["explanations"]
    direct = demo.explain_many(CAT[0], [CAT[1], BANDAGE[0]], Rise(masks=300), top=3)
    for got, wanted in zip((first, second), direct, strict=True):
        assert got["similarity"] == wanted.similarity
        assert [a["name"] for a in got["attributes"]] == [a.name for a in wanted.attributes]
        np.testing.assert_allclose(got["saliency"], tile_means(wanted.saliency), rtol=1e-5)
        np.testing.assert_allclose(got["saliency_error"], wanted.saliency_error, rtol=1e-5)
        assert (got["passes"], got["reference_saliency"]) == (wanted.passes, None)


def test_predictions_are_embeddings_and_references_may_be_those(client: TestClient, demo: Explainer) -> None:
    (row,) = client.post(PREDICT, json={"instances": [b64(CAT[1])]}).json()["predictions"]
    np.testing.assert_array_equal(np.float32(row), demo.embed([CAT[1]])[0])
    answer = client.post("/v1/explain", **form({"references": [{"embedding": row}], "masks": 256}, references=()))
    (found,) = answer.json()["explanations"]
    assert found["similarity"] == pytest.approx(demo.explain(CAT[0], CAT[1], Rise(masks=256)).similarity, abs=1e-6)


def test_every_kind_of_file_of_an_explanation(client: TestClient, demo: Explainer, tmp_path: Path) -> None:
    (found,) = client.post("/v1/explain", **form({"mode": "pair", "masks": 256})).json()["explanations"]
    direct = demo.explain(CAT[0], CAT[1], Rise(masks=256), mode="pair")
    files = {kind: client.get(path) for kind, path in found["files"].items()}
    assert Image.open(io.BytesIO(files["png"].content)).format == "PNG"
    assert "<!doctype html>" in files["html"].text
    assert "sandbox" in files["html"].headers["content-security-policy"]
    assert files["json"].json()["similarity"] == direct.similarity
    saved = tmp_path / "explanation.npz"
    saved.write_bytes(files["npz"].content)
    np.testing.assert_array_equal(Explanation.load(saved).reference_saliency, direct.reference_saliency)
    assert len(found["links"]) == len(direct.links or ())
    assert "no explanation with this id" in sentence(client.get("/v1/explanations/nobody.png"), 404)


def test_a_prepared_query_is_explained_without_passes(
    client: TestClient, demo: Explainer, monkeypatch: pytest.MonkeyPatch
) -> None:
    prepared = client.post("/v1/prepare", **form({"masks": 256}, references=())).json()
    assert prepared["passes"] == 256
    vector = demo.embed([CAT[1]])[0].tolist()
    monkeypatch.setattr(type(demo.model.similarity), "run", lambda *_: pytest.fail("the network ran"))
    instance = {"query": {"id": prepared["id"]}, "references": [{"embedding": vector}]}
    ((found,),) = client.post(EXPLAIN, json={"instances": [instance]}).json()["explanations"]
    assert found["similarity"] == pytest.approx(0.92, abs=0.05)


def test_ids_stand_for_pictures_in_every_mode(client: TestClient, demo: Explainer) -> None:
    query, reference = (
        client.post("/v1/prepare", **form({"masks": 256}, query=file, references=())).json()["id"] for file in CAT
    )
    direct = demo.prepare(CAT[0], Rise(masks=256)).explain(demo.prepare(CAT[1], Rise(masks=256)), mode="pair")
    for other in ({"id": reference}, b64(CAT[1])):
        body = {"instances": [{"query": {"id": query}, "references": [other], "mode": "pair"}]}
        ((found,),) = client.post(EXPLAIN, json=body).json()["explanations"]
        np.testing.assert_allclose(found["reference_saliency"], tile_means(direct.reference_saliency), rtol=1e-5)
    told = {"query": {"id": query}, "references": [{"id": reference}], "rather_than": b64(BANDAGE[0])}
    ((found,),) = client.post(EXPLAIN, json={"instances": [told]}).json()["explanations"]
    wanted = demo.prepare(CAT[0], Rise(masks=256)).explain(CAT[1], rather_than=BANDAGE[0])
    assert found["rather_than_similarity"] == pytest.approx(wanted.rather_than_similarity, abs=1e-6)
    np.testing.assert_allclose(found["saliency"], tile_means(wanted.saliency), rtol=1e-3, atol=1e-6)


def test_what_was_decided_when_a_query_was_prepared_cannot_change(client: TestClient) -> None:
    key = client.post("/v1/prepare", **form({"masks": 256}, references=())).json()["id"]
    body = {"query": {"id": key}, "masks": 512}
    assert "masks cannot change" in sentence(client.post("/v1/explain", **form(body, query=None)), 422)


def test_models_and_health(client: TestClient, demo: Explainer) -> None:
    assert client.get("/v1/models").json() == {"models": ["emoji demo"]}
    described = client.get("/v1/models/emoji demo").json()
    assert described["ready"]
    assert described["identity"] == demo.model.bundle.identity
    assert described["methods"] == list(demo.methods)
    assert client.get("/v2/health/live").json() == client.get("/healthz").json() == {"live": True}
    assert client.get("/v2/health/ready").json() == {"ready": True}
    assert client.get("/v2/models/emoji demo/ready").json() == {"name": "emoji demo", "ready": True}
    metadata = client.get("/v2/models/emoji demo").json()
    assert metadata["outputs"][0]["shape"] == [-1, demo.model.manifest.embedding]
    assert "no model 'other'" in sentence(client.get("/v1/models/other"), 404)


def test_a_reload_keeps_answering_and_forgets_what_the_old_bundle_prepared(client: TestClient) -> None:
    key = client.post("/v1/prepare", **form({"masks": 16}, references=())).json()["id"]
    service_of_client(client).reload()
    assert "no prepared picture" in sentence(client.post("/v1/explain", **form({"query": {"id": key}}, query=None)), 404)
    assert client.post("/v1/explain", **form({"masks": 16})).status_code == 200


def test_the_document_describes_every_call_and_names_no_other_site(client: TestClient) -> None:
    document = client.get("/openapi.json")
    assert {"/v1/explain", "/v1/models/{name}:explain", "/v2/health/ready"} <= set(document.json()["paths"])
    assert "http" not in document.text.replace("httpx", "")
    for calls in document.json()["paths"].values():
        for call in calls.values():
            assert call["responses"]["4XX"]["content"]["application/json"]["schema"]["$ref"].endswith("/Failure")
            whole = next(answer for status, answer in call["responses"].items() if status in ("200", "202"))
            assert whole["content"].get("application/json", {}).get("schema", {}).get("type") != "string"
    assert client.get("/docs").status_code == client.get("/redoc").status_code == 404
