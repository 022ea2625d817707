"""Around every request: its id, one line of JSON about it, its numbers, and headers that keep browsers careful."""

import json
import re
import secrets
import time
import traceback

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from engine.service.log import log
from engine.service.service import Service
from engine.service.spans import request_span

REQUEST_ID = re.compile(r"[\w.-]{1,64}", re.ASCII)
SECURITY = {
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "referrer-policy": "no-referrer",
    "cross-origin-resource-policy": "same-origin",
    "content-security-policy": "default-src 'none'; frame-ancestors 'none'",
    "cache-control": "no-store",
}


class Journal:
    """Wraps an application; what it raises becomes a 500 that names the line of the log."""

    def __init__(self, app: ASGIApp, service: Service) -> None:
        self._app, self._service = app, service

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        began, status = time.perf_counter(), 0
        own_id = _request_id(scope)

        async def told(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                present = {name.lower() for name, _ in message["headers"]}
                added = {**SECURITY, "x-request-id": own_id}
                more = [(k.encode(), v.encode()) for k, v in added.items() if k.encode() not in present]
                message = {**message, "headers": [*message["headers"], *more]}
            await send(message)

        with request_span(scope["method"]) as end_span:
            try:
                await self._app(scope, receive, told)
            except Exception:
                log("fault", id=own_id, traceback=traceback.format_exc())
                if status == 0:
                    await _send_fault(told, own_id)
            finally:
                seconds = time.perf_counter() - began
                route = getattr(scope.get("route"), "path", "none")
                self._service.metrics.answered(route, status, seconds)
                log("request", id=own_id, method=scope["method"], route=route, status=status, ms=round(1000 * seconds, 1))
                end_span(route, status)


def _request_id(scope: Scope) -> str:
    given = dict(scope["headers"]).get(b"x-request-id", b"").decode("latin-1")
    return given if REQUEST_ID.fullmatch(given) else secrets.token_hex(8)


async def _send_fault(send: Send, own_id: str) -> None:
    content = json.dumps({"error": f"something is wrong with this server: its log says what, under {own_id}"}).encode()
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(content)).encode())]
    await send({"type": "http.response.start", "status": 500, "headers": headers})
    await send({"type": "http.response.body", "body": content})
