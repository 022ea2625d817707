"""For people and scripts: forms with files, prepared pictures, and explanations as files."""

from typing import Annotated, Any, Literal

from fastapi import APIRouter, Depends, File, Request, Response, UploadFile
from fastapi import Form as FormField

from engine.render.html import policy
from engine.service.events import events_of
from engine.service.explaining import Question, prepare
from engine.service.limits import Refused
from engine.service.requests import Serving, one_query, read_options, require_form
from engine.service.resolving import Given
from engine.service.schemas import Form, Passes
from engine.service.service import Service, pictures_read

people_routes = APIRouter(tags=["people and scripts"])
FORM_BODY = [Depends(require_form)]
MEDIA_TYPES = {"png": "image/png", "html": "text/html; charset=utf-8", "json": "application/json", "npz": "application/zip"}


@people_routes.post(
    "/v1/explain",
    dependencies=FORM_BODY,
    response_model=None,
    responses={200: {"content": {"text/event-stream": {}}, "description": "explanations, or events of a refining map"}},
)
async def explain_files(
    request: Request,
    service: Serving,
    query: Annotated[UploadFile | None, File(description="the query's file")] = None,
    references: Annotated[list[UploadFile], File(description="files of references")] = [],  # noqa: B006 - FastAPI copies it
    options: Annotated[str, FormField(description="JSON: an instance of :explain, without what is sent as files")] = "{}",
) -> dict[str, Any] | Response:
    """An explanation for each reference: those of files first, then those of the options.

    With the header `Accept: text/event-stream`, events of one explanation whose map refines.
    """
    question = await question_of(service, query, references, options)
    ticket = service.executor.accept(question.how.deadline)
    if "text/event-stream" in request.headers.get("accept", ""):
        return await events_of(service, request, question, ticket)
    return {"explanations": await service.run(request, ticket, lambda: service.explained(question, ticket))}


@people_routes.post("/v1/prepare", dependencies=FORM_BODY)
async def prepare_file(
    request: Request,
    service: Serving,
    query: Annotated[UploadFile, File(description="the picture's file")],
    options: Annotated[str, FormField(description="JSON: method, masks, seed, deadline, ...")] = "{}",
) -> dict[str, Any]:
    """Run the passes over a picture once; its id then stands for it, and explaining it costs algebra alone."""
    how, content = read_options(Passes, options), await query.read()
    ticket, loaded = service.executor.accept(how.deadline), service.loaded

    def work() -> dict[str, Any]:
        prepared = prepare(loaded, service.limits, content, how, ticket)
        key = loaded.prepared.put(prepared)
        cut = prepared.deadline_reached
        return {"id": key, "seconds": service.limits.kept_seconds, "passes": len(prepared.plan), "deadline_reached": cut}

    found = await service.run(request, ticket, work)
    service.metrics.worked(ticket)
    return found


@people_routes.get(
    "/v1/explanations/{key}.{kind}",
    response_class=Response,
    responses={200: {"content": {kind.partition(";")[0]: {} for kind in MEDIA_TYPES.values()}, "description": "the file"}},
)
async def explanation_file(
    key: str, kind: Literal["png", "html", "json", "npz"], request: Request, service: Serving
) -> Response:
    """An explanation as a picture, a page, numbers, or everything (`Explanation.load` reads .npz)."""
    explanation, ticket = service.explanations.get(key), service.executor.accept()

    def work() -> bytes:
        with ticket.stage("render"), pictures_read():
            return explanation.to_bytes(f".{kind}")

    content = await service.run(request, ticket, work)
    service.metrics.worked(ticket)
    headers = {"Content-Security-Policy": f"{policy()}; sandbox allow-scripts"} if kind == "html" else {}
    if kind == "npz":
        headers["Content-Disposition"] = 'attachment; filename="explanation.npz"'
    return Response(content, media_type=MEDIA_TYPES[kind], headers=headers)


async def question_of(service: Service, query: UploadFile | None, references: list[UploadFile], options: str) -> Question:
    """What a form asks. Raises Refused."""
    form = read_options(Form, options)
    asked = one_query(form.query, None if query is None else await query.read())
    given: list[Given] = [*[await file.read() for file in references], *form.references]
    if not given:
        raise Refused(422, "a reference is needed: send files as `references`, or some in `options`")
    most = service.limits.references
    if len(given) > most:
        raise Refused(413, f"at most {most} references are taken at once, got {len(given)}: send them in several requests")
    return Question(asked, given, form)
