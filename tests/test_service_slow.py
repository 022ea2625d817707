"""Jobs and events: explanations that take long, while they are made."""

import json
import time
from collections.abc import Iterator
from typing import Any

import pytest
from helpers import BANDAGE, CAT

pytest.importorskip("fastapi", reason="the service needs the extra serve")

from fastapi.testclient import TestClient
from service_client import b64, client_of, form, sentence, service_of_client

from engine import Explainer, Rise
from engine.service.limits import Limits
from engine.service.turns import Turns

EVENTS = {"accept": "text/event-stream"}


@pytest.fixture(scope="module")
def client(demo: Explainer) -> Iterator[TestClient]:
    with client_of(demo, Limits(jobs=2)) as found:
        yield found


def state(client: TestClient, key: str, *until: str) -> dict[str, Any]:
    for _ in range(3000):
        found = client.get(f"/v1/jobs/{key}").json()
        if found["status"] in until:
            return dict(found)
        time.sleep(0.01)
    pytest.fail(f"the job is {found}")


def instance(**changes: object) -> dict[str, object]:
    return {"query": b64(CAT[0]), "references": [b64(CAT[1])], "masks": 256, **changes}


def events(text: str) -> list[tuple[str, dict[str, Any]]]:
    parts = [part.split("\n") for part in text.removesuffix("\n\n").split("\n\n")]
    return [(kind.removeprefix("event: "), json.loads(data.removeprefix("data: "))) for kind, data in parts]


def test_a_job_is_accepted_then_done(client: TestClient, demo: Explainer) -> None:
    accepted = client.post("/v1/jobs", json=instance())
    assert accepted.status_code == 202
    assert accepted.headers["location"] == f"/v1/jobs/{accepted.json()['id']}"
    found = state(client, accepted.json()["id"], "done")
    assert found["explanations"][0]["similarity"] == demo.explain(*CAT, Rise(masks=256)).similarity
    assert found["passes"] == found["passes_in_all"] == 256
    assert client.get(found["explanations"][0]["files"]["png"]).status_code == 200


def test_jobs_run_one_after_the_other_can_be_cancelled_and_are_limited(client: TestClient) -> None:
    running, waiting = (client.post("/v1/jobs", json=instance(masks=4000, seed=i)).json()["id"] for i in range(2))
    state(client, running, "running")
    assert client.get(f"/v1/jobs/{waiting}").json()["status"] == "queued"
    assert "send it again later" in sentence(client.post("/v1/jobs", json=instance()), 429)
    assert client.delete(f"/v1/jobs/{waiting}").json()["status"] == "cancelled"
    assert client.delete(f"/v1/jobs/{running}").json()["status"] == "cancelled"
    key = client.post("/v1/jobs", json=instance()).json()["id"]
    assert state(client, key, "done")["passes"] == 256
    stopped = client.get(f"/v1/jobs/{running}").json()
    assert stopped["status"] == "cancelled"
    assert stopped["passes"] < 4000


def test_a_job_that_fails_says_why(client: TestClient) -> None:
    key = client.post("/v1/jobs", json=instance(query={"b64": "aGVsbG8="})).json()["id"]
    assert "not a readable picture" in state(client, key, "failed")["error"]
    assert "no job with this id" in sentence(client.get("/v1/jobs/nobody"), 404)
    sentence(client.post("/v1/jobs", json={}), 422)


def test_events_refine_and_end_with_what_is_kept(client: TestClient, demo: Explainer) -> None:
    response = client.post("/v1/explain", **form({"masks": 640}), headers=EVENTS)
    assert response.headers["content-type"].startswith("text/event-stream")
    found = events(response.text)
    assert [kind for kind, _ in found] == ["map"] * 4 + ["explanation"]
    assert [data["passes"] for _, data in found] == [258, 386, 514, 642, 642]
    reliabilities = [data["saliency_reliability"] for _, data in found]
    assert reliabilities[0] < reliabilities[-1]
    direct = demo.explain(*CAT, Rise(masks=640))
    assert found[-1][1]["saliency_reliability"] == direct.saliency_reliability
    assert "id" not in found[0][1]
    assert client.get(found[-1][1]["files"]["json"]).status_code == 200


def test_events_end_at_the_deadline_and_errors_keep_their_status(client: TestClient) -> None:
    found = events(client.post("/v1/explain", **form({"masks": 4000, "deadline": 0.3}), headers=EVENTS).text)
    assert found[-1][0] == "explanation"
    assert found[-1][1]["passes"] < 4000
    assert "method rise" in sentence(client.post("/v1/explain", **form({"method": "lime"}), headers=EVENTS), 422)
    two = form(references=(CAT[1], BANDAGE[0]))
    assert "one reference" in sentence(client.post("/v1/explain", **two, headers=EVENTS), 422)


def test_an_error_after_the_first_map_is_an_event(
    client: TestClient, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    explainer = service_of_client(client).explainer
    refining = explainer.refining

    def fails(*arguments: Any, **options: Any) -> Any:
        yield next(refining(*arguments, **options))
        raise MemoryError

    monkeypatch.setattr(explainer, "refining", fails)
    found = events(client.post("/v1/explain", **form({"masks": 640}), headers=EVENTS).text)
    assert [kind for kind, _ in found] == ["map", "error"]
    assert "its log says what" in found[1][1]["error"]
    assert "MemoryError" in capsys.readouterr().err


def test_events_share_the_network(client: TestClient, demo: Explainer, monkeypatch: pytest.MonkeyPatch) -> None:
    """While a map refines, others have their turn after every batch."""
    taken: list[int] = []
    take = Turns.take

    def counted(self: Turns, *arguments: Any, **options: Any) -> bool:
        taken.append(1)
        return take(self, *arguments, **options)

    monkeypatch.setattr(Turns, "take", counted)
    client.post("/v1/explain", **form({"masks": 640}), headers=EVENTS)
    assert len(taken) > 640 // demo.model.run_settings.batch
