"""Errors in one sentence."""

import traceback
from collections.abc import Sequence
from concurrent.futures import Future
from typing import Any

from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException

from engine.errors import ImageError, OptionError
from engine.service.limits import Refused
from engine.service.log import log
from engine.service.tickets import Cancelled

SENTENCES = {
    400: "the body cannot be read: send what its Content-Type says",
    404: "there is nothing at this path: /openapi.json lists the calls",
    405: "this path has no such method: /openapi.json lists the calls",
}
"""For what the framework refuses."""
CLIENT_GONE = 499
"""As nginx logs it; nobody reads the answer."""


def status_and_sentence(error: BaseException) -> tuple[int, str]:
    """What an error of a request means: the status of HTTP, and what to tell the client."""
    if isinstance(error, Refused):
        return error.status_code, error.detail
    if isinstance(error, HTTPException) and "maximum size" in str(error.detail):  # of a part of a form, by the framework
        return 413, "the options of a form may have 1 MiB: send more as JSON to :explain"
    if isinstance(error, HTTPException):
        return error.status_code, SENTENCES.get(error.status_code, error.detail)
    if isinstance(error, RequestValidationError):
        return 422, sentence_of(error.errors())
    if isinstance(error, (ImageError, OptionError)):
        return 422, str(error)
    if isinstance(error, Cancelled):
        return CLIENT_GONE, "the client went away"
    return 500, "something is wrong with this server: its log says what"


def log_fault(future: "Future[Any]") -> None:
    """Say in the log why work that nobody waits for failed, unless its sentence says it."""
    error = None if future.cancelled() else future.exception()
    if error is not None and status_and_sentence(error)[0] == 500:
        log("fault", traceback="".join(traceback.format_exception(error)))


def sentence_of(errors: Sequence[Any], root: str = "") -> str:
    """Say in one sentence what is wrong first, without repeating what was sent."""
    first = errors[0]
    where = root
    for part in first["loc"]:
        where += f"[{part}]" if isinstance(part, int) else f".{part}" if where else str(part)
    where = where.removeprefix("body.").replace("body", "the body", 1) if where.startswith("body") else where
    more = f" (and {len(errors) - 1} more)" if len(errors) > 1 else ""
    message = first["msg"].removeprefix("Value error, ")
    return f"{where or 'the body'}: {message[:1].lower()}{message[1:]}{more}; /openapi.json says what this call takes"
