"""What the service refuses, and how it says so: one sentence, the right status, and nothing of a picture in the log."""

import asyncio
import io
import json
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from helpers import CAT, write_broken
from PIL import Image, ImageFile

pytest.importorskip("fastapi", reason="the service needs the extra serve")

from fastapi.testclient import TestClient
from service_client import b64, client_of, form, sentence, service_of_client

from engine import Explainer
from engine.errors import OptionError
from engine.service.app import create_app
from engine.service.guard import read_keys
from engine.service.limits import Limits
from engine.service.service import Service

EXPLAIN = "/v1/models/emoji demo:explain"
SMALL = Limits(body_bytes=100_000, pixels=10_000, instances=2, references=2, masks=512, concurrency=1, queue=0)


@pytest.fixture(scope="module")
def client(demo: Explainer) -> Iterator[TestClient]:
    with client_of(demo, SMALL) as found:
        yield found


def asked(**changes: object) -> dict[str, object]:
    return {"instances": [{"query": b64(CAT[0]), "references": [b64(CAT[1])], "masks": 16, **changes}]}


def test_limits_are_told(client: TestClient) -> None:
    big = io.BytesIO()
    Image.new("L", (101, 100)).save(big, "PNG")
    file = {"query": ("q.png", big.getvalue())}
    assert "at most 10,000 in all" in sentence(client.post("/v1/prepare", files=file), 413)
    assert "100,000 bytes" in sentence(client.post("/v1/prepare", files={"query": ("q", b"x" * 200_000)}), 413)
    assert "at most 2 references" in sentence(client.post(EXPLAIN, json=asked(references=[b64(CAT[1])] * 3)), 413)
    assert "at most 2 references" in sentence(client.post("/v1/explain", **form(references=(CAT[1],) * 3)), 413)
    assert "at most 2 instances" in sentence(client.post(EXPLAIN, json={"instances": asked()["instances"] * 3}), 413)  # type: ignore[operator]
    assert "masks must be at most 512" in sentence(client.post(EXPLAIN, json=asked(masks=513)), 422)


def test_a_body_without_a_length_is_counted_too(client: TestClient) -> None:
    def chunks() -> Iterator[bytes]:
        yield from [b'{"instances": ['] + [b" " * 50_000] * 4

    assert "100,000 bytes" in sentence(
        client.post(EXPLAIN, content=chunks(), headers={"content-type": "application/json"}), 413
    )


def test_a_body_that_does_not_come_is_not_waited_for(demo: Explainer) -> None:
    """Nor do bodies that are on their way take the memory of more requests than the queue takes."""
    service = Service(lambda: demo, Limits(seconds=1, concurrency=1, queue=0, jobs=1))
    app = create_app(service)
    head = [(b"content-type", b"application/json")]
    scope = {"type": "http", "method": "POST", "path": EXPLAIN, "headers": head, "query_string": b"", "root_path": ""}

    async def status_of_one() -> int:
        sent: list[Any] = []

        async def never() -> Any:
            await asyncio.sleep(60)

        async def send(message: Any) -> None:
            sent.append(message)

        await app({**scope, "app": app}, never, send)
        return int(sent[0]["status"])

    async def statuses() -> list[int]:
        return list(await asyncio.gather(*(status_of_one() for _ in range(5))))

    assert sorted(asyncio.run(statuses())) == [408, 408, 408, 429, 429]
    service.close()


