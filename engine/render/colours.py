"""Colours of a map: about zero for maps in similarity units, from least to most for others; nothing where nothing matters.

What raises the similarity goes from light orange to dark red, what lowers it to blue with hatching, which shows in grey too.
"""

import dataclasses
from collections.abc import Sequence

import numpy as np
from PIL import Image

from engine.findings import Findings
from engine.saliency.links import Region
from engine.saliency.originals import map_on_original

RAISES = np.array([[255, 236, 190], [253, 174, 80], [226, 84, 30], [120, 12, 20]], np.float64)
"""(4, 3) colours from least to most, evenly spaced."""
LOWERS = np.array([[222, 238, 250], [150, 200, 240], [75, 150, 222], [30, 95, 190]], np.float64)
"""(4, 3) the same of what lowers the similarity."""
MOST_OPAQUE = 0.9
"""Opacity of the strongest colour."""
OPACITY_POWER = 0.7
"""Opacity is strength to this power: below 1, weak parts still show."""
HATCHED_FROM, CONTOUR_AT = 0.15, 0.5
"""Strengths from which what lowers the similarity is hatched, and at which contours are drawn."""
PANEL = 300
"""Longer side of a panel, in pixels; patterns are drawn for this size."""
HATCH, DOTS, DASH = 7, 12, 10
"""Pixels of a panel between two lines of the hatching, two dots, two dashes."""
BAR_HEIGHT = 12
"""Height of the bar of colours, in pixels."""
ERRORS = 2
"""A value within so many standard errors of zero has no colour."""
LEAST_GREY = 0.35
"""How bright black becomes below a map: its colours must show on dark pictures."""


@dataclasses.dataclass(frozen=True)
class Scale:
    """What the colours of all maps of one explanation stand for.

    most: the value of the strongest colour; signed: whether maps are drawn about zero, or from their own least value
    """

    most: float
    signed: bool

    @classmethod
    def of(cls, explanation: Findings) -> "Scale":
        """Return the scale that every map of an explanation shares."""
        maps = [m for m in (explanation.saliency, explanation.reference_saliency) if m is not None]
        return cls.around(maps, explanation.estimator == "regression")

    @classmethod
    def around(cls, maps: Sequence[np.ndarray], signed: bool) -> "Scale":
        """Return the scale whose strongest colour is the strongest value of maps, each (H, W) float32."""
        return cls(max(float(np.abs(m).max() if signed else np.ptp(m)) for m in maps), signed)

    def strengths(self, map_: np.ndarray, least: float) -> np.ndarray:
        """Return values as shares of the strongest colour: (H, W) float64 in [-1, 1]; nan stays. least: of the whole map"""
        values = np.asarray(map_, np.float64) - (0 if self.signed else least)
        return values / self.most if self.most > 0 else np.zeros_like(values)


def map_layer(
    saliency: np.ndarray, error: np.ndarray | None, box: Region, size: tuple[int, int], scale: Scale, contours: bool = False
) -> np.ndarray:
    """Return the colours of a map over a picture, (height, width, 4) uint8 with opacity.

    saliency: (H, W) float32, error: (T, T) float32 or None, both over `box` of the picture; size: (width, height) of it
    contours: draw lines at half of the strongest value, dashed where the similarity is lowered
    """
    map_, errors = spread(saliency, error, box, size, scale)
    return coloured(map_, errors, scale, float(saliency.min()), max(size) / PANEL, contours)


def spread(
    saliency: np.ndarray, error: np.ndarray | None, box: Region, size: tuple[int, int], scale: Scale
) -> tuple[np.ndarray, np.ndarray | None]:
    """Return a map over a picture, and its errors if they say what is zero: (height, width) float32, nan outside `box`."""
    errors = None if error is None or not scale.signed else map_on_original(error, box, size)
    return map_on_original(saliency, box, size), errors


