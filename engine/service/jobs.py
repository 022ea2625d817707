"""Slow calls: accepted at once, asked about later."""

import functools
from typing import Any

from fastapi import APIRouter, Depends, Response

from engine.service.explaining import Question
from engine.service.limits import Refused
from engine.service.requests import Serving, require_json
from engine.service.schemas import Instance

job_routes = APIRouter(tags=["jobs"])


@job_routes.post("/v1/jobs", status_code=202, dependencies=[Depends(require_json)])
async def begin_job(body: Instance, response: Response, service: Serving) -> dict[str, Any]:
    """Accept an instance of :explain that may take long; its path says how far it is, and has its result."""
    most = service.limits.references
    if len(body.references) > most:
        raise Refused(413, f"at most {most} references are taken at once, got {len(body.references)}: send several jobs")
    ticket = service.executor.accept(body.deadline, job=True)
    key = service.jobs.begin(ticket, functools.partial(service.explained, Question.of(body), ticket))
    response.headers["Location"] = f"/v1/jobs/{key}"
    return {"id": key, **service.jobs.state(key)}


@job_routes.get("/v1/jobs/{key}")
async def job_state(key: str, service: Serving) -> dict[str, Any]:
    """How far a job is: queued, running, done (with its explanations), failed (with a sentence) or cancelled."""
    return {"id": key, **service.jobs.state(key)}


@job_routes.delete("/v1/jobs/{key}")
async def cancel_job(key: str, service: Serving) -> dict[str, Any]:
    """End a job before its next batch."""
    return {"id": key, **service.jobs.cancel(key)}
