"""More clients at once than the queue takes: each is answered or told to come again, and what was answered was computed."""

import concurrent.futures
import re
import threading

import pytest

pytest.importorskip("fastapi", reason="the service needs the extra serve")

from helpers import until
from served import Served
from service_client import form

CLIENTS, MASKS, TAKEN = 16, 2000, 5
"""TAKEN: how many the limits below let in at once."""


def test_every_client_is_answered_or_told_to_come_again() -> None:
    together = threading.Barrier(CLIENTS)
    with Served("--limit", "concurrency=1", "--limit", f"queue={TAKEN - 1}", "--threads", "1") as served:

        def ask(seed: int) -> tuple[int, str | None]:
            together.wait(60)
            answer = served.post("/v1/explain", **form({"masks": MASKS, "seed": seed}))
            return answer.status_code, answer.headers.get("retry-after")

        with concurrent.futures.ThreadPoolExecutor(CLIENTS) as clients:
            answers = list(clients.map(ask, range(CLIENTS)))
        assert set(answers) == {(200, None), (429, "1")}
        answered = answers.count((200, None))
        assert answered >= TAKEN
        until(lambda: 'sane_queue_depth{lane="quick"} 0.0' in served.get("/metrics").text)
        text = served.get("/metrics").text
        assert number(text, 'sane_requests_total{route="/v1/explain",status="200"}') == answered
        assert number(text, 'sane_rows_total{kind="masked"}') == MASKS * answered
        assert served.post("/v1/explain", **form({"masks": 16})).status_code == 200


def number(text: str, name: str) -> float:
    found = re.search(rf"^{re.escape(name)} (\S+)$", text, re.MULTILINE)
    assert found is not None, name
    return float(found[1])
