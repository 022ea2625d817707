"""Pairs of pictures with a known answer: the same object at two places, among other objects, on two textures.

Objects are Debian's clip art by its outline, and ovals cut from photos of scikit-image and scikit-learn. In the second
picture the object is shifted, scaled, and mirrored half the time; the other objects and the texture are others.
"""

import dataclasses
import functools
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageOps

from benchmarks.attribute_sets import fetched_clipart
from benchmarks.pictures import OTHER_PHOTOS, PHOTOS, TEXTURES, photo

SIDE = 224
CELL = SIDE // 2
"""Each object lies in one of four squares of this side."""
SCALES = (0.65, 0.95)
"""Longer side of an object, as a share of CELL."""
DISTRACTORS = 2
OBJECTS = 2 + 2 * DISTRACTORS
STICKER = 56
SPLITS = {"tuning": 0, "report": 1}
LEAST_FILLED = 0.3
"""A clip art of whose bounding box less is opaque is not used: a tile on it would show the texture."""
LARGEST_FILE = 60_000
"""Bytes of a clip art: larger ones are whole scenes."""

Place = tuple[int, int, int, int]
"""(left, top, right, bottom) in pixels."""


@dataclasses.dataclass(frozen=True, eq=False)
class PlantedPair:
    """Two pictures (SIDE, SIDE, 3) uint8 that share one object. places: where it lies in each; mirrored: in the second"""

    kind: str
    pictures: tuple[np.ndarray, np.ndarray]
    places: tuple[Place, Place]
    mirrored: bool


def planted_pairs(split: str, count: int, cache: Path, shared: bool = True) -> list[PlantedPair]:
    """Return `count` pairs, by turns of clip art and of photos. split: tuning or report, which share no object

    shared: False: pairs of unrelated pictures, which have no object and no texture in common
    """
    random = np.random.default_rng((SPLITS[split], shared))
    art = _clipart(cache, split)
    made = []
    for i in range(count):
        kind = ("clip art", "photo")[i % 2]
        objects = _clipart_objects(art, random) if kind == "clip art" else _ovals(split, random)
        made.append(_pair(kind, objects, random, shared))
    return made


def stickered(pair: PlantedPair, seed: int) -> PlantedPair:
    """Return a pair of unrelated pictures with one sticker in both. places: where the sticker is"""
    random = np.random.default_rng(seed)
    sticker = _sticker(random)
    pictures, places = [], []
    for pixels in pair.pictures:
        ground = Image.fromarray(pixels)
        left, top = (int(v) for v in random.integers(0, SIDE - STICKER + 1, 2))
        ground.paste(sticker, (left, top))
        pictures.append(np.asarray(ground))
        places.append((left, top, left + STICKER, top + STICKER))
    return PlantedPair("sticker", (pictures[0], pictures[1]), (places[0], places[1]), mirrored=False)


def _pair(kind: str, objects: list[Image.Image], random: np.random.Generator, shared: bool) -> PlantedPair:
    """objects: one for each picture, of which the first is in both if it is shared, then DISTRACTORS for each picture."""
    textures = [TEXTURES[i] for i in random.permutation(len(TEXTURES))[:2]]
    mirrored = bool(random.integers(2))
    pictures, places = [], []
    for side in range(2):
        ground = _texture(textures[side], random)
        own = objects[0 if shared else side]
        own = ImageOps.mirror(own) if side and mirrored else own
        others = objects[2 + side * DISTRACTORS :][:DISTRACTORS]
        cells = random.permutation(4)
        found = [_paste(ground, thing, int(cell), random) for thing, cell in zip([own, *others], cells, strict=False)]
        pictures.append(np.asarray(ground))
        places.append(found[0])
    return PlantedPair(kind, (pictures[0], pictures[1]), (places[0], places[1]), mirrored)


