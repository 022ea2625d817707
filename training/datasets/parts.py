"""Visible parts of emoji as attributes: colours, outline, faces and hands, from each drawing and from its name.

The rules, over the opaque pixels (alpha above 127) of a drawing:
- the colour of a pixel is one of eleven, by its hue, saturation and value (`colours`);
- "mostly C": at least 45% of the pixels have colour C; "some C": at least 12%, but not mostly;
- "C above", "C below": at least 45% of the pixels in the upper or lower third of the drawing's height have colour C;
- "round", "square", "wide", "tall", "thin", "pieces", "hole": from the outline (`outline`);
- "face", "person", "hand", "heart", "animal face": from words in the emoji's name (`NAMED`).
Attributes that are true of fewer than 60 drawings, both vendors together, are left out.
"""

import re

import numpy as np
from scipy import ndimage

MIN_DRAWINGS = 60
MOSTLY, SOME = 0.45, 0.12
COLOURS = ("black", "white", "grey", "red", "orange", "brown", "yellow", "green", "blue", "purple", "pink")
HUES = (
    (15, "red"),
    (42, "orange"),
    (70, "yellow"),
    (165, "green"),
    (260, "blue"),
    (300, "purple"),
    (345, "pink"),
    (361, "red"),
)
"""A saturated pixel has the first colour whose number, in degrees, is above its hue."""
NAMED = {
    "face": r"\bface\b",
    "person": r"\b(man|men|woman|women|person|people|boy|girl|child|baby|adult|prince|princess|mage|fairy|elf)\b",
    "hand": r"\b(hands?|fingers?|fist|thumbs?|palms?|pinch\w*|clapping|handshake)\b",
    "heart": r"\b(hearts?|love)\b",
    "animal face": (
        r"\b(cat|dog|monkey|mouse|hamster|rabbit|fox|bear|panda|koala|tiger|lion|cow|pig|frog|horse|dragon|wolf)( face)?$"
    ),
}


def visible_parts(labels: list[str], drawings: list[np.ndarray]) -> tuple[tuple[str, ...], np.ndarray]:
    """Return attribute names (A,) and truth (V * B, A) bool, with the drawings of the first vendor first.

    labels: (B,) names of the emoji; drawings: for each of V vendors (B, 64, 64, 4) uint8 RGBA
    """
    named = [[name for name, rule in NAMED.items() if re.search(rule, label)] for label in labels]
    seen = [{*named[i], *_parts_of(drawing)} for vendor in drawings for i, drawing in enumerate(vendor)]
    names = sorted(set().union(*seen))
    truth = np.array([[name in each for name in names] for each in seen])
    kept = truth.sum(0) >= MIN_DRAWINGS
    return tuple(np.array(names)[kept].tolist()), truth[:, kept]


def _parts_of(drawing: np.ndarray) -> set[str]:
    """Return the colours and outline of a drawing (64, 64, 4) uint8 RGBA."""
    shown = drawing[..., 3] > 127
    rows = np.flatnonzero(shown.any(1))
    if not len(rows):
        return set()
    top, bottom = rows[0], rows[-1] + 1
    third = (bottom - top + 2) // 3
    colour = colours(drawing[..., :3])
    found = set(outline(shown))
    for share, name in zip(_shares(colour[shown]), COLOURS, strict=True):
        if share >= SOME:
            found.add(f"{'mostly' if share >= MOSTLY else 'some'} {name}")
    for part, where in ((slice(top, top + third), "above"), (slice(bottom - third, bottom), "below")):
        shares = _shares(colour[part][shown[part]])
        found |= {f"{name} {where}" for share, name in zip(shares, COLOURS, strict=True) if share >= MOSTLY}
    return found


def _shares(colour: np.ndarray) -> np.ndarray:
    """Return the share (11,) of each colour among pixels (n,), given as indices of COLOURS."""
    return np.bincount(colour, minlength=len(COLOURS)) / max(len(colour), 1)


def colours(rgb: np.ndarray) -> np.ndarray:
    """Return the colour of each pixel: (..., 3) uint8 -> (...) int, an index of COLOURS.

    Black: value below 0.25. White: saturation below 0.12 and value above 0.88. Grey: saturation below 0.15. Others by hue,
    except that orange of value below 0.7 is brown, and red of saturation below 0.5 and value above 0.8 is pink.
    """
    x = rgb.astype(np.float64) / 255
    value, low = x.max(-1), x.min(-1)
    saturation = np.divide(value - low, value, out=np.zeros_like(value), where=value > 0)
    name = np.asarray([n for _, n in HUES])[np.searchsorted([h for h, _ in HUES], _hue(x), side="right")]
    name = np.where((name == "orange") & (value < 0.7), "brown", name)
    name = np.where((name == "red") & (saturation < 0.5) & (value > 0.8), "pink", name)
    name = np.where(saturation < 0.15, "grey", name)
    name = np.where((saturation < 0.12) & (value > 0.88), "white", name)
    name = np.where(value < 0.25, "black", name)
    order = np.argsort(COLOURS)
    return order[np.searchsorted(COLOURS, name, sorter=order)]


def _hue(x: np.ndarray) -> np.ndarray:
    """Return the hue of (..., 3) in [0, 1]: (...) degrees in [0, 360)."""
    red, green, blue = x[..., 0], x[..., 1], x[..., 2]
    high = x.max(-1)
    span = np.maximum(high - x.min(-1), 1e-12)
    sector = np.where(
        high == red, (green - blue) / span, np.where(high == green, 2 + (blue - red) / span, 4 + (red - green) / span)
    )
    return 60 * sector % 360


def outline(shown: np.ndarray) -> list[str]:
    """Name the attributes of the shape of `shown` (H, W) bool.

    wide, tall: the bounding box is at least 1.5 times as long one way. round: about as wide as tall, fills 74% to 83% of its
    box (a disc fills 79%), and its corners are free. square: about as wide as tall, fills more than 90%. thin: fills less
    than 45%. pieces: two or more parts of at least 2% of the shown pixels. hole: enclosed background of at least 2% of them.
    """
    rows, columns = np.flatnonzero(shown.any(1)), np.flatnonzero(shown.any(0))
    height, width = np.ptp(rows) + 1, np.ptp(columns) + 1
    box = shown[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    fill, long = box.mean(), max(height, width) / min(height, width)
    corners = box[[0, 0, -1, -1], [0, -1, 0, -1]].any()
    least = 0.02 * shown.sum()
    enclosed = ndimage.binary_fill_holes(shown) & ~shown
    found = {
        "wide": width / height >= 1.5,
        "tall": height / width >= 1.5,
        "round": long < 1.15 and 0.74 <= fill <= 0.83 and not corners,
        "square": long < 1.15 and fill > 0.9,
        "thin": fill < 0.45,
        "pieces": _connected(shown, least) > 1,
        "hole": _connected(enclosed, least) > 0,
    }
    return [name for name, holds in found.items() if holds]


def _connected(mask: np.ndarray, least: float) -> int:
    """Count the connected parts of at least `least` pixels in a mask (H, W) bool."""
    numbered, count = ndimage.label(mask)
    return int((np.bincount(numbered.ravel(), minlength=count + 1)[1:] >= least).sum())
