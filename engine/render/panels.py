"""The pictures of an explanation side by side: each a panel, with a map in colours over it or without."""

import dataclasses
from collections.abc import Sequence

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
    seen: what the network saw of the picture; None: all of it
    """

    caption: str
    picture: Image.Image
    layer: np.ndarray | None = None
    trust: str = ""
    seen: Region | None = None

    def drawn(self) -> Image.Image:
        """Return the picture, below its map if it has one."""
        return self.picture if self.layer is None else over_grey(self.picture, self.layer)


def panels(explanation: Findings, contours: bool = False) -> list[Panel]:
    """Return the panels of what the network saw. Query and reference stand together where their regions were matched."""
    e, scale = explanation, Scale.of(explanation)
    query = enlarged(e.query_image)
    colours = map_layer(e.saliency, e.saliency_error, whole_box(query), query.size, scale, contours)
    own = [Panel(QUERY, query), Panel(query_map_text(e), query, colours, map_trust(e))]
    other: list[Panel] = []
    if e.reference_image is not None:
        reference = enlarged(e.reference_image)
        other.append(Panel(REFERENCE, reference))
        if e.reference_saliency is not None:
            map_, error = e.reference_saliency, e.reference_saliency_error
            colours = map_layer(map_, error, whole_box(reference), reference.size, scale, contours)
            other.append(Panel(REFERENCE_MAP, reference, colours, map_trust(e, of_reference=True)))
    return in_order(own, other, rival_panel(e))


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
