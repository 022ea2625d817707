"""The page's files and its own calls, without a browser; with one: test_page.py."""

import json
import re
from collections.abc import Iterator
from typing import Any

import pytest
from helpers import BANDAGE, CAT, PICTURES

pytest.importorskip("fastapi", reason="the service needs the extra serve")

from fastapi.testclient import TestClient
from service_client import b64, client_of, form, sentence

from engine import Explainer, Rise
from engine.render.view import view

FEW = {"masks": 384}


@pytest.fixture(scope="module")
def client(demo: Explainer) -> Iterator[TestClient]:
    with client_of(demo) as found:
        yield found


def events(answer: Any) -> list[tuple[str, dict[str, Any]]]:
    """Kinds and data of server-sent events."""
    assert answer.status_code == 200, answer.text
    return [(kind, json.loads(data)) for kind, data in re.findall(r"event: (\w+)\ndata: (.*)\n\n", answer.text)]


def test_the_policy_lets_nothing_else_run(client: TestClient) -> None:
    page = client.get("/")
    policy = page.headers["content-security-policy"]
    assert "unsafe" not in policy
    assert policy.startswith("default-src 'none'; script-src 'self'")
    assert not re.search(r"\sstyle=|\son\w+=|<style|<script>|https?://", page.text)
    for name in ("component.css", "page.css", "component.js", "calls.js", "pickers.js", "page.js"):
        assert f'"/page/{name}"' in page.text
        kind = "javascript" if name.endswith(".js") else "css"
        assert kind in client.get(f"/page/{name}").headers["content-type"]
    for name in ("page.py", "page.html", "pictures/nobody.png"):
        assert "open /" in sentence(client.get(f"/page/{name}"), 404)


def test_the_gallery_has_the_pictures_of_the_demo(client: TestClient, demo: Explainer) -> None:
    about = client.get("/v1/page").json()
    assert about["gallery"] == sorted(file.name for file in PICTURES.iterdir())
    assert (about["model"], about["conditions"], about["index"]) == ("emoji demo", [], False)
    for name in about["gallery"]:
        assert client.get(f"/page/pictures/{name}").content == (PICTURES / name).read_bytes()


def test_events_bring_the_pictures_once_and_the_last_is_kept(client: TestClient, demo: Explainer) -> None:
    found = events(client.post("/v1/page/explain", **form({"mode": "pair", **FEW})))
    assert [kind for kind, _ in found] == ["map", "map", "explanation"]
    first, second, last = (data for _, data in found)
    assert all(side["picture"] for side in first["view"]["sides"])
    assert not any(side["picture"] for side in (*second["view"]["sides"], *last["view"]["sides"]))
    assert first["view"]["passes"] < second["view"]["passes"] == last["view"]["passes"]
    assert (first["id"], second["id"]) == (None, None)
    kept = client.get(f"/v1/page/explanations/{last['id']}").json()
    assert [side["map"] for side in kept["sides"]] == [side["map"] for side in last["view"]["sides"]]
    assert all(side["picture"] for side in kept["sides"])
    assert client.get(f"/v1/explanations/{last['id']}.png").status_code == 200
    direct = demo.explain(*CAT, Rise(masks=384), mode="pair")
    assert last["view"]["groups"] == view(direct)["groups"]
    assert "no explanation with this id" in sentence(client.get("/v1/page/explanations/nobody"), 404)


def test_what_does_not_refine_has_one_map(client: TestClient) -> None:
    for options in ({"rather_than": b64(BANDAGE[0]), **FEW}, {"method": "window"}):
        found = events(client.post("/v1/page/explain", **form(options)))
        assert [kind for kind, _ in found] == ["map", "explanation"]
    assert "one reference, got 2" in sentence(client.post("/v1/page/explain", **form(FEW, references=CAT)), 422)


def test_the_page_is_open_and_what_it_asks_is_not(demo: Explainer) -> None:
    with client_of(demo, keys=(b"0" * 32,)) as client:
        for path in ("/", "/page/page.js", "/page/pictures/cat-noto.png"):
            assert client.get(path).status_code == 200
        for path in ("/v1/page", "/v1/page/explanations/nobody", "/pages/page.js"):
            assert "a key is needed" in sentence(client.get(path), 401)
        assert "a key is needed" in sentence(client.post("/v1/page/explain", **form(FEW)), 401)
