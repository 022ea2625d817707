"""Pictures of a folder behind random masks: what graphs are calibrated on and compared on."""

import dataclasses
import hashlib
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TypeVar

import numpy as np
from tqdm import tqdm

from engine.errors import ImageError
from engine.pictures.loading import load_picture
from engine.pictures.preprocessing import Preprocessing
from engine.protocol import Plan
from export.errors import ExportError
from kernels.blend import blend

MOST_PICTURES = 48
"""Pictures that are read: more add hours for large networks and hardly change a range or a figure."""
FEWEST_PICTURES = 4
QUANTIZE_BATCH_PIXELS = 2**18
LARGEST_QUANTIZE_BATCH = 32
Item = TypeVar("Item")


@dataclasses.dataclass(frozen=True, eq=False)
class Pictures:
    """Different pictures of a folder as the network sees them, each (H, W, 3) uint8; unreadable: files left out"""

    calibration: list[np.ndarray]
    held_out: list[np.ndarray]
    unreadable: list[Path]


def read_masked(folder: Path, preprocessing: Preprocessing) -> Pictures:
    """At most 48 pictures, evenly over the names; every fourth, or second where they are few, is held out.

    Their order is that of their sha256, so that it does not follow the names. Raises ExportError for fewer than 4.
    """
    found: dict[str, np.ndarray] = {}
    unreadable = []
    for path in shown(_thinned(_files(folder)), "reading"):
        try:
            pixels, _ = preprocessing.fitted(load_picture(path))
        except ImageError:
            unreadable.append(path)
            continue
        found[hashlib.sha256(pixels.tobytes()).hexdigest()] = pixels
    if len(found) < FEWEST_PICTURES:
        raise ExportError(
            f"{folder} has {len(found)} different pictures that can be read and {len(unreadable)} other files; "
            f"{FEWEST_PICTURES} are needed, some 40 are better"
        )
    ordered = [found[key] for key in sorted(found)]
    step = 4 if len(ordered) >= 2 * FEWEST_PICTURES else 2  # at least two are held out
    held_out = ordered[step - 1 :: step]
    return Pictures([p for i, p in enumerate(ordered) if i % step != step - 1], held_out, unreadable)


def rows(preprocessing: Preprocessing, picture: np.ndarray, plan: Plan) -> Iterator[np.ndarray]:
    """`picture` (H, W, 3) uint8 behind each of the plan's masks, hidden pixels being 0: batches (n, ...) float32.

    A batch is overwritten by the next.
    """
    height, width = preprocessing.height, preprocessing.width
    batch = max(min(QUANTIZE_BATCH_PIXELS // (height * width), LARGEST_QUANTIZE_BATCH, len(plan)), 1)
    image = preprocessing.normalised(picture)
    renderer = plan.renderer(height, width)
    masks = np.empty((batch, height, width), np.float32)
    out = np.empty((batch, *image.shape), np.float32)
    for start in range(0, len(plan), batch):
        count = min(batch, len(plan) - start)
        renderer.masks(start, start + count, out=masks[:count])
        blend(image, np.zeros_like(image), masks[:count], preprocessing.layout == "nhwc", out=out[:count])
        yield out[:count]


def shown(items: Sequence[Item], what: str) -> Iterable[Item]:
    """The items, with a progress bar on standard error where that is a terminal."""
    bar: Iterable[Item] = tqdm(items, desc=what, leave=False, disable=None)
    return bar


def _files(folder: Path) -> list[Path]:
    try:
        return sorted(p for p in folder.iterdir() if p.is_file() and not p.name.startswith("."))
    except OSError as error:
        raise ExportError(f"cannot read the folder {folder}: {error.strerror or error}") from error


def _thinned(files: list[Path]) -> list[Path]:
    if len(files) <= MOST_PICTURES:
        return files
    return [files[i * len(files) // MOST_PICTURES] for i in range(MOST_PICTURES)]
