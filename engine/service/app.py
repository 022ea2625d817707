"""The application: routes behind a guard, and a journal around everything."""

import contextlib
import importlib.metadata
from collections.abc import AsyncIterator
from typing import Any

from fastapi import FastAPI, Response
from starlette.middleware.cors import CORSMiddleware

from engine.service.guard import Guard
from engine.service.jobs import job_routes
from engine.service.journal import Journal
from engine.service.kserve import health_routes, kserve_routes
from engine.service.page import page_routes
from engine.service.people import people_routes
from engine.service.replies import FAILURES, JsonReply, answer_errors
from engine.service.requests import Serving
from engine.service.searching import search_routes
from engine.service.service import Service

METRICS_ANSWER: dict[int | str, Any] = {200: {"content": {"text/plain": {}}, "description": "counters and histograms"}}


def create_app(service: Service, keys: tuple[bytes, ...] = (), cors: tuple[str, ...] = ()) -> FastAPI:
    """Return the application. It makes no request of its own, and its document names no other site.

    keys: digests of keys, see `engine.service.guard.read_keys`; cors: origins whose pages may call it
    """

    @contextlib.asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        yield
        service.close()

    app = FastAPI(
        title="sane-engine",
        summary="Why do these two pictures match?",
        version=importlib.metadata.version("sane-engine"),
        docs_url=None,  # its page loads scripts from elsewhere
        redoc_url=None,
        default_response_class=JsonReply,
        responses=FAILURES,
        lifespan=lifespan,
    )
    app.state.service = service
    for routes in (kserve_routes, people_routes, search_routes, job_routes, health_routes):
        app.include_router(routes)
    app.get("/metrics", response_class=Response, responses=METRICS_ANSWER, tags=["health"])(metrics_text)
    app.include_router(page_routes)
    answer_errors(app)
    app.add_middleware(Guard, service=service, keys=keys)
    if cors:
        app.add_middleware(
            CORSMiddleware,
            allow_origins=list(cors),
            allow_methods=["GET", "POST", "DELETE"],
            allow_headers=["Authorization", "Content-Type"],
        )
    app.add_middleware(Journal, service=service)
    return app


async def metrics_text(service: Serving) -> Response:
    """Counters and histograms for Prometheus."""
    return Response(service.metrics.text(), media_type="text/plain; version=0.0.4; charset=utf-8")