def coloured(
    map_: np.ndarray,
    errors: np.ndarray | None,
    scale: Scale,
    least: float,
    zoom: float = 1.0,
    contours: bool = False,
    first_row: int = 0,
) -> np.ndarray:
    """Return `map_layer` of some rows of a map.

    map_, errors: (h, w) float32, nan where the network saw nothing; zoom: pixels for each pixel of a panel
    first_row: number of the first row in the picture, which places the patterns
    """
    strength = scale.strengths(map_, least)
    seen = np.isfinite(strength)
    strength = np.where(seen, strength, 0)
    known = np.ones_like(seen) if errors is None else np.abs(map_) >= ERRORS * np.nan_to_num(errors)
    size = np.where(known, np.minimum(np.abs(strength), 1), 0)
    layer = np.zeros((*strength.shape, 4), np.uint8)
    layer[..., :3] = np.where((strength < 0)[..., None], _ramp(LOWERS, size), _ramp(RAISES, size))
    layer[..., 3] = np.rint(255 * MOST_OPAQUE * size**OPACITY_POWER)
    y, x = (np.arange(n) / zoom for n in strength.shape)
    y = (y + first_row / zoom)[:, None]
    hatched = (strength <= -HATCHED_FROM) & known & (np.mod(x + y, HATCH) < 1)
    layer[hatched] = (*LOWERS[-1].astype(int), 255)
    dotted = seen & ~known & (np.mod(y, DOTS) < 1) & (np.mod(x, DOTS) < 1)
    layer[dotted] = (110, 110, 110, 200)
    if contours:
        for sign, dashed in ((1, False), (-1, True)):
            line = _outline(sign * strength >= CONTOUR_AT, max(round(2 * zoom), 1))
            layer[line & (np.mod(x + y, DASH) < DASH / 2) if dashed else line] = (20, 20, 20, 255)
    return layer


def over_grey(picture: Image.Image, layer: np.ndarray) -> Image.Image:
    """Return a picture in light grey below the colours of its map. layer: (H, W, 4) uint8 of the picture's size"""
    grey = np.asarray(picture.convert("L"), np.float64)[..., None] / 255
    ground = 255 * (LEAST_GREY + (1 - LEAST_GREY) * grey)
    opacity = layer[..., 3:].astype(np.float64) / 255
    return Image.fromarray(np.rint(ground * (1 - opacity) + layer[..., :3] * opacity).astype(np.uint8))


def bar(scale: Scale, width: int, height: int) -> Image.Image:
    """Return the colours from the least to the most value, as they look on white."""
    values = np.linspace(-scale.most if scale.signed else 0, scale.most, width)[None].repeat(height, 0)
    return over_grey(Image.new("RGB", (width, height), "white"), coloured(values, None, scale, 0.0))


def bar_ticks(scale: Scale) -> list[str]:
    """Return what stands below the bar: at its ends, and in the middle if zero is there."""
    most = f"{scale.most:.2g}"
    return [f"-{most}", "0", f"+{most}"] if scale.signed else ["0", most]


def own_ticks(scale: Scale) -> list[str]:
    """Return what stands below the bar where each map has a scale of its own."""
    most = "the map's own most"
    return [f"-{most}", "0", f"+{most}"] if scale.signed else ["0", most]


def bar_text(explanation: Findings) -> str:
    """Return the unit of the bar in words."""
    if explanation.estimator == "regression":
        what = "similarity" if explanation.rather_than_similarity is None else "difference of the two similarities"
        marks = "hatched: showing it lowers it; dotted: within its error" if explanation.saliency_error is not None else ""
        return f"{what} added where a pixel is shown" + (f" ({marks})" if marks else "")
    return f"{explanation.method}'s own score, above the least of each map"


def _ramp(colours: np.ndarray, level: np.ndarray) -> np.ndarray:
    positions = np.linspace(0, 1, len(colours))
    return np.stack([np.interp(level, positions, colours[:, c]) for c in range(3)], axis=-1)


def _outline(inside: np.ndarray, thick: int) -> np.ndarray:
    """Return the pixels (H, W) bool inside a region that have one outside near."""
    core = inside.copy()
    for _ in range(thick):
        padded = np.pad(core, 1, constant_values=True)
        core = core & padded[2:, 1:-1] & padded[:-2, 1:-1] & padded[1:-1, 2:] & padded[1:-1, :-2]
    return inside & ~core
