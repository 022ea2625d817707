"""Server-sent events of one explanation whose map refines as its passes are run."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import Future
from typing import Any

from starlette.requests import Request
from starlette.responses import StreamingResponse

from engine.explanation import Explanation
from engine.service.answers import answer
from engine.service.explaining import Question, refine
from engine.service.sentences import log_fault, status_and_sentence
from engine.service.service import Service, cancel_if_gone, pictures_read
from engine.service.tickets import Cancelled, Ticket

Event = tuple[str, dict[str, Any]]
"""Its kind and its data: "map" as it refines, then "explanation", the last one with its id, or "error"."""
Steps = Callable[..., Iterator[Explanation]]
"""What explains, step by step; it takes what `engine.service.explaining.refine` takes."""


async def events_of(
    service: Service,
    request: Request,
    question: Question,
    ticket: Ticket,
    steps: Steps = refine,
    write: Callable[[Explanation, str | None], dict[str, Any]] = answer,
) -> StreamingResponse:
    """Begin to explain; returns when the first map is there, so that bad input still has its status.

    write: the data of an event about an explanation, which has an id if it is the last
    Raises ImageError, OptionError, Refused, Cancelled.
    """
    loop, loaded = asyncio.get_running_loop(), service.loaded
    told: asyncio.Queue[Event | BaseException | None] = asyncio.Queue()

    def tell(what: Event | BaseException | None) -> None:
        loop.call_soon_threadsafe(told.put_nowait, what)

    def work() -> None:
        last = None
        for explanation in steps(loaded, service.limits, question, ticket):
            last = explanation
            with pictures_read():
                tell(("map", write(explanation, None)))
        if last is not None:
            service.metrics.worked(ticket, [last])
            with pictures_read():
                tell(("explanation", write(last, service.explanations.put(last))))

    def ended(future: "Future[None]") -> None:
        log_fault(future)
        tell(Cancelled() if future.cancelled() else future.exception())

    service.executor.submit(ticket, work).add_done_callback(ended)
    gone = asyncio.ensure_future(cancel_if_gone(request, ticket))
    first = await told.get()
    if isinstance(first, BaseException):
        gone.cancel()
        raise first

    async def sent() -> AsyncIterator[bytes]:
        event: Event | BaseException | None = first
        try:
            while event is not None:
                kind, data = ("error", _error(event)) if isinstance(event, BaseException) else event
                yield f"event: {kind}\ndata: {json.dumps(data, allow_nan=False)}\n\n".encode()
                event = None if kind == "error" else await told.get()
        finally:
            gone.cancel()
            ticket.cancel()

    return StreamingResponse(sent(), media_type="text/event-stream")


def _error(error: BaseException) -> dict[str, Any]:
    return {"error": status_and_sentence(error)[1]}