def _paste(ground: Image.Image, thing: Image.Image, cell: int, random: np.random.Generator) -> Place:
    """Paste an object at a random size and place in a cell; return where."""
    scale = random.uniform(*SCALES) * CELL / max(thing.size)
    small = thing.resize((max(round(thing.width * scale), 1), max(round(thing.height * scale), 1)), Image.Resampling.LANCZOS)
    left = cell % 2 * CELL + int(random.integers(0, CELL - small.width + 1))
    top = cell // 2 * CELL + int(random.integers(0, CELL - small.height + 1))
    ground.paste(small, (left, top), small)
    return left, top, left + small.width, top + small.height


def _texture(name: str, random: np.random.Generator) -> Image.Image:
    whole = photo(name).resize((2 * SIDE, 2 * SIDE))
    left, top = (int(v) for v in random.integers(0, SIDE + 1, 2))
    return whole.crop((left, top, left + SIDE, top + SIDE))


def _clipart(cache: Path, split: str) -> list[Path]:
    """Return the files of one split: every other folder."""
    root = fetched_clipart(cache)
    folders = sorted({file.parent for file in root.rglob("*.png")})[SPLITS[split] :: 2]
    return [file for folder in folders for file in sorted(folder.glob("*.png")) if file.stat().st_size < LARGEST_FILE]


def _clipart_objects(files: list[Path], random: np.random.Generator) -> list[Image.Image]:
    """Return 1 + 2 DISTRACTORS objects from different folders."""
    found: dict[Path, Image.Image] = {}
    while len(found) < OBJECTS:
        file = files[int(random.integers(len(files)))]
        thing = None if file.parent in found else _outlined(file)
        if thing is not None:
            found[file.parent] = thing
    return list(found.values())


def _outlined(file: Path) -> Image.Image | None:
    """Return a clip art cut to its opaque part; None if that is no solid object."""
    try:
        picture = Image.open(file).convert("RGBA")
    except (OSError, ValueError):
        return None
    alpha = picture.getchannel("A")
    box = alpha.point(lambda v: 255 * (v > 127)).getbbox()  # type: ignore[no-untyped-call]
    if box is None:
        return None
    picture = picture.crop(box)
    filled = (np.asarray(picture)[..., 3] > 127).mean()
    long = max(picture.size) / min(picture.size)
    return picture if LEAST_FILLED < filled < 1 and long < 2 else None


def _ovals(split: str, random: np.random.Generator) -> list[Image.Image]:
    """Return 1 + 2 DISTRACTORS ovals from different photos; the left halves of the photos are for tuning."""
    names = [name for name in (*PHOTOS, *OTHER_PHOTOS) if name not in TEXTURES]
    chosen = random.permutation(len(names))[:OBJECTS]
    return [_oval(_half(names[i], split), random) for i in chosen]


@functools.cache
def _half(name: str, split: str) -> Image.Image:
    whole = photo(name)
    middle = whole.width // 2
    return whole.crop((0, 0, middle, whole.height) if split == "tuning" else (middle, 0, whole.width, whole.height))


def _oval(picture: Image.Image, random: np.random.Generator) -> Image.Image:
    side = round(0.7 * min(picture.size))
    left, top = (int(random.integers(0, length - side + 1)) for length in picture.size)
    cut = picture.crop((left, top, left + side, top + side)).resize((CELL, CELL), Image.Resampling.LANCZOS)
    shape = Image.new("L", cut.size, 0)
    ImageDraw.Draw(shape).ellipse((0, 0, CELL - 1, CELL - 1), fill=255)
    cut.putalpha(shape)
    return cut


def _sticker(random: np.random.Generator) -> Image.Image:
    """A disc on a square of another colour, both bright."""
    colours = [tuple(int(255 * v) for v in np.eye(3)[i]) for i in random.permutation(3)[:2]]
    sticker = Image.new("RGB", (STICKER, STICKER), colours[0])
    ImageDraw.Draw(sticker).ellipse((6, 6, STICKER - 7, STICKER - 7), fill=colours[1])
    return sticker
