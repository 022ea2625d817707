"""What routes share: the service that they belong to, what bodies may be, and forms."""

from typing import Annotated, Any, TypeVar

from fastapi import Depends, Request
from pydantic import BaseModel, ValidationError

from engine.service.limits import Refused
from engine.service.resolving import Given
from engine.service.schemas import PictureGiven
from engine.service.sentences import sentence_of
from engine.service.service import Service

M = TypeVar("M", bound=BaseModel)
JSON_TYPE, FORM_TYPE = "application/json", "multipart/form-data"


def service_of(request: Request) -> Service:
    """The service that the application was made for."""
    found: Service = request.app.state.service
    return found


Serving = Annotated[Service, Depends(service_of)]


def require_json(request: Request) -> None:
    """Raise Refused unless the body says that it is JSON."""
    _require_type(request, JSON_TYPE)


def require_form(request: Request) -> None:
    """Raise Refused unless the body says that it is a form with files."""
    _require_type(request, FORM_TYPE)


def _type_of(request: Request) -> str:
    return request.headers.get("content-type", "").partition(";")[0].strip().lower()


def _require_type(request: Request, wanted: str) -> None:
    if _type_of(request) != wanted:
        got = request.headers.get("content-type", "")
        raise Refused(415, f"this call takes {wanted}, got {got[:80] or 'no content type'}: set the header Content-Type")


def read_options(kind: type[M], text: str | bytes, where: str = "options") -> M:
    """Read the part `options` of a form, which is JSON, or a body. where: for messages. Raises Refused."""
    try:
        return kind.model_validate_json(text or "{}")
    except ValidationError as error:
        raise Refused(422, sentence_of(error.errors(include_url=False, include_input=False), where)) from error


async def read_body(kind: type[M], request: Request) -> tuple[M, bytes | None]:
    """Read a body that is JSON, or a form with the part `options` and perhaps the file `query`; returns its bytes.

    Raises Refused.
    """
    if _type_of(request) != FORM_TYPE:
        _require_type(request, JSON_TYPE)
        return read_options(kind, await request.body(), ""), None
    async with request.form(max_files=1, max_fields=1) as form:
        options, file = form.get("options", ""), form.get("query")
        if not isinstance(options, str) or isinstance(file, str):
            raise Refused(422, "a form has `query`, a file, and `options`, JSON: send them as such")
        return read_options(kind, options), None if file is None else await file.read()


def one_query(given: PictureGiven | None, file: bytes | None) -> Given:
    """Return the query that was sent, in JSON or as a file. Raises Refused unless it was one of them."""
    if given is not None and file is not None:
        raise Refused(422, "the query was sent twice, as a file and in `options`: send one of them")
    query = given if file is None else file
    if query is None:
        raise Refused(422, 'a query is needed: send a file as `query` of a form, or {"query": {"id": ...}} in JSON')
    return query


def described(kind: type[BaseModel]) -> dict[str, Any]:
    """What the document says of a body that `read_body` reads."""
    schema = kind.model_json_schema(ref_template="#/components/schemas/{model}")
    schema.pop("$defs", None)  # other calls have put them there
    options = {"type": "string", "description": "JSON: the same, without what is sent as a file"}
    form = {"type": "object", "properties": {"query": {"type": "string", "format": "binary"}, "options": options}}
    return {"requestBody": {"required": True, "content": {JSON_TYPE: {"schema": schema}, FORM_TYPE: {"schema": form}}}}
