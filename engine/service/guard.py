"""Before a request is read: is it allowed in, and is its body small enough?"""

import asyncio
import hashlib
import hmac
import time
from pathlib import Path

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from engine.errors import OptionError
from engine.service.limits import Refused
from engine.service.replies import error_reply
from engine.service.service import Service

OPEN = ("/healthz", "/v2/health/live", "/v2/health/ready", "/")
"""What probes ask without a key; and the page, which asks for one."""
PAGE_FILES = "/page/"
"""Its files, which are the same for everybody."""
LEAST_KEY = 16


class Guard:
    """Wraps an application. keys: digests of the keys that open it; none: it is open"""

    def __init__(self, app: ASGIApp, service: Service, keys: tuple[bytes, ...]) -> None:
        self._app, self._service, self._keys = app, service, keys
        self._open = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        try:
            self._require_allowed(scope)
        except Refused as refused:
            await error_reply(refused)(scope, receive, send)
            return
        posts = scope["method"] == "POST"
        self._open += posts
        try:
            await self._app(scope, self._counted(receive), send)
        finally:
            self._open -= posts

    def _counted(self, receive: Receive) -> Receive:
        """Receive a body that ends in time and has no more bytes than allowed; else raise Refused."""
        limits, left, more = self._service.limits, self._service.limits.body_bytes, True
        until = time.monotonic() + limits.seconds

        async def counted() -> Message:
            nonlocal left, more
            if not more:  # only the end of the connection is left to wait for
                return await receive()
            try:
                message = await asyncio.wait_for(receive(), max(until - time.monotonic(), 0))
            except TimeoutError:
                raise Refused(408, f"the body did not come within {limits.seconds} s: send it at once") from None
            more = message.get("more_body", False)
            left -= len(message.get("body", b""))
            if left < 0:
                raise self._too_large()
            return message

        return counted

    def _require_allowed(self, scope: Scope) -> None:
        headers = Headers(scope=scope)
        is_open = scope["path"] in OPEN or scope["path"].startswith(PAGE_FILES)
        if self._keys and not is_open and not self._opens(headers.get("authorization", "")):
            raise Refused(401, "a key is needed: send the header Authorization: Bearer KEY")
        if self._service.draining and scope["method"] == "POST":
            raise Refused(503, "this server is ending: send the request to another one", 1)
        most = self._service.limits.most_at_once
        if scope["method"] == "POST" and self._open >= most:
            raise Refused(429, f"{most} requests are being sent already: send it again later", 1)
        length = headers.get("content-length", "0")
        if length.isdecimal() and int(length[:20]) > self._service.limits.body_bytes:
            raise self._too_large()

    def _opens(self, authorization: str) -> bool:
        scheme, _, key = authorization.partition(" ")
        given = hashlib.sha256(key.strip().encode()).digest()
        found = [hmac.compare_digest(given, own) for own in self._keys]  # every one, so that time tells nothing
        return scheme.lower() == "bearer" and any(found)

    def _too_large(self) -> Refused:
        return Refused(413, f"a request may have {self._service.limits.body_bytes:,} bytes: send fewer or smaller pictures")


def read_keys(file: Path) -> tuple[bytes, ...]:
    """Return the digests of the keys in a file, one a line. Raises OptionError."""
    try:
        keys = [line.strip() for line in file.read_text().splitlines() if line.strip()]
    except (OSError, UnicodeDecodeError) as error:
        raise OptionError(
            f"cannot read the keys in {file}: {getattr(error, 'strerror', None) or 'it is not text'}"
        ) from error
    if not keys or min(map(len, keys)) < LEAST_KEY:
        raise OptionError(f"{file} must have a key of at least {LEAST_KEY} characters on each line")
    return tuple(hashlib.sha256(key.encode()).digest() for key in keys)
