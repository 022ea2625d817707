"""What the photo data sets share: pictures read when asked for, jitter for training, and the files beside them."""

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
from training.augment import MEAN, STD, normalise
from training.datasets.protocol import Pairs
from training.loop import Randomness

LEAST_AREA = 0.5
"""Of a picture that a random crop shows."""
WIDEST = 4 / 3
"""Aspect ratio of a random crop, or one over it."""
MATCHING = "1"


class Photos:
    """What a `DataSet` of picture files does alike; `pairs` is each data set's own. A picture's id is its file's stem.

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
    ) -> None:
        self.files, self.attributes, self.truth, self.conditions, self.size = files, attributes, truth, conditions, size
        self.number = {file.stem: i for i, file in enumerate(files)}
        self._splits = splits
        self._preprocessing = Preprocessing(size, size, mean=MEAN, std=STD)

    def split(self, name: str) -> np.ndarray:
        return self._splits[name]

    def picture(self, index: int) -> np.ndarray:
        """(H, W, 3) uint8 RGB, upright, at the size of the file."""
        return np.asarray(load_picture(self.files[index]))

    def plain(self, indices: np.ndarray) -> Tensor:
        """(n, 3, size, size) float32: shorter side to size, the middle, normalised."""
        pixels = self._blank(len(indices))
        for shown, index in zip(pixels, indices, strict=True):
            shown[:] = self._preprocessing.fitted(load_picture(self.files[index]))[0]
        return torch.from_numpy(self._preprocessing.normalised(pixels))

    def augmented(self, indices: np.ndarray, randomness: Randomness) -> Tensor:
        """(n, 3, size, size) float32: a random crop, mirrored half the time, colours jittered a little, normalised."""
        pixels = self._blank(len(indices))
        for shown, index in zip(pixels, indices, strict=True):
            photo = load_picture(self.files[index])
            box = crop(photo.width, photo.height, randomness.numpy)
            cut = photo.resize((self.size, self.size), Image.Resampling.BILINEAR, box=box)
            mirrored = randomness.numpy.random() < 0.5
            shown[:] = np.asarray(cut)[:, ::-1] if mirrored else np.asarray(cut)
        return normalise(recoloured(torch.from_numpy(pixels).permute(0, 3, 1, 2).float() / 255, randomness.torch))

    def views(self, pairs: Pairs, randomness: Randomness) -> Tensor:
        """(2P, 3, size, size)"""
        return self.augmented(np.concatenate([pairs.left, pairs.right]), randomness)

    def listed(self, name: str, file: Path) -> np.ndarray | None:
        """(P, 2) pictures of split `name` that match by a pair file; None where there is none, or nothing in it is usable.

        Its lines are `query_id reference_id label`. Lines that name a picture outside the split are left out with a warning:
        of the published files, those for validation name pictures of the test for AwA, and nothing at all for Polyvore.
        """
        if not file.exists():
            return None
        inside = set(self.split(name).tolist())
        matching = _matching(file)
        numbers = [[self.number.get(each, -1) for each in pair] for pair in matching]
        kept = [pair for pair in numbers if inside.issuperset(pair)]
        if len(kept) < len(matching) or not kept:
            instead = "" if kept else "; pairs are made as if the file were not there"
            warnings.warn(f"{file}: {len(kept)} of {len(matching)} matches are of {name} pictures{instead}", stacklevel=3)
        return np.array(kept, np.int64) if kept else None

    def _blank(self, count: int) -> np.ndarray:
        return np.empty((count, self.size, self.size, 3), np.uint8)


def crop(width: int, height: int, generator: np.random.Generator) -> Box:
    """A random part of a picture: at least half of its area, unless its own shape is further from square than WIDEST."""
    area = generator.uniform(LEAST_AREA, 1) * width * height
    aspect = np.exp(generator.uniform(-np.log(WIDEST), np.log(WIDEST)))
    across, down = min(np.sqrt(area * aspect), width), min(np.sqrt(area / aspect), height)
    left, top = generator.uniform(0, width - across), generator.uniform(0, height - down)
    # a sum of floats may pass the border by its rounding, which Pillow refuses
    return (left, top, min(left + across, float(width)), min(top + down, float(height)))


def recoloured(rgb: Tensor, generator: torch.Generator) -> Tensor:
    """(N, 3, H, W) in [0, 1]: contrast and brightness jittered by 15%, each channel by 5%: colours are attributes."""

    def around_one(spread: float, channels: int) -> Tensor:
        return 1 + spread * (2 * torch.rand(len(rgb), channels, 1, 1, generator=generator) - 1)

    contrast, gain = around_one(0.15, 1), around_one(0.15, 1) * around_one(0.05, 3)
    return (((rgb - 0.5) * contrast + 0.5) * gain).clamp(0, 1)


def text_of(file: Path) -> str:
    """Raises OptionError where it cannot be read."""
    try:
        return file.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or error
        raise OptionError(f"cannot read {file} ({reason}), which the data set needs; unpack it there again") from error


def json_of(file: Path, kind: type) -> Any:
    """kind: dict or list, what the file must hold"""
    try:
        content = json.loads(text_of(file))
    except json.JSONDecodeError as error:
        raise OptionError(f"{file} is not JSON ({error}); unpack the data set again") from error
    if not isinstance(content, kind):
        raise OptionError(f"{file} must hold a {kind.__name__}, got a {type(content).__name__}")
    return content


def folder_of(folder: Path) -> Path:
    if not folder.is_dir():
        raise OptionError(
            f"there is no folder {folder}, which the data set needs; is its root right, and was all of it unpacked?"
        )
    return folder


def distinct(names: Sequence[str], file: Path) -> tuple[str, ...]:
    """The names, if there is at least one and none is empty or there twice."""
    if not names or not all(names) or len(set(names)) < len(names):
        raise OptionError(f"{file} must hold names, one a line, none of them twice; got {len(names)} lines")
    return tuple(names)


def order_of(names: Sequence[str]) -> Mapping[str, int]:
    return {name: i for i, name in enumerate(names)}


def _matching(file: Path) -> list[tuple[str, str]]:
    found = []
    for number, line in enumerate(text_of(file).splitlines(), 1):
        parts = line.split()
        if len(parts) not in (0, 3):
            raise OptionError(f"{file}, line {number}: 'query_id reference_id label' is needed, got {line!r}")
        if parts and parts[2] == MATCHING:
            found.append((parts[0], parts[1]))
    return found
