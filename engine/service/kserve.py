"""KServe's v1 protocol, and health and metadata as in the Open Inference Protocol."""

import asyncio
import functools
from typing import Any

from fastapi import APIRouter, Depends, Request

from engine.protocol import MODES
from engine.service.explaining import Question, embed
from engine.service.limits import Refused
from engine.service.requests import Serving, require_json
from engine.service.schemas import ExplainRequest, PredictRequest

kserve_routes = APIRouter(tags=["KServe v1"])
health_routes = APIRouter(tags=["health"])
JSON_BODY = [Depends(require_json)]


@kserve_routes.get("/v1/models")
async def list_models(service: Serving) -> dict[str, list[str]]:
    """The name of the bundle in service."""
    return {"models": [service.explainer.model.manifest.name]}


@kserve_routes.get("/v1/models/{name:path}")
async def describe_model(name: str, service: Serving) -> dict[str, Any]:
    """What the model takes and how it runs."""
    service.require_model(name)
    explainer, model = service.explainer, service.explainer.model
    table, conditions, index = model.bundle.attributes, model.manifest.conditions, service.loaded.index
    return {
        "name": name,
        "ready": not service.draining,
        "identity": model.bundle.identity,
        "embedding": model.manifest.embedding,
        "metric": model.manifest.metric,
        "conditions": [] if conditions is None else list(conditions.names),
        "attributes": 0 if table is None else len(table.names),
        "index": None if index is None else {"rows": len(index), "thumbnails": index.settings.thumbnails},
        "methods": list(explainer.methods),
        "modes": list(MODES),
        "provider": explainer.provider,
        "precision": explainer.precision,
        "shares_runs": service.loaded.shares_runs,
        "limits": vars(service.limits),
    }


@kserve_routes.post("/v1/models/{name:path}:predict", dependencies=JSON_BODY)
async def predict(name: str, body: PredictRequest, request: Request, service: Serving) -> dict[str, Any]:
    """The embedding of each picture, as references and indexes take it."""
    service.require_model(name)
    _require_instances(len(body.instances), service.limits.references, "pictures")
    ticket, loaded = service.executor.accept(), service.loaded
    rows = await service.run(request, ticket, lambda: embed(loaded, service.limits, body.instances, ticket))
    service.metrics.worked(ticket)
    return {"predictions": rows}


@kserve_routes.post("/v1/models/{name:path}:explain", dependencies=JSON_BODY)
async def explain_instances(name: str, body: ExplainRequest, request: Request, service: Serving) -> dict[str, Any]:
    """For each instance a list: an explanation for each of its references."""
    service.require_model(name)
    _require_instances(len(body.instances), service.limits.instances, "instances")
    tickets = []
    for i, instance in enumerate(body.instances):
        _require_instances(len(instance.references), service.limits.references, f"references in instances[{i}]")
        tickets.append(service.executor.accept(instance.deadline))
    questions = [Question.of(instance) for instance in body.instances]
    works = [functools.partial(service.explained, *each) for each in zip(questions, tickets, strict=True)]
    try:
        runs = (service.run(request, *each) for each in zip(tickets, works, strict=True))
        return {"explanations": await asyncio.gather(*runs)}
    finally:
        for ticket in tickets:  # one that failed ends the others
            ticket.cancel()


@health_routes.get("/healthz")
@health_routes.get("/v2/health/live")
async def live() -> dict[str, bool]:
    """Whether the process answers."""
    return {"live": True}


@health_routes.get("/v2/health/ready")
@health_routes.get("/v2/models/{name:path}/ready")
async def ready(service: Serving, name: str | None = None) -> dict[str, Any]:
    """Whether requests are accepted: 503 while draining."""
    if name is not None:
        service.require_model(name)
    if service.draining:
        raise Refused(503, "this server is ending: send requests to another one", 1)
    return {"ready": True} if name is None else {"name": name, "ready": True}


@health_routes.get("/v2/models/{name:path}")
async def model_metadata(name: str, service: Serving) -> dict[str, Any]:
    """Inputs and outputs of the similarity graph."""
    service.require_model(name)
    manifest = service.explainer.model.manifest
    seen = manifest.preprocessing
    shape = [seen.height, seen.width, 3] if seen.layout == "nhwc" else [3, seen.height, seen.width]
    return {
        "name": name,
        "versions": [service.explainer.model.bundle.identity[:16]],
        "platform": "onnx_onnxruntime",
        "inputs": [{"name": "picture", "datatype": "FP32", "shape": [-1, *shape]}],
        "outputs": [{"name": "embedding", "datatype": "FP32", "shape": [-1, manifest.embedding]}],
    }


def _require_instances(count: int, most: int, what: str) -> None:
    if count > most:
        raise Refused(413, f"at most {most} {what} are taken at once, got {count}: send them in several requests")
