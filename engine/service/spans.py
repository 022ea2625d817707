"""OpenTelemetry spans of what is done for a request, where its API is in the process already; nothing is exported unless
whoever runs it has set up an exporter.
"""

import contextlib
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

SCOPE = "sane-engine"


def stage_spans() -> Callable[[str, float], None]:
    """Return what makes a span of a stage that has just ended, given its seconds: a child of the span that is current now.

    Spans are made later, by other threads, which have no current span of their own.
    """
    trace = _api()
    if trace is None:
        return lambda _stage, _seconds: None
    parent = trace.set_span_in_context(trace.get_current_span())

    def ended(stage: str, seconds: float) -> None:
        end = time.time_ns()
        span = trace.get_tracer(SCOPE).start_span(stage, context=parent, start_time=end - round(seconds * 1e9))
        span.end(end)

    return ended


@contextlib.contextmanager
def request_span(method: str) -> Iterator[Callable[[str, int], None]]:
    """Give a request a span; call what is yielded with its route and status at its end."""
    trace = _api()
    if trace is None:
        yield lambda _route, _status: None
        return
    with trace.get_tracer(SCOPE).start_as_current_span(method, kind=trace.SpanKind.SERVER) as span:

        def ended(route: str, status: int) -> None:
            span.update_name(f"{method} {route}")
            span.set_attributes({"http.request.method": method, "http.route": route, "http.response.status_code": status})

        yield ended


def _api() -> Any:
    """Return `opentelemetry.trace` if somebody has imported it, as whatever sets up an exporter does."""
    return sys.modules.get("opentelemetry.trace")
