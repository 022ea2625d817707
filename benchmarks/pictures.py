"""The pictures of the benchmarks: held-out emoji, photos from scikit-image and scikit-learn, and pasted objects.

No query and no reference was used to train or quantize a network: emoji are from the held-out split and photos from PHOTOS;
networks are quantized on training emoji or on OTHER_PHOTOS.
"""

import dataclasses
import os
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import skimage
import sklearn
from PIL import Image

from engine import Explainer
from engine.pictures.loading import load_picture
from engine.pictures.preprocessing import Preprocessing
from training.datasets import emoji as emoji_data

EMOJI = Path(".cache/emoji")
DEMO = Path(__file__).parent.parent / "engine" / "data" / "pictures"
SKIMAGE = Path(skimage.__file__).parent / "data"
SKLEARN = Path(sklearn.__file__).parent / "datasets" / "images"
PHOTOS = ("astronaut.png", "chelsea.png", "coffee.png", "motorcycle_left.png", "rocket.jpg", "camera.png", "china.jpg")
OTHER_PHOTOS = ("ihc.png", "hubble_deep_field.jpg", "retina.jpg", "coins.png", "horse.png", "flower.jpg", "clock_motion.png")
TEXTURES = ("brick.png", "grass.png", "gravel.png")
SEED = 0
REFERENCES = 5
CALIBRATION_EMOJI = 32
SIDE = 0.45
"""Side of a pasted object, as a share of the picture's side."""


@dataclasses.dataclass(frozen=True, eq=False)
class Query:
    """A query with its references, RGB pictures. picture: the query; references: the best match first"""

    name: str
    picture: Image.Image
    references: tuple[Image.Image, ...]


@dataclasses.dataclass(frozen=True, eq=False)
class Pasted:
    """An object on a texture. picture: (S, S, 3) uint8; reference: another picture of the object; truth: (S, S) bool, where
    the object is
    """

    picture: np.ndarray
    reference: Image.Image
    truth: np.ndarray


def queries(kind: str, explainer: Explainer, count: int) -> list[Query]:
    """Return `count` queries with 5 references each. kind: emoji, photos or demo (the four pairs of the package)

    Emoji: Google's drawing of a held-out emoji against Twitter's drawing of it, and of the four most similar held-out ones.
    Photos: a crop of a photo against the most similar other crops, by the network's embeddings.
    """
    if kind == "emoji":
        return _emoji_queries(explainer, count)
    names, pool = _demo() if kind == "demo" else _crops(PHOTOS)
    nearest = _nearest(explainer.embed(pool), explainer.embed(pool))
    order = np.random.RandomState(SEED).permutation(len(pool)) if kind == "photos" else np.arange(0, len(pool), 2)
    return [Query(names[i], pool[i], tuple(pool[j] for j in nearest[i])) for i in order[:count]]


def pasted(kind: str, preprocessing: Preprocessing, count: int) -> list[Pasted]:
    """Return objects on textures, at random places, 45% of the side long: held-out emoji by their outline, or square photos.

    The reference is the other vendor's drawing, or the whole photo.
    """
    random = np.random.RandomState(SEED)
    size = preprocessing.height
    side = round(SIDE * size)
    if kind == "emoji":
        data = emoji_data.load_pair(EMOJI)
        chosen = data.base[random.permutation(data.held_out)[:count]]
        cutouts = [Image.fromarray(data.pictures["google"][i]) for i in chosen]
        others = [load_picture(Image.fromarray(data.pictures["twitter"][i])) for i in chosen]
    elif kind == "demo":
        drawings = sorted(DEMO.glob("*.png"))[: 2 * count]
        cutouts = [Image.open(p).convert("RGBA") for p in drawings[::2]]
        others = [load_picture(p) for p in drawings[1::2]]
    else:
        others = [load_picture(_path(PHOTOS[i % len(PHOTOS)])) for i in range(count)]
        cutouts = [_square(photo, 0.5).convert("RGBA") for photo in others]
    textures = [np.asarray(load_picture(_path(name)).resize((2 * size, 2 * size))) for name in TEXTURES]
    made = []
    for i, (cutout, other) in enumerate(zip(cutouts, others, strict=True)):
        top, left = random.randint(0, size - side + 1, 2)
        y, x = random.randint(0, size + 1, 2)
        ground = Image.fromarray(textures[i % len(textures)][y : y + size, x : x + size])
        small = cutout.resize((side, side), Image.Resampling.BILINEAR)
        ground.paste(small, (int(left), int(top)), small)
        truth = np.zeros((size, size), bool)
        truth[top : top + side, left : left + side] = np.asarray(small)[..., 3] > 127
        made.append(Pasted(np.asarray(ground), other, truth))
    return made


