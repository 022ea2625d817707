"""The pictures of an explanation side by side: each a panel, with a map in colours over it or without."""

import dataclasses
import functools
from collections.abc import Callable, Sequence

import numpy as np
from PIL import Image

from engine.findings import Findings
from engine.render.colours import PANEL, Scale, map_layer, over_grey
from engine.render.texts import map_trust, query_map_text
from engine.saliency.links import Region

QUERY, REFERENCE, RIVAL = "query", "reference", "rather than"
REFERENCE_MAP = "what matters in the reference"


@dataclasses.dataclass(frozen=True, eq=False)
class Panel:
    """A picture, its longer side PANEL pixels, and its caption.

    layer: the colours of its map, (height, width, 4) uint8; None: the picture alone; trust: how far the map can be trusted
    alone: makes the colours on a scale of this map's own, whose strongest stands for `most`
    seen: what the network saw of the picture; None: all of it; of_reference: whether it is the reference, or its map
    """

    caption: str
    picture: Image.Image
    layer: np.ndarray | None = None
    trust: str = ""
    seen: Region | None = None
    of_reference: bool = False
    alone: Callable[[], np.ndarray] | None = None
    most: float = 0.0

    def drawn(self) -> Image.Image:
        """Return the picture, below its map if it has one."""
        return self.picture if self.layer is None else over_grey(self.picture, self.layer)


@dataclasses.dataclass(frozen=True, eq=False)
class Side:
    """One of the two pictures of an explanation, and its map.

    pixels: (H, W, 3) uint8 as the network saw it; box: that part of the original; boxes: of its links, in pixels
    saliency: (H, W) float32 or None; error: (T, T) float32 or None; trust: how far the map can be trusted
    """

    caption: str
    of_map: str
    pixels: np.ndarray
    box: Region
    boxes: Sequence[Region]
    saliency: np.ndarray | None
    error: np.ndarray | None
    trust: str

    def panels(self, picture: Image.Image, seen: Region | None, scale: Scale, contours: bool) -> list[Panel]:
        """Return the panel of this picture, and that of its map if there is one. seen: what the network saw of `picture`"""
        found = [Panel(self.caption, picture, seen=seen, of_reference=self.caption == REFERENCE)]
        if self.saliency is not None:
            box = seen or whole_box(picture)
            draw = functools.partial(map_layer, self.saliency, self.error, box, picture.size, contours=contours)
            own = Scale.around([self.saliency], scale.signed)
            alone = functools.partial(draw, scale=own)
            of_reference = self.caption == REFERENCE
            found.append(Panel(self.of_map, picture, draw(scale=scale), self.trust, seen, of_reference, alone, own.most))
        return found


def query_side(explanation: Findings) -> Side:
    """Return the query and its map."""
    e, links = explanation, explanation.links or ()
    boxes = [link.query_box for link in links]
    of_map = query_map_text(e)
    return Side(QUERY, of_map, e.query_image, e.query_box, boxes, e.saliency, e.saliency_error, map_trust(e))


def reference_side(explanation: Findings) -> Side | None:
    """Return the reference and its map if it has one; None where the reference was given as an embedding."""
    e, links = explanation, explanation.links or ()
    if e.reference_image is None or e.reference_box is None:
        return None
    boxes, trust = [link.reference_box for link in links], map_trust(e, of_reference=True)
    saliency, error = e.reference_saliency, e.reference_saliency_error
    return Side(REFERENCE, REFERENCE_MAP, e.reference_image, e.reference_box, boxes, saliency, error, trust)


def panels(explanation: Findings, contours: bool = False) -> list[Panel]:
    """Return the panels of what the network saw. Query and reference stand together where both have maps."""
    query, reference, scale = query_side(explanation), reference_side(explanation), Scale.of(explanation)
    own = query.panels(enlarged(query.pixels), None, scale, contours)
    other = [] if reference is None else reference.panels(enlarged(reference.pixels), None, scale, contours)
    return in_order(own, other, rival_panel(explanation))


def in_order(query: list[Panel], reference: list[Panel], rival: list[Panel]) -> list[Panel]:
    """Return all panels: with two maps, these stand outside, so that lines can join query and reference."""
    return [*(query[::-1] if len(reference) > 1 else query), *reference, *rival]


def rival_panel(explanation: Findings) -> list[Panel]:
    """Return the panel of the reference that this one is told from, as the network saw it; [] if there is none."""
    pixels = explanation.rather_than_image
    return [] if pixels is None else [Panel(RIVAL, enlarged(pixels))]


def panel_of(shown: Sequence[Panel], caption: str) -> Panel:
    """Return the panel with a caption, QUERY or REFERENCE."""
    return next(panel for panel in shown if panel.caption == caption)


def enlarged(pixels: np.ndarray) -> Image.Image:
    """Return pixels (H, W, 3) uint8 as a panel: enlarged or reduced until the longer side has PANEL pixels."""
    height, width = pixels.shape[:2]
    scale = PANEL / max(height, width)
    size = (max(round(width * scale), 1), max(round(height * scale), 1))
    return Image.fromarray(pixels).resize(size, Image.Resampling.BICUBIC)


def whole_box(picture: Image.Image) -> Region:
    """Return the box around a whole picture."""
    return 0.0, 0.0, float(picture.width), float(picture.height)
