"""What one request may hold, and how long its body may take."""

import asyncio
import io
import time
from typing import Any

import pytest
from PIL import Image

pytest.importorskip("fastapi", reason="the service needs the extra serve")

from service_client import client_of, sentence

from engine import Explainer
from engine.service.guard import Guard
from engine.service.limits import Limits, Refused
from engine.service.pictures import PixelBudget, read_upload


def png(side: int) -> bytes:
    made = io.BytesIO()
    Image.new("1", (side, side)).save(made, "PNG")
    return made.getvalue()


def test_the_pictures_of_a_request_share_a_number_of_pixels(demo: Explainer) -> None:
    budget = PixelBudget.of(10_000)
    for _ in range(4):
        read_upload(png(100), "query", budget)
    with pytest.raises(Refused) as refused:
        read_upload(png(10), "query", budget)
    assert refused.value.status_code == 413
    files = [("query", ("q.png", png(99))), *(("references", ("r.png", png(99))) for _ in range(5))]
    with client_of(demo, Limits(pixels=10_000)) as client:
        assert "pixels" in sentence(client.post("/v1/explain", files=files, data={"options": '{"masks": 16}'}), 413)


def test_a_body_that_drips_is_refused_in_time() -> None:
    class Service:
        limits = Limits(seconds=1, body_bytes=10**6)

    async def drip() -> dict[str, Any]:
        await asyncio.sleep(0.3)
        return {"type": "http.request", "body": b"x", "more_body": True}

    async def read() -> None:
        receive = Guard(None, Service(), ())._counted(drip)  # type: ignore[arg-type]
        while True:
            await receive()

    began = time.monotonic()
    with pytest.raises(Refused, match="within 1"):
        asyncio.run(read())
    assert time.monotonic() - began < 60
