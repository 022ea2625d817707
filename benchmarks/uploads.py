"""Uploads that no service should accept: broken pictures, broken forms, broken JSON."""

import base64
import dataclasses
import io
import json
from collections.abc import Iterator, Sequence

import numpy as np
from PIL import Image

FORMATS = ("PNG", "JPEG", "GIF", "BMP", "TIFF", "WEBP")
BOUNDARY = "a-boundary"
JSON, FORM = "application/json", f"multipart/form-data; boundary={BOUNDARY}"
PREPARE, EXPLAIN, JOBS, SEARCH, ANNOTATE = "/v1/prepare", "/v1/explain", "/v1/jobs", "/v1/search", "/v1/annotate"
NOT_OPTIONS = (
    "",
    "{",
    "[]",
    "null",
    "1e999",
    '{"masks": -1}',
    '{"deadline": NaN}',
    '{"method": "\\u0000"}',
    '{"x": 1}',
    "{'a'}",
)


@dataclasses.dataclass(frozen=True)
class Upload:
    """What to post. name: what is wrong with it"""

    name: str
    path: str
    content_type: str
    body: bytes


def malformed(count: int, seed: int) -> Iterator[Upload]:
    """So many uploads; the same for the same seed."""
    random = np.random.default_rng(seed)
    kinds = (_cut_picture, _no_picture, _cut_form, _other_options, _cut_json, _other_json, _other_type)
    whole = [_picture(kind, random) for kind in FORMATS]
    for i in range(count):
        yield kinds[i % len(kinds)](whole[int(random.integers(len(whole)))], random)


def form(**parts: bytes) -> bytes:
    """A form's body, with one part for each name: `options` as a field, others as files."""
    lines = []
    for name, content in parts.items():
        file = "" if name == "options" else f'; filename="{name}.png"'
        head = f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="{name}"{file}\r\n\r\n'
        lines.append(head.encode() + content + b"\r\n")
    return b"".join(lines) + f"--{BOUNDARY}--\r\n".encode()


def _picture(kind: str, random: np.random.Generator) -> bytes:
    file = io.BytesIO()
    Image.fromarray(random.integers(0, 256, (48, 48, 3), np.uint8)).save(file, kind)
    return file.getvalue()


def _part(content: bytes, random: np.random.Generator) -> bytes:
    """The first tenth to eight tenths."""
    return content[: int(len(content) * random.uniform(0.1, 0.8))]


def _one_of(choices: Sequence[str], random: np.random.Generator) -> str:
    return choices[int(random.integers(len(choices)))]


def _cut_picture(picture: bytes, random: np.random.Generator) -> Upload:
    return Upload("a picture cut short", _one_of((PREPARE, SEARCH), random), FORM, form(query=_part(picture, random)))


def _no_picture(_: bytes, random: np.random.Generator) -> Upload:
    return Upload(
        "random bytes",
        _one_of((PREPARE, SEARCH), random),
        FORM,
        form(query=b"\0" + random.bytes(int(random.integers(2000)))),
    )


def _cut_form(picture: bytes, random: np.random.Generator) -> Upload:
    return Upload("a form cut short", _one_of((PREPARE, SEARCH, ANNOTATE), random), FORM, _part(form(query=picture), random))


def _other_options(picture: bytes, random: np.random.Generator) -> Upload:
    options = NOT_OPTIONS[1 + int(random.integers(len(NOT_OPTIONS) - 1))]
    return Upload("other options", EXPLAIN, FORM, form(query=picture, references=picture, options=options.encode()))


def _cut_json(picture: bytes, random: np.random.Generator) -> Upload:
    given = {"b64": base64.b64encode(picture).decode()}
    body = _part(json.dumps({"query": given, "references": [given]}).encode(), random)
    return Upload("JSON cut short", _one_of((JOBS, SEARCH, ANNOTATE), random), JSON, body)


def _other_json(picture: bytes, random: np.random.Generator) -> Upload:
    text = base64.b64encode(picture).decode()
    bodies: tuple[object, ...] = (
        *(None, [], {}, 3, "text", {"query": text}, {"query": {"b64": text}, "references": []}),
        *({"query": {"b64": text, "id": "x"}, "references": [{}]}, {"query": {"embedding": ["x"]}, "references": [1]}),
    )
    return Upload("other JSON", JOBS, JSON, json.dumps(bodies[int(random.integers(len(bodies)))]).encode())


def _other_type(picture: bytes, random: np.random.Generator) -> Upload:
    kinds = ("text/plain", "image/png", "multipart/form-data", "application/x-www-form-urlencoded", "")
    return Upload("another content type", _one_of((EXPLAIN, SEARCH), random), _one_of(kinds, random), picture)