def calibration_photos() -> list[Image.Image]:
    """Return three crops of each photo that no benchmark explains."""
    return _crops(OTHER_PHOTOS)[1]


def photo_folder(folder: Path) -> Path:
    """Write the calibration photos into `folder`, unless it is there, and return it."""
    return _filled(folder, calibration_photos())


def emoji_folder(data: emoji_data.EmojiPair, folder: Path) -> Path:
    """Write training emoji into `folder`, unless it is there, and return it."""
    return _filled(folder, emoji_pictures(data, CALIBRATION_EMOJI))


def emoji_pictures(data: emoji_data.EmojiPair, count: int) -> list[Image.Image]:
    """Return training emoji of both vendors, on white."""
    chosen = data.base[np.random.RandomState(SEED).permutation(data.train)[: count // 2]]
    return [load_picture(Image.fromarray(data.pictures[v][i])) for i in chosen for v in emoji_data.VENDORS]


def emoji_drawings(cache: Path) -> Iterator[tuple[str, Image.Image]]:
    """Give every base emoji as Google draws it, on white, with a file name."""
    data = emoji_data.load_pair(cache)
    for number, base in enumerate(data.base):
        yield f"{number:04}.png", load_picture(Image.fromarray(data.pictures["google"][base]))


def _emoji_queries(explainer: Explainer, count: int) -> list[Query]:
    data = emoji_data.load_pair(EMOJI)
    order = np.random.RandomState(SEED).permutation(data.held_out)  # the first 10 stay the same for any count
    drawings = {
        v: [load_picture(Image.fromarray(data.pictures[v][data.base[k]])) for k in order] for v in emoji_data.VENDORS
    }
    asked = drawings["google"][:count]
    nearest = _nearest(explainer.embed(asked), explainer.embed(drawings["twitter"]))
    return [
        Query(data.labels[order[i]], asked[i], tuple(drawings["twitter"][j] for j in (i, *nearest[i][: REFERENCES - 1])))
        for i in range(count)
    ]


def _nearest(queries: np.ndarray, gallery: np.ndarray) -> np.ndarray:
    """Return the 5 most similar rows of the gallery for each query, by cosine, without row i for query i: (Q, 5) int64."""
    similarity = _unit(queries) @ _unit(gallery).T
    similarity[np.arange(len(queries)), np.arange(len(queries))] = -np.inf
    return np.argsort(-similarity, axis=1, kind="stable")[:, :REFERENCES]


def _unit(vectors: np.ndarray) -> np.ndarray:
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def _demo() -> tuple[list[str], list[Image.Image]]:
    paths = sorted(DEMO.glob("*.png"))
    return [p.stem for p in paths], [load_picture(p) for p in paths]


def _crops(names: Sequence[str]) -> tuple[list[str], list[Image.Image]]:
    """Return three squares of each photo, and their names: left, middle and right, or top, middle and bottom."""
    labels, crops = [], []
    for name in names:
        photo = load_picture(_path(name))
        side = round(0.8 * min(photo.size))
        for where in (0.0, 0.5, 1.0):
            left, top = round(where * (photo.width - side)), round(where * (photo.height - side))
            labels.append(f"{name} at {where:g}")
            crops.append(photo.crop((left, top, left + side, top + side)))
    return labels, crops


def _square(photo: Image.Image, share: float) -> Image.Image:
    """Return the square in the middle, whose side is this share of the shorter side."""
    side = round(share * min(photo.size))
    left, top = (photo.width - side) // 2, (photo.height - side) // 2
    return photo.crop((left, top, left + side, top + side))


def photo(name: str) -> Image.Image:
    """Return one of PHOTOS or OTHER_PHOTOS, RGB."""
    return load_picture(_path(name))


def _path(name: str) -> Path:
    return SKIMAGE / name if (SKIMAGE / name).is_file() else SKLEARN / name


def _filled(folder: Path, pictures: Sequence[Image.Image]) -> Path:
    """Write pictures into a folder, unless it is there; it appears complete or not at all."""
    if not folder.is_dir():
        beside = folder.with_name(f"{folder.name}.unfinished")
        beside.mkdir(parents=True, exist_ok=True)
        for i, picture in enumerate(pictures):
            picture.save(beside / f"{i:03}.png")
        os.replace(beside, folder)
    return folder
