"""Spans of requests and their stages, where OpenTelemetry is set up; without it nothing of it is imported."""

from pathlib import Path

import pytest

pytest.importorskip("fastapi", reason="the service needs the extra serve")

from helpers import python
from service_client import client_of, form

from engine import Explainer


def test_a_request_is_a_span_with_its_stages_below(demo: Explainer, monkeypatch: pytest.MonkeyPatch) -> None:
    sdk = pytest.importorskip("opentelemetry.sdk.trace", reason="opentelemetry-sdk is not installed")
    export = pytest.importorskip("opentelemetry.sdk.trace.export")
    memory = pytest.importorskip("opentelemetry.sdk.trace.export.in_memory_span_exporter").InMemorySpanExporter()
    provider = sdk.TracerProvider()
    provider.add_span_processor(export.SimpleSpanProcessor(memory))
    monkeypatch.setattr("opentelemetry.trace.get_tracer", provider.get_tracer)
    with client_of(demo) as client:
        (found,) = client.post("/v1/explain", **form({"masks": 64})).json()["explanations"]
        client.get(found["files"]["png"])
        client.get("/nowhere")
    spans = memory.get_finished_spans()
    requests = [span for span in spans if span.parent is None]
    assert [span.name for span in requests] == ["POST /v1/explain", "GET /v1/explanations/{key}.{kind}", "GET none"]
    assert [span.attributes["http.response.status_code"] for span in requests] == [200, 200, 404]
    below = [{span.name for span in spans if span.parent and span.parent.span_id == r.context.span_id} for r in requests]
    assert below == [{"decode", "queue", "network", "algebra"}, {"queue", "render"}, set()]
    for span in spans:
        assert span.start_time <= span.end_time
    assert "cat" not in str([dict(span.attributes) for span in spans])  # nothing of a picture, not even its name


def test_without_it_nothing_of_it_is_imported(tmp_path: Path) -> None:
    (tmp_path / "look.py").write_text(
        "import sys, fastapi, uvicorn, prometheus_client, onnxruntime\n"  # some import it where it is installed
        "before = set(sys.modules)\nimport engine.service.server\n"
        "from engine.service.tickets import Ticket\nfrom engine.service.turns import Turns\n"
        "Ticket(Turns(), None, 1).add('queue', 0.1)\n"
        "print([name for name in set(sys.modules) - before if name.startswith('opentelemetry')])\n"
    )
    done = python(tmp_path / "look.py")
    assert done.stdout == "[]\n", done.stderr