def test_a_picture_is_refused_before_it_is_decoded(client: TestClient, monkeypatch: pytest.MonkeyPatch) -> None:
    big = io.BytesIO()
    Image.new("1", (10_000, 5_000)).save(big, "PNG")
    monkeypatch.setattr(ImageFile.ImageFile, "load", lambda _: pytest.fail("it was decoded"))
    assert "pixels" in sentence(client.post("/v1/prepare", files={"query": ("q.png", big.getvalue())}), 413)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"query": {}}, "instances[0].query: give one of b64, id and embedding, got none"),
        ({"query": {"b64": "", "id": "x"}}, "got b64 and id"),
        ({"query": {"b64": "%%"}}, "query.b64 is not base64"),
        ({"query": {"b64": "aGVsbG8="}}, "query is not a readable picture"),
        ({"query": {"b64": ""}}, "query is empty"),
        ({"query": {"embedding": [1.0] * 64}}, "query is an embedding, which cannot be masked"),
        ({"references": []}, "instances[0].references"),
        ({"references": [{"embedding": [1.0, 2.0]}]}, "references[0].embedding must have"),
        ({"references": [{"embedding": ["a"]}]}, "references[0].embedding[0]"),
        ({"method": "magic"}, "instances[0].method"),
        ({"method": "window", "masks": 3}, "masks does not apply to method window"),
        ({"method": "lime", "estimator": "sane"}, "estimator goes with method rise"),
        ({"condition": "shoe"}, "condition"),
        ({"deadline": 0}, "instances[0].deadline"),
        ({"deadline": 1, "method": "window", "masks": None}, "deadline does not apply"),
        ({"nonsense": 1}, "instances[0].nonsense"),
        ({"mode": "pair", "rather_than": {"id": "x"}}, "no prepared picture"),
    ],
)
def test_bad_input_is_answered_with_what_was_wanted(client: TestClient, changes: dict[str, object], said: str) -> None:
    response = client.post(EXPLAIN, json=asked(**changes))
    assert said in sentence(response, 404 if "no prepared" in said else 422)


def test_broken_files_are_answered_with_a_sentence(demo: Explainer, tmp_path: Path) -> None:
    said = {"text": "query is not a readable", "empty": "query is empty", "truncated": "query is not a readable"}
    with client_of(demo) as client:
        for name, file in write_broken(tmp_path).items():
            if file.is_file():
                response = client.post("/v1/explain", **form({"masks": 16}, query=file))
                assert said.get(name, "pixels") in sentence(response, 413 if name == "huge" else 422)


def test_bodies_of_another_kind(client: TestClient) -> None:
    kind = {"content-type": "text/plain"}
    assert "application/json, got text/plain" in sentence(client.post(EXPLAIN, content=b"{}", headers=kind), 415)
    assert "multipart/form-data" in sentence(client.post("/v1/explain", json={}), 415)
    assert "multipart/form-data" in sentence(client.post("/v1/prepare"), 415)
    sentence(client.post(EXPLAIN, content=b"{", headers={"content-type": "application/json"}), 422)
    sentence(client.post(EXPLAIN, content=b"9" * 5000, headers={"content-type": "application/json"}), 400)
    sentence(client.post(EXPLAIN, content=b"[" * 90_000, headers={"content-type": "application/json"}), 400)
    assert "options" in sentence(client.post("/v1/explain", **form([1])), 422)
    assert "a query is needed" in sentence(client.post("/v1/explain", **form(query=None)), 422)
    assert "a reference is needed" in sentence(client.post("/v1/explain", **form(references=())), 422)
    assert "sent twice" in sentence(client.post("/v1/explain", **form({"query": {"id": "x"}})), 422)
    assert "nothing at this path" in sentence(client.get("/v2"), 404)
    assert "no such method" in sentence(client.delete("/v1/models"), 405)
    assert [client.put(path).headers["allow"] for path in ("/v1/jobs/x", "/v1/search")] == ["DELETE, GET", "GET, POST"]
    for wrong in ({"top": False}, {"masks": "16"}, {"deadline": True}):  # of other types, which no JSON schema takes
        assert "a valid" in sentence(client.post(EXPLAIN, json=asked(**wrong)), 422)


def test_names_may_have_half_characters(client: TestClient) -> None:
    sentence(
        client.post(EXPLAIN, content=json.dumps(asked(**{"\ud800": 1})), headers={"content-type": "application/json"}), 422
    )


def test_a_full_queue_says_when_to_come_again(client: TestClient) -> None:
    service = service_of_client(client)
    go_on = threading.Event()
    busy = service.executor.submit(service.executor.accept(), lambda: go_on.wait(30))
    try:
        response = client.post(EXPLAIN, json=asked())
        assert "send it again later" in sentence(response, 429)
        assert response.headers["retry-after"] == "1"
        assert client.post(EXPLAIN, json=asked(deadline=5)).status_code == 200  # has threads of its own
    finally:
        go_on.set()
    busy.result(30)
    assert client.post(EXPLAIN, json=asked()).status_code == 200


