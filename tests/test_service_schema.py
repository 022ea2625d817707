"""What the OpenAPI document allows, and what it does not, never ends in a 5xx, and is answered as the document says.

Schemathesis makes the requests, the same in each run: of the document as it is, where most pictures and ids are nobody's,
and of one that knows pictures and ids that are there, whose requests get as far as explanations.
"""

import json
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from helpers import CAT

pytest.importorskip("fastapi", reason="the service needs the extra serve")
pytest.importorskip("lance", reason="needs pylance, of the extra `index`")

from served import Served
from service_client import b64, form

SCHEMATHESIS = shutil.which("schemathesis")
pytestmark = pytest.mark.skipif(
    SCHEMATHESIS is None, reason="no schemathesis on the path: .ci/requirements-service.txt has it"
)

DRAWN, DRAWN_OF_KNOWN = 10, 3
"""Requests of each call at most, beside those at the borders of what each field may be."""
NOT_SAID = ("positive_data_acceptance", "allow_header_conformance")
"""What the document does not say: whether a picture can be read, and that a model's name may end in ":explain"."""
ROWS = ["noto/cat.png", "twemoji/cat.png", "noto/bandage.png"]
OPTIONS = (
    '{"masks": 16}',
    '{"top": 1, "mode": "pair"}',
    '{"method": "window", "deadline": 0.2}',
    '{"ids": ["noto/cat.png"]}',
)


@pytest.fixture(scope="module")
def served(demo_index: Path) -> Iterator[Served]:
    limits = ("masks=64", "jobs=1000")
    with Served("--index", str(demo_index), *(part for limit in limits for part in ("--limit", limit))) as server:
        yield server


@pytest.fixture(scope="module")
def document(served: Served) -> Any:
    return served.get("/openapi.json").json()


def test_any_request_is_answered_as_the_document_says(served: Served, document: Any, tmp_path: Path) -> None:
    require_no_failure(served, document, tmp_path, "all", DRAWN)


def test_a_request_about_what_is_there_is_too(served: Served, document: Any, tmp_path: Path) -> None:
    explained = served.post("/v1/explain", **form({"masks": 16})).json()["explanations"][0]["id"]
    prepared = served.post("/v1/prepare", **form({"masks": 16}, references=())).json()["id"]
    job = served.post("/v1/jobs", json={"query": b64(CAT[0]), "references": [b64(CAT[1])]}).json()["id"]
    vector = served.post("/v1/models/emoji demo:predict", json={"instances": [b64(CAT[0])]}).json()["predictions"][0]
    pictures = {"b64": [b64(file)["b64"] for file in CAT], "id": [*ROWS, prepared], "embedding": [vector]}
    parameters = {"name": ["emoji demo"], "key": [explained, job], "id": pictures["id"]}
    require_no_failure(served, narrowed(document, pictures, parameters), tmp_path, "positive", DRAWN_OF_KNOWN)


def narrowed(part: Any, pictures: dict[str, list[Any]], parameters: dict[str, list[str]], name: str = "") -> Any:
    """A part of a document, without pictures and parameters that are nobody's."""
    if isinstance(part, list):
        return [narrowed(one, pictures, parameters, name) for one in part]
    if not isinstance(part, dict):
        return part
    if name == "PictureGiven":
        closed = {"type": "object", "additionalProperties": False}
        return {
            "oneOf": [
                {**closed, "required": [kind], "properties": {kind: {"enum": known}}} for kind, known in pictures.items()
            ]
        }
    if name == "options":
        return {"type": "string", "enum": OPTIONS}
    if name == "parameters" and part["name"] in parameters:
        return {**part, "schema": {"enum": parameters[part["name"]]}}
    return {key: narrowed(one, pictures, parameters, key) for key, one in part.items()}


def require_no_failure(served: Served, document: Any, folder: Path, mode: str, count: int) -> None:
    """Send what Schemathesis makes of a document. mode: positive, what it allows alone, or all; count: requests to draw"""
    (folder / "document.json").write_text(json.dumps(document))
    command = [str(SCHEMATHESIS), "run", "document.json", "--url", served.url, "--mode", mode, "--max-examples", str(count)]
    command += ["--generation-deterministic", "--phases", "examples,coverage,fuzzing", "--request-timeout", "120"]
    command += ["--exclude-checks", ",".join(NOT_SAID), "--no-color", "--warnings", "off"]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert served.get("/v2/health/ready").status_code == 200
