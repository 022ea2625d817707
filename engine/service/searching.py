"""Calls about the index: searches, what another search found, and thumbnails."""

from typing import Annotated, Any
from urllib.parse import quote

from fastapi import APIRouter, Depends, Query, Request, Response

from engine.index import Index, Match
from engine.index.listing import LONGEST_ID
from engine.service.limits import Refused
from engine.service.requests import Serving, described, one_query, read_body
from engine.service.resolving import Given
from engine.service.rows import annotate_rows, require_index, search_rows
from engine.service.schemas import AnnotateRequest, PictureGiven, SearchById, SearchOptions, SearchRequest
from engine.service.service import Service

search_routes = APIRouter(tags=["index"])
NO_THUMBNAILS = "the index keeps no thumbnails: build it with --thumbnails to have them"


async def search_body(request: Request) -> tuple[SearchRequest, Given]:
    """What a body asks to be searched for."""
    asked, file = await read_body(SearchRequest, request)
    return asked, one_query(asked.query, file)


async def annotate_body(request: Request) -> tuple[AnnotateRequest, Given]:
    """What a body asks to be explained."""
    asked, file = await read_body(AnnotateRequest, request)
    return asked, one_query(asked.query, file)


@search_routes.get("/v1/search")
async def search_by_id(asked: Annotated[SearchById, Query()], request: Request, service: Serving) -> dict[str, Any]:
    """The rows that are most similar to a row, itself left out, or to a prepared picture."""
    return await _matches(service, request, PictureGiven.model_validate({"id": asked.id}), asked, None)


@search_routes.post("/v1/search", openapi_extra=described(SearchRequest))
async def search_by_picture(
    body: Annotated[tuple[SearchRequest, Given], Depends(search_body)], request: Request, service: Serving
) -> dict[str, Any]:
    """The rows that are most similar to a picture, a row, a prepared picture or an embedding; best first."""
    asked, query = body
    return await _matches(service, request, query, asked, asked.deadline)


@search_routes.post("/v1/annotate", openapi_extra=described(AnnotateRequest))
async def annotate_ids(
    body: Annotated[tuple[AnnotateRequest, Given], Depends(annotate_body)], request: Request, service: Serving
) -> dict[str, Any]:
    """Why the query matches each id that another search found: in its order, with null for ids that are no rows."""
    asked, query = body
    ticket, loaded = service.executor.accept(asked.deadline), service.loaded

    def work() -> list[dict[str, Any] | None]:
        found = annotate_rows(loaded, service.limits, query, asked.ids, asked, asked.deadline, ticket)
        service.metrics.worked(ticket, [one for one in found if one is not None])
        return [None if one is None else service.keep(one) for one in found]

    return {"explanations": await service.run(request, ticket, work)}


@search_routes.get("/v1/thumbnail", response_class=Response, responses={200: {"content": {"image/jpeg": {}}}})
async def row_thumbnail(
    key: Annotated[str, Query(alias="id", max_length=LONGEST_ID, description="of a row")], request: Request, service: Serving
) -> Response:
    """A row's picture as the network saw it."""
    index, ticket = require_index(service.loaded), service.executor.accept()
    if key not in index:
        raise Refused(404, "there is no row with this id: /v1/search names some")
    if not index.settings.thumbnails:
        raise Refused(404, NO_THUMBNAILS)
    return Response(await service.run(request, ticket, lambda: index.thumbnail(key)), media_type="image/jpeg")


async def _matches(
    service: Service, request: Request, query: Given, how: SearchOptions, deadline: float | None
) -> dict[str, Any]:
    ticket, loaded = service.executor.accept(deadline), service.loaded

    def work() -> list[dict[str, Any]]:
        found = search_rows(loaded, service.limits, query, how, deadline, ticket)
        service.metrics.worked(ticket, [match.explanation for match in found if match.explanation is not None])
        index = require_index(loaded)
        return [_match(service, index, match) for match in found]

    return {"matches": await service.run(request, ticket, work)}


def _match(service: Service, index: Index, match: Match) -> dict[str, Any]:
    """One of the answer."""
    thumbnail = f"/v1/thumbnail?id={quote(match.id, safe='')}" if index.settings.thumbnails else None
    explained = {} if match.explanation is None else {"explanation": service.keep(match.explanation)}
    return {"id": match.id, "similarity": match.similarity, "thumbnail": thumbnail, **explained}