def test_a_draining_server_refuses_new_work_and_says_so_to_probes(client: TestClient) -> None:
    service = service_of_client(client)
    service.draining = True
    try:
        response = client.post(EXPLAIN, json=asked())
        assert "is ending" in sentence(response, 503)
        assert response.headers["retry-after"]
        assert client.get("/v2/health/ready").status_code == 503
        assert client.get("/v2/health/live").status_code == 200
    finally:
        service.draining = False


def test_a_key_opens_everything_but_health(demo: Explainer, tmp_path: Path) -> None:
    (tmp_path / "keys").write_text("a-key-of-some-length\nanother-key-of-some-length\n")
    with client_of(demo, keys=read_keys(tmp_path / "keys")) as locked:
        for headers in ({}, {"authorization": "Bearer wrong"}, {"authorization": "Basic a-key-of-some-length"}):
            assert "key is needed" in sentence(locked.get("/v1/models", headers=headers), 401)
        sentence(locked.get("/metrics"), 401)
        assert locked.get("/healthz").status_code == 200
        for key in ("a-key-of-some-length", "another-key-of-some-length"):
            assert locked.get("/v1/models", headers={"authorization": f"Bearer {key}"}).status_code == 200
    (tmp_path / "short").write_text("short")
    with pytest.raises(OptionError, match="16 characters"):
        read_keys(tmp_path / "short")
    with pytest.raises(OptionError, match="cannot read"):
        read_keys(tmp_path / "missing")


def test_other_origins_are_let_in_only_if_named(client: TestClient, demo: Explainer) -> None:
    origin = {"origin": "https://shop.example"}
    assert "access-control-allow-origin" not in client.get("/healthz", headers=origin).headers
    with client_of(demo, cors=("https://shop.example",)) as opened:
        assert opened.get("/healthz", headers=origin).headers["access-control-allow-origin"] == "https://shop.example"
        assert "access-control-allow-origin" not in opened.get("/healthz", headers={"origin": "https://x.example"}).headers


def test_every_answer_is_careful_and_has_an_id(client: TestClient) -> None:
    for response in (client.get("/v1/models"), client.get("/nothing"), client.post(EXPLAIN, json={})):
        assert response.headers["x-content-type-options"] == "nosniff"
        assert response.headers["content-security-policy"].startswith("default-src 'none'")
        assert response.headers["cache-control"] == "no-store"
        assert len(response.headers["x-request-id"]) == 16
    assert client.get("/v1/models", headers={"x-request-id": "mine-1"}).headers["x-request-id"] == "mine-1"
    assert client.get("/v1/models", headers={"x-request-id": "bad id"}).headers["x-request-id"] != "bad id"


def test_the_log_is_json_without_pictures(client: TestClient, capsys: pytest.CaptureFixture[str]) -> None:
    client.post(EXPLAIN, json=asked(), headers={"x-request-id": "seen"})
    client.post(EXPLAIN, json=asked(query={"b64": "secretsecret"}))
    lines = [json.loads(line) for line in capsys.readouterr().err.splitlines()]
    assert [line["status"] for line in lines] == [200, 422]
    assert lines[0]["id"] == "seen"
    assert {"time", "event", "method", "route", "ms"} <= set(lines[0])
    text = json.dumps(lines)
    assert "secretsecret" not in text
    assert b64(CAT[0])["b64"][:40] not in text


def test_a_fault_is_a_sentence_and_its_traceback_is_in_the_log(
    client: TestClient, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(Explainer, "explain_many", lambda *_, **__: 1 / 0)
    response = client.post(EXPLAIN, json=asked())
    assert response.headers["x-request-id"] in sentence(response, 500)
    assert "ZeroDivisionError" in capsys.readouterr().err


def test_limits_are_whole_numbers_with_known_names() -> None:
    assert Limits.of(["references=3", "queue=0"]) == Limits(references=3, queue=0)
    for given in ("references", "references=x", "speed=3", "references=-1"):
        with pytest.raises(OptionError, match="NAME=VALUE"):
            Limits.of([given])
    with pytest.raises(OptionError, match="references must be a whole number from 1"):
        Limits.of(["references=0"])
