"""A service in this process, and what its tests send to it."""

import base64
import contextlib
import functools
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from fastapi.testclient import TestClient
from helpers import CAT

from engine import Explainer
from engine.service.app import create_app
from engine.service.limits import Limits
from engine.service.opening import open_index
from engine.service.service import Service


@contextlib.contextmanager
def client_of(
    explainer: Explainer, limits: Limits | None = None, *, index: Path | None = None, **options: Any
) -> Iterator[TestClient]:
    """A client of a service over an explainer, perhaps with an index. options: of `create_app`"""
    opens = None if index is None else functools.partial(open_index, index)
    service = Service(lambda: explainer, limits or Limits(), open_index=opens)
    with TestClient(create_app(service, **options), raise_server_exceptions=False) as client:
        yield client


def service_of_client(client: TestClient) -> Service:
    """The service behind a client."""
    return client.app.state.service  # type: ignore[attr-defined]


def b64(file: Path) -> dict[str, str]:
    """A picture in JSON."""
    return {"b64": base64.b64encode(file.read_bytes()).decode()}


def form(options: object = None, query: Path | None = CAT[0], references: tuple[Path, ...] = (CAT[1],)) -> dict[str, Any]:
    """A form with files, ready for `client.post`."""
    files = [] if query is None else [("query", (query.name, query.read_bytes()))]
    files += [("references", (file.name, file.read_bytes())) for file in references]
    return {"files": files, "data": {"options": json.dumps(options or {})}}


def sentence(response: Any, status: int) -> str:
    """The one sentence of an error."""
    assert response.status_code == status, response.text
    found = response.json()
    assert list(found) == ["error"]
    assert "\n" not in found["error"]
    assert "Traceback" not in found["error"]
    return str(found["error"])
