"""What the photo data sets share: reading pictures when they are needed, jitter for training, and reading other files."""

import json
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from engine.errors import OptionError
from engine.pictures.loading import load_picture
from engine.pictures.preprocessing import Box, Preprocessing
from engine.pictures.reading import Reading
from training.augment import MEAN, STD, normalise
from training.datasets.protocol import Pairs
from training.loop import Randomness

LEAST_AREA = 0.5
"""Smallest share of a picture's area that a random crop shows."""
WIDEST = 4 / 3
"""Largest aspect ratio of a random crop; the smallest is 1 / WIDEST."""
MATCHING = "1"


class Photos:
    """Base of a `DataSet` of picture files, without `pairs`. The id of a picture is the stem of its file's name.

    files: (n,); attributes: (A,); truth: (n, A) bool; splits: name -> (m,) int64, sorted, disjoint
    """

    def __init__(
        self,
        files: Sequence[Path],
        attributes: tuple[str, ...],
        truth: np.ndarray,
        splits: dict[str, np.ndarray],
        conditions: tuple[str, ...],
        size: int,
        reading: Reading,
    ) -> None:
        self.files, self.attributes, self.truth, self.conditions, self.size = files, attributes, truth, conditions, size
        self.reading = reading
        self.number = {file.stem: i for i, file in enumerate(files)}
        self._splits = splits
        self._preprocessing = Preprocessing(size, size, mean=MEAN, std=STD)

    def split(self, name: str) -> np.ndarray:
        """Return the pictures (m,) int64, sorted, of a split."""
        return self._splits[name]

    def picture(self, index: int) -> np.ndarray:
        """Return a picture (H, W, 3) uint8 RGB, upright, at the size of its file."""
        return np.asarray(load_picture(self.files[index], self.reading))

    def plain(self, indices: np.ndarray) -> Tensor:
        """Return (n, 3, size, size) float32: pictures scaled to size by their shorter side, their middle, normalised."""
        pixels = self._blank(len(indices))
        for shown, index in zip(pixels, indices, strict=True):
            shown[:] = self._preprocessing.fitted(load_picture(self.files[index], self.reading))[0]
        return torch.from_numpy(self._preprocessing.normalised(pixels))

    def augmented(self, indices: np.ndarray, randomness: Randomness) -> Tensor:
        """Return (n, 3, size, size) float32: random crops, half of them mirrored, colours jittered a little, normalised."""
        pixels = self._blank(len(indices))
        for shown, index in zip(pixels, indices, strict=True):
            photo = load_picture(self.files[index], self.reading)
            box = crop(photo.width, photo.height, randomness.numpy)
            cut = photo.resize((self.size, self.size), Image.Resampling.BILINEAR, box=box)
            mirrored = randomness.numpy.random() < 0.5
            shown[:] = np.asarray(cut)[:, ::-1] if mirrored else np.asarray(cut)
        return normalise(recoloured(torch.from_numpy(pixels).permute(0, 3, 1, 2).float() / 255, randomness.torch))

    def views(self, pairs: Pairs, randomness: Randomness) -> Tensor:
        """Return (2P, 3, size, size) float32: the left pictures, then the right ones, each as `augmented` does."""
        return self.augmented(np.concatenate([pairs.left, pairs.right]), randomness)

    def listed_pairs(self, name: str, file: Path) -> np.ndarray | None:
        """Return the pairs (P, 2) int64 of split `name` in a file of pairs; None if there is no file or no such pair.

        Its lines are `query_id reference_id label`. Lines that name a picture outside the split are left out with a warning:
        the published file for validation names pictures of the test split for AwA, and is empty for Polyvore.
        """
        if not file.exists():
            return None
        inside = set(self.split(name).tolist())
        matching = _matching(file)
        numbers = [[self.number.get(each, -1) for each in pair] for pair in matching]
        kept = [pair for pair in numbers if inside.issuperset(pair)]
        if len(kept) < len(matching) or not kept:
            instead = "" if kept else "; pairs are made as if there were no file"
            warnings.warn(f"{file}: {len(kept)} of {len(matching)} matches are {name} pictures{instead}", stacklevel=3)
        return np.array(kept, np.int64) if kept else None

    def _blank(self, count: int) -> np.ndarray:
        return np.empty((count, self.size, self.size, 3), np.uint8)


def crop(width: int, height: int, generator: np.random.Generator) -> Box:
    """Draw a random part of a picture: at least half of its area, unless the picture is longer than WIDEST allows."""
    area = generator.uniform(LEAST_AREA, 1) * width * height
    aspect = np.exp(generator.uniform(-np.log(WIDEST), np.log(WIDEST)))
    across, down = min(np.sqrt(area * aspect), width), min(np.sqrt(area / aspect), height)
    left, top = generator.uniform(0, width - across), generator.uniform(0, height - down)
    # rounding may put a sum of floats beyond the border, which Pillow refuses
    return (left, top, min(left + across, float(width)), min(top + down, float(height)))


def recoloured(rgb: Tensor, generator: torch.Generator) -> Tensor:
    """Jitter the colours of (N, 3, H, W) in [0, 1]: contrast and brightness by 15%, each channel by 5%.

    That is little, because colours are attributes.
    """

    def around_one(spread: float, channels: int) -> Tensor:
        return 1 + spread * (2 * torch.rand(len(rgb), channels, 1, 1, generator=generator) - 1)

    contrast, gain = around_one(0.15, 1), around_one(0.15, 1) * around_one(0.05, 3)
    return (((rgb - 0.5) * contrast + 0.5) * gain).clamp(0, 1)


def read_text(file: Path) -> str:
    """Read a text file of the data set; raises OptionError if it cannot be read."""
    try:
        return file.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or error
        raise OptionError(f"cannot read {file} ({reason}), which the data set needs; unpack it there again") from error


def read_json(file: Path, kind: type) -> Any:
    """Read a JSON file of the data set, which must hold a `kind`, dict or list; raises OptionError if it does not."""
    try:
        content = json.loads(read_text(file))
    except json.JSONDecodeError as error:
        raise OptionError(f"{file} is not JSON ({error}); unpack the data set again") from error
    if not isinstance(content, kind):
        raise OptionError(f"{file} must hold a {kind.__name__}, got a {type(content).__name__}; unpack the data set again")
    return content


def existing_folder(folder: Path) -> Path:
    """Return the folder; raises OptionError if it is not there."""
    if not folder.is_dir():
        raise OptionError(f"there is no folder {folder}, which the data set needs; check --root, and unpack all of the data")
    return folder


def checked_names(names: Sequence[str], file: Path) -> tuple[str, ...]:
    """Return the names; raises OptionError if there are none, or if one is empty or occurs twice."""
    if not names or not all(names) or len(set(names)) < len(names):
        raise OptionError(f"{file} must hold one name per line, no name twice, no empty lines; got {len(names)} lines")
    return tuple(names)


def index_by_name(names: Sequence[str]) -> Mapping[str, int]:
    """Return name -> its place among the names."""
    return {name: i for i, name in enumerate(names)}


def _matching(file: Path) -> list[tuple[str, str]]:
    """Read the pairs of ids whose label is 1."""
    found = []
    for number, line in enumerate(read_text(file).splitlines(), 1):
        parts = line.split()
        if len(parts) not in (0, 3):
            raise OptionError(f"{file}, line {number}: must be 'query_id reference_id label', got {line!r}")
        if parts and parts[2] == MATCHING:
            found.append((parts[0], parts[1]))
    return found
