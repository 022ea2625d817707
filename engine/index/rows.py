"""One picture's row: what is stored of a prepared picture, and what is read back."""

import dataclasses
import functools
import io
import zlib
from collections.abc import Sequence
from typing import Any

import numpy as np
from PIL import Image

from engine.attributes.probability import joint_probability
from engine.attributes.ranking import Activations
from engine.attributes.table import AttributeTable
from engine.errors import OutputError
from engine.index.codec import OperatorCodec, nearest
from engine.index.noise import MapNoise
from engine.index.settings import IndexSettings
from engine.prepared import Prepared

CONFIDENCE_LEVELS, MAP_LEVELS = 65535, 255
MOST_MAPS = 64
"""Activation maps that a row keeps at most."""
QUALITY = 85
"""Of a thumbnail's JPEG."""


@dataclasses.dataclass(frozen=True, eq=False)
class IndexRow:
    """A row as it is stored.

    id, source: names; digest: sha256 of the picture's file; embedding: (D,) float32; record: () of `IndexSettings.dtype`
    maps: activation maps, see `packed_maps`; thumbnail: JPEG, or nothing; fidelity: (COMPARED,) float16, NaN for too few
    """

    id: str
    source: str
    digest: bytes
    embedding: np.ndarray
    record: np.ndarray
    maps: bytes
    thumbnail: bytes
    fidelity: np.ndarray

    @property
    def crc(self) -> int:
        """crc32 of everything in the row."""
        rest = (self.source.encode(), self.digest, self.thumbnail, self.fidelity.astype("<f2").tobytes())
        return crc_of(rest, self.core_crc)

    @property
    def core_crc(self) -> int:
        """crc32 of what an explanation reads."""
        return crc_of((self.id.encode(), self.embedding.astype("<f4").tobytes(), self.record.tobytes(), self.maps))


def crc_of(parts: Sequence[bytes | memoryview], value: int = 0) -> int:
    """Return the crc32 of parts, each followed by its length. value: of what came before"""
    pieces: list[bytes | memoryview] = []
    for part in parts:
        size = part.nbytes if isinstance(part, memoryview) else len(part)
        pieces += (part, size.to_bytes(8, "little"))
    return zlib.crc32(b"".join(pieces), value)


@dataclasses.dataclass(frozen=True, eq=False)
class RowMaker:
    """Makes rows of prepared pictures. table: the bundle's attributes; condition: the index of the settings' condition"""

    settings: IndexSettings
    codec: OperatorCodec
    table: AttributeTable | None
    condition: int | None

    def row(self, names: tuple[str, str], digest: bytes, prepared: Prepared, others: np.ndarray) -> IndexRow:
        """Return the row of a picture.

        names: id and source; others: (R, F), factors of references, against the nearest of which its fidelity is measured
        """
        assert prepared.fits is not None, "an index prepares by the regression"
        regression, picture, codec = prepared.fits.regression(self.condition), prepared.picture, self.codec
        weights, stored = regression.weights, codec.stored(regression.weights)
        (own,) = prepared.model.reference_features(prepared.whole[None], self.condition)
        fidelity = codec.fidelity(weights, stored, nearest(own, others, codec.basis.size))
        record = np.zeros((), self.settings.dtype)
        record["operator"] = stored[0]
        if self.settings.has_offset:
            record["offset"] = stored[1]
        changed = codec.changed_form(weights, stored)
        record["noise"] = MapNoise.of(regression, codec.basis.basis, codec.basis.size, changed).record()
        record["amplitude"] = regression.amplitude
        record["box"], record["size"] = picture.box, picture.original_size
        record["passes"], record["seconds"] = len(prepared.plan) + 1, prepared.seconds
        maps, seen = b"", prepared.seen
        if seen is not None and self.table is not None:
            record["confidences"] = np.rint(seen.confidences * CONFIDENCE_LEVELS)
            maps = packed_maps(seen, nameable(self.table, seen.confidences))
        thumbnail = _jpeg(picture.pixels) if self.settings.thumbnails else b""
        return IndexRow(*names, digest, prepared.whole, record, maps, thumbnail, fidelity.astype(np.float16))


def confidences_of(records: np.ndarray) -> np.ndarray:
    """Return the confidences (n, A) float64 in [0, 1] of records (n,)."""
    return records["confidences"].astype(np.float64) / CONFIDENCE_LEVELS


def nameable(table: AttributeTable, confidences: np.ndarray) -> np.ndarray:
    """Return which attributes an explanation of a picture can name, whatever the reference: (n,) int, at most MOST_MAPS, the
    likeliest. confidences: (A,) float64
    """
    best = np.maximum(joint_probability(confidences, np.ones_like(confidences), table.joint), confidences)
    found = np.flatnonzero(best >= table.threshold)
    return np.sort(found[np.argsort(-best[found], kind="stable")][:MOST_MAPS])


def packed_maps(seen: Activations, which: np.ndarray) -> bytes:
    """Return the activation maps of some attributes: the number of them and their places in the table as little-endian
    uint16, then each map as uint8, the square root as a share of its largest.
    """
    maps = seen.maps[which].reshape(len(which), -1)
    roots = np.sqrt(maps / np.maximum(maps.max(1, keepdims=True, initial=0), np.finfo(np.float32).tiny))
    head = np.array([len(which), *which], "<u2")
    return head.tobytes() + np.rint(roots * MAP_LEVELS).astype(np.uint8).tobytes()


def longest_maps(cells: tuple[int, int]) -> int:
    """Return the bytes that `packed_maps` makes at most. cells: (h, w) of a map"""
    return 2 + MOST_MAPS * (2 + cells[0] * cells[1])


def unpacked_maps(packed: bytes, count: int, cells: tuple[int, int]) -> np.ndarray:
    """Return the maps (A, h, w) float32 that `packed_maps` stored, each summing to 1; the others are even.

    Raises OutputError for bytes that are something else.
    """
    area = cells[0] * cells[1]
    maps = np.empty((count, *cells), np.float32)
    maps.fill(1 / area)
    stored = int.from_bytes(packed[:2], "little")
    if len(packed) != 2 + stored * (2 + area):
        raise OutputError("a row's activation maps are damaged: `python -m engine.index verify` says where")
    if stored:
        squares = np.square(np.frombuffer(packed, np.uint8, stored * area, 2 + 2 * stored).astype(np.float32))
        squares = squares.reshape(stored, area)
        sums = np.maximum(squares.sum(1, keepdims=True), 1)
        maps[np.frombuffer(packed, "<u2", stored, 2)] = (squares / sums).reshape(stored, *cells)
    maps.flags.writeable = False  # every `Attribute` is given a view of it
    return maps


class MapsOnDemand(Sequence[np.ndarray | None]):
    """The activation maps of a row, which are unpacked when the first one is asked for: few explanations name one."""

    def __init__(self, packed: bytes, count: int, cells: tuple[int, int]) -> None:
        self._packed, self._count, self._cells = packed, count, cells

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, index: Any) -> Any:
        return self._maps[index]

    @functools.cached_property
    def _maps(self) -> np.ndarray:
        return unpacked_maps(self._packed, self._count, self._cells)


def _jpeg(pixels: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "JPEG", quality=QUALITY)
    return buffer.getvalue()


def from_jpeg(content: bytes) -> np.ndarray:
    """Return a thumbnail (H, W, 3) uint8."""
    with Image.open(io.BytesIO(content), formats=["JPEG"]) as picture:
        return np.asarray(picture.convert("RGB"))
