"""Malformed uploads are answered with 4xx and one sentence (`python -m benchmarks.service` sends 10,000 of them)."""

from pathlib import Path

import pytest

pytest.importorskip("fastapi", reason="the service needs the extra serve")
pytest.importorskip("lance", reason="needs pylance, of the extra `index`")

from service_client import client_of

from benchmarks.uploads import malformed
from engine import Explainer


def test_malformed_uploads_are_the_clients_fault(demo: Explainer, demo_index: Path) -> None:
    with client_of(demo, index=demo_index) as client:
        for upload in malformed(300, seed=0):
            answer = client.post(upload.path, content=upload.body, headers={"content-type": upload.content_type})
            assert 400 <= answer.status_code < 500, (upload, answer.text)
            assert list(answer.json()) == ["error"], upload
            assert "\n" not in answer.json()["error"]
