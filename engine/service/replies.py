"""What goes back: JSON, and errors as one sentence."""

import json
import traceback
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse
from starlette.routing import Match

from engine.errors import EngineError
from engine.service.log import log
from engine.service.schemas import Failure
from engine.service.sentences import status_and_sentence
from engine.service.tickets import Cancelled

FAILURES: dict[int | str, dict[str, Any]] = {
    "4XX": {"model": Failure, "description": "refused"},
    503: {"model": Failure, "description": "the server ends, or the time was too short"},
}
"""What every call may answer instead, as the document has it."""
VERBS = ("DELETE", "GET", "POST")
"""That calls of the service have."""


class JsonReply(JSONResponse):
    """JSON in ASCII: half a character, which names may have, is escaped as JSON does it."""

    def render(self, content: Any) -> bytes:
        """The bytes."""
        return json.dumps(content, allow_nan=False, separators=(",", ":")).encode()


def error_reply(error: BaseException) -> JsonReply:
    """An error as KServe's protocol has it: {"error": sentence}."""
    status, sentence = status_and_sentence(error)
    return JsonReply({"error": sentence}, status, getattr(error, "headers", None))


def answer_errors(app: FastAPI) -> None:
    """Make every error of an application such a reply; what nobody expected is left to the journal."""

    async def reply(request: Request, error: Exception) -> JsonReply:
        if status_and_sentence(error)[0] == 500:
            log("fault", traceback="".join(traceback.format_exception(error)))
        answer = error_reply(error)
        if answer.status_code == 405:
            answer.headers["Allow"] = ", ".join(method for method in VERBS if _has(request, method))
        return answer

    for kind in (HTTPException, RequestValidationError, EngineError, Cancelled):
        app.add_exception_handler(kind, reply)


def _has(request: Request, method: str) -> bool:
    """Whether the path of a request has a method."""
    return any(route.matches({**request.scope, "method": method})[0] is Match.FULL for route in request.app.routes)
