"""Pictures of a folder behind random masks: quantized graphs are calibrated on them and compared on them."""

import dataclasses
import hashlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from engine.errors import ImageError
from engine.pictures.folders import files_below, pictures_below
from engine.pictures.loading import load_picture
from engine.pictures.preprocessing import Preprocessing
from engine.pictures.reading import AS_USUAL, Reading
from engine.protocol import Plan
from export.errors import ExportError
from export.timekeeper import Timekeeper
from kernels.blend import blend

MOST_PICTURES = 80
"""Most pictures that are read, a quarter of them for the report: more would add hours for large networks."""
FEWEST_PICTURES = 4
QUANTIZE_BATCH_PIXELS = 2**18
LARGEST_QUANTIZE_BATCH = 32


@dataclasses.dataclass(frozen=True, eq=False)
class Pictures:
    """Different pictures of a folder as the network sees them, each (H, W, 3) uint8; unreadable: files that were left out"""

    calibration: list[np.ndarray]
    held_out: list[np.ndarray]
    unreadable: list[Path]


def read_masked(folder: Path, preprocessing: Preprocessing, keeper: Timekeeper, reading: Reading = AS_USUAL) -> Pictures:
    """Read at most 80 pictures, spread evenly over the sorted names; hold out every fourth (every second of fewer than 8).

    folder: its subfolders are searched too; hidden files and those that systems leave, such as Thumbs.db, are not counted
    They are ordered by their sha256, so that the held-out ones do not follow the names. Raises ExportError for fewer than 4,
    OptionError for a folder that cannot be read.
    """
    found: dict[str, np.ndarray] = {}
    paths, unreadable = _candidates(folder)
    with keeper.bar(_spread_evenly(paths), "reading") as chosen:
        for path in chosen:
            try:
                pixels, _ = preprocessing.fitted(load_picture(path, reading))
            except ImageError:
                unreadable.append(path)
                continue
            found[hashlib.sha256(pixels.tobytes()).hexdigest()] = pixels
    if len(found) < FEWEST_PICTURES:
        raise ExportError(
            f"{folder} has {len(found)} different pictures that can be read and {len(unreadable)} other files: "
            f"at least {FEWEST_PICTURES} pictures are needed, about 80 are better"
        )
    ordered = [found[key] for key in sorted(found)]
    step = 4 if len(ordered) >= 2 * FEWEST_PICTURES else 2  # at least two are held out
    held_out = ordered[step - 1 :: step]
    return Pictures([p for i, p in enumerate(ordered) if i % step != step - 1], held_out, unreadable)


def masked_batches(
    preprocessing: Preprocessing, picture: np.ndarray, plan: Plan, first: int = 0, stop: int | None = None
) -> Iterator[np.ndarray]:
    """Give `picture` (H, W, 3) uint8 behind each of the plan's masks, with hidden pixels 0, in batches (n, ...) float32.

    first, stop: of the masks, all by default. Each batch overwrites the one before.
    """
    height, width, stop = preprocessing.height, preprocessing.width, len(plan) if stop is None else stop
    batch = max(min(QUANTIZE_BATCH_PIXELS // (height * width), LARGEST_QUANTIZE_BATCH, stop - first), 1)
    image = preprocessing.normalised(picture)
    renderer = plan.renderer(height, width)
    masks = np.empty((batch, height, width), np.float32)
    out = np.empty((batch, *image.shape), np.float32)
    for start in range(first, stop, batch):
        count = min(batch, stop - start)
        renderer.masks(start, start + count, out=masks[:count])
        blend(image, np.zeros_like(image), masks[:count], preprocessing.layout == "nhwc", out=out[:count])
        yield out[:count]


def _candidates(folder: Path) -> tuple[list[Path], list[Path]]:
    """Return the files below `folder` that may be pictures by their suffix, or have none; and the other files."""
    files, pictures = files_below(folder), set(pictures_below(folder))
    likely = [path for path in files if path in pictures or not path.suffix]
    return likely, sorted(set(files).difference(likely))


def _spread_evenly(files: list[Path]) -> list[Path]:
    if len(files) <= MOST_PICTURES:
        return files
    return [files[i * len(files) // MOST_PICTURES] for i in range(MOST_PICTURES)]
