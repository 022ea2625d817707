"""The page at /: its files, and the calls that it alone makes (docs/service.md, The page)."""

import dataclasses
from collections.abc import Callable, Iterator
from importlib import resources
from string import Template
from typing import Annotated, Any

from fastapi import APIRouter, Depends, File, Request, Response, UploadFile
from fastapi import Form as FormField
from starlette.responses import StreamingResponse

from engine.explanation import Explanation
from engine.protocol import MODES
from engine.render.html import part
from engine.render.view import View, view
from engine.service.events import events_of
from engine.service.explaining import Question, explain, refine
from engine.service.limits import Limits, Refused
from engine.service.people import question_of
from engine.service.requests import Serving, require_form
from engine.service.resolving import Loaded
from engine.service.service import pictures_read
from engine.service.tickets import Ticket

page_routes = APIRouter(include_in_schema=False)  # the page's own: they change with it
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data: blob:; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
"""Of the page: what comes from here runs, and it talks to nobody else. blob: is a picture as it was chosen."""
SHARED = ("component.css", "component.js")
"""What reports are drawn with too, in engine/render."""
OWN = ("page.css", "calls.js", "pickers.js", "page.js")
MEDIA = {"css": "text/css; charset=utf-8", "js": "text/javascript; charset=utf-8"}
MATCHES = 8
"""Matches that the page asks of an index."""
GALLERY = resources.files("engine") / "data" / "pictures"


@page_routes.get("/", response_class=Response)
def whole_page() -> Response:
    """The page."""
    text = Template(_own("page.html")).substitute(component=part("component.html"))
    return Response(text, media_type="text/html; charset=utf-8", headers={"Content-Security-Policy": POLICY})


@page_routes.get("/page/{name}", response_class=Response)
def page_file(name: str) -> Response:
    """A stylesheet or a script of the page."""
    if name not in (*SHARED, *OWN):
        raise Refused(404, "the page has no such file: open /")
    return Response(part(name) if name in SHARED else _own(name), media_type=MEDIA[name.rpartition(".")[2]])


@page_routes.get("/page/pictures/{name}", response_class=Response)
def gallery_picture(name: str) -> Response:
    """A picture of the demo."""
    if name not in _gallery():
        raise Refused(404, "the demo has no such picture: open /")
    return Response((GALLERY / name).read_bytes(), media_type="image/png")


@page_routes.get("/v1/page")
async def about(service: Serving) -> dict[str, Any]:
    """What the page offers: the model, what it can be asked, and how long an explanation is kept."""
    manifest = service.explainer.model.manifest
    conditions = manifest.conditions
    return {
        "model": manifest.name,
        "methods": list(service.explainer.methods),
        "modes": list(MODES),
        "conditions": [] if conditions is None else list(conditions.names),
        "kept_seconds": service.limits.kept_seconds,
        "matches": min(MATCHES, service.limits.references),
        "gallery": _gallery(),
        "index": service.loaded.index is not None,
    }


@page_routes.post("/v1/page/explain", dependencies=[Depends(require_form)])
async def explain_for_page(
    request: Request,
    service: Serving,
    query: Annotated[UploadFile | None, File()] = None,
    references: Annotated[list[UploadFile], File()] = [],  # noqa: B006 - FastAPI copies it
    rather_than: Annotated[UploadFile | None, File()] = None,
    options: Annotated[str, FormField()] = "{}",
) -> StreamingResponse:
    """Events of one explanation: views of it as it refines, and the last one with its id."""
    question = await question_of(service, query, references, options)
    if len(question.references) != 1:
        raise Refused(422, f"the page shows one reference, got {len(question.references)}: send one, or call /v1/explain")
    if rather_than is not None:  # a file, since options have less room
        how = question.how.model_copy(update={"rather_than": await rather_than.read()})
        question = dataclasses.replace(question, how=how)
    ticket = service.executor.accept(question.how.deadline)
    return await events_of(service, request, question, ticket, steps, _writer())


@page_routes.get("/v1/page/explanations/{key}")
async def kept_view(key: str, request: Request, service: Serving) -> View:
    """The view of an explanation that is kept."""
    explanation, ticket = service.explanations.get(key), service.executor.accept()

    def work() -> View:
        with ticket.stage("render"), pictures_read():
            return view(explanation)

    found = await service.run(request, ticket, work)
    service.metrics.worked(ticket)
    return found


def steps(loaded: Loaded, limits: Limits, question: Question, ticket: Ticket) -> Iterator[Explanation]:
    """Explanations that refine, where these can; else the one. Raises as `explain` does."""
    how = question.how
    if how.method == "rise" and how.rather_than is None:
        yield from refine(loaded, limits, question, ticket)
    else:
        yield from explain(loaded, limits, question, ticket)


def _writer() -> Callable[[Explanation, str | None], dict[str, Any]]:
    """Return what writes the events of one explanation: the pictures are in the first."""
    first = True

    def write(explanation: Explanation, key: str | None = None) -> dict[str, Any]:
        nonlocal first
        pictures, first = first, False
        return {"id": key, "view": view(explanation, pictures=pictures)}

    return write


def _gallery() -> list[str]:
    return sorted(file.name for file in GALLERY.iterdir())


def _own(name: str) -> str:
    return (resources.files("engine.service") / name).read_text()
