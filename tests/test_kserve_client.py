"""KServe's own client asks a running service. Skipped where it is missing: tests/test_service.py sends the same."""

import asyncio
from collections.abc import Iterator

import pytest
from helpers import CAT

pytest.importorskip("fastapi", reason="the service needs the extra serve")
pytest.importorskip("kserve", reason="needs KServe's client: pip install kserve")

import httpx
from kserve import InferenceRESTClient, RESTConfig
from served import Served
from service_client import b64

MODEL = "emoji demo"


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    with Served("--limit", "masks=64") as server:
        yield server.url


def test_it_explains_predicts_and_finds_the_server_alive(url: str) -> None:
    instance = {"query": b64(CAT[0]), "references": [b64(CAT[1])], "masks": 64, "mode": "pair", "top": 3}

    async def asked() -> None:
        v1, v2 = (InferenceRESTClient(RESTConfig(protocol=protocol)) for protocol in ("v1", "v2"))
        (explained,) = (await v1.explain(url, MODEL, {"instances": [instance]}, timeout=120))["explanations"]
        assert explained[0]["similarity"] > 0.9
        assert len(explained[0]["saliency"]) == len(explained[0]["reference_saliency"]) == 16
        predicted = await v1.infer(url, {"instances": [b64(CAT[0])]}, model_name=MODEL, timeout=120)
        assert len(predicted["predictions"]) == 1
        assert await v2.is_server_live(url) and await v2.is_server_ready(url) and await v2.is_model_ready(url, MODEL)
        with pytest.raises(httpx.HTTPStatusError, match="give one of b64, id and embedding"):
            await v1.explain(url, MODEL, {"instances": [{**instance, "query": {}}]}, timeout=120)

    asyncio.run(asked())
