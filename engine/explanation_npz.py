"""Explanations on disk: one .npz file with everything. Knows the fields of `engine.findings`, not what is done with them."""

import json
import math
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from engine.errors import OptionError, OutputError
from engine.files import npz_bytes
from engine.findings import ARRAYS, ATTRIBUTE_LISTS, Findings
from engine.npz import ArrayShape, NpzFile, open_npz
from engine.pictures.limits import LONGEST_SIDE
from engine.saliency.geometry import TILES
from engine.typed import typed

F = TypeVar("F", bound=Findings)
FARTHEST = 2**24
"""Pixels that a box may lie from the corner of its picture."""


def explanation_bytes(explanation: Findings) -> bytes:
    """Return the bytes of a file with every field and array."""
    arrays = {k: getattr(explanation, k) for k in ARRAYS if getattr(explanation, k) is not None}
    maps = {_map_name(kind, i): a.map for kind in ATTRIBUTE_LISTS for i, a in enumerate(getattr(explanation, kind))}
    maps = {name: map_ for name, map_ in maps.items() if map_ is not None}
    return npz_bytes({"fields": np.array(json.dumps(explanation.to_dict())), **arrays, **maps}, compressed=True)


def read_explanation(path: Path, kind: type[F]) -> F:
    """Return what `explanation_bytes` gave. Raises OutputError where it is not that."""
    with open_npz(path) as file:
        try:
            found = typed(kind, _read(file))
            _require_sizes(found)
            _require_reference(found)
        except (OptionError, OutputError) as error:
            raise OutputError(f"it is not a saved explanation ({error})") from error
    return found


def _read(file: NpzFile) -> dict[str, Any]:
    """The fields by name, those of attributes with their maps."""
    fields = file.read_json("fields")
    if not isinstance(fields, dict):
        raise OutputError("its fields are no object of named values")
    known = {"fields", *ARRAYS}
    for kind in ATTRIBUTE_LISTS:
        attributes = fields.get(kind, [])  # older files do not have all kinds
        if not isinstance(attributes, list) or not all(isinstance(a, dict) for a in attributes):
            raise OutputError(f"its {kind} are no list of attributes")
        for i, attribute in enumerate(attributes):
            name = _map_name(kind, i)
            # only what is true of the reference alone may have no map
            told = name in file.names or kind != "only_reference"
            attribute["map"] = file.read_float32(name, (None, None)) if told else None
            known.add(name)
    file.refuse_others(known)
    fields.setdefault("links", None)  # older files have none
    return fields | _arrays(file)


def _arrays(file: NpzFile) -> dict[str, np.ndarray | None]:
    pixels = file.read_uint8("query_image", (None, None, 3))
    size: ArrayShape = pixels.shape[:2]
    found: dict[str, np.ndarray | None] = {"query_image": pixels}
    for name in ARRAYS:
        if name not in file.names:
            found.setdefault(name, None)
        elif name.endswith("_image"):
            found[name] = file.read_uint8(name, (*size, 3)) if name != "query_image" else pixels
        elif name.endswith("_error"):
            found[name] = file.read_float32(name, (TILES, TILES))
        else:
            found[name] = file.read_float32(name, size if name.endswith("saliency") else (None, None))
    return found


def _require_sizes(found: Findings) -> None:
    """Raise OutputError where sizes that decide what is drawn cannot be true."""
    for name in ("query", "reference", "rather_than"):
        size, box = getattr(found, f"{name}_size"), getattr(found, f"{name}_box")
        if size is not None and not 1 <= min(size) <= max(size) <= LONGEST_SIDE:
            raise OutputError(f"its {name}_size {size} is not that of a picture")
        if box is not None and not (box[0] < box[2] and box[1] < box[3] and max(map(abs, box)) <= FARTHEST):
            raise OutputError(f"its {name}_box {box} is not that of a picture")
    for name in ARRAYS:
        array = getattr(found, name)
        if array is not None and not array.size:
            raise OutputError(f"its {name} is empty")
    if found.correspondence is not None:
        tiles = len(found.correspondence)
        if found.correspondence.shape != (tiles, tiles) or math.isqrt(tiles) ** 2 != tiles:
            raise OutputError(f"its correspondence {found.correspondence.shape} is not of the tiles of two pictures")


def _require_reference(found: Findings) -> None:
    """Raise OutputError where something is said of a reference's regions whose picture, or box, is missing."""
    told = {"reference_saliency": found.reference_saliency, "correspondence": found.correspondence, "links": found.links}
    lacks = [name for name in ("reference_image", "reference_box") if getattr(found, name) is None]
    for name, value in told.items():
        if lacks and value is not None and len(value):
            raise OutputError(f"it has {name} but no {lacks[0]}")


def _map_name(kind: str, index: int) -> str:
    """The name of an attribute's map in the file."""
    return f"{kind.removesuffix('s')}_map_{index}"
