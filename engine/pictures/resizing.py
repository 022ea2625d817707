"""Resize pictures as Pillow does, or as PyTorch does on tensors without antialias, and cut out a part."""

import numpy as np
from PIL import Image

from engine.errors import OptionError
from engine.pictures.bands import rows_of

INTERPOLATIONS = ("nearest", "box", "bilinear", "hamming", "bicubic", "lanczos")
WITHOUT_ANTIALIAS = ("nearest", "bilinear", "bicubic")
"""Interpolations that PyTorch has for tensors without antialias."""
LARGEST_RESIZED = 2**24
"""Most pixels of a resized picture of which only a part is needed: above it, only that part is computed."""
CUBIC = -0.75
"""The free coefficient of PyTorch's cubic convolution; Pillow's is -0.5."""

Size = tuple[int, int]
"""(width, height) in pixels, as Pillow has it."""
Edges = tuple[float, float, float, float]
"""(left, top, right, bottom) in pixels of the original; they may lie outside it."""


def scaled_size(picture: Size, resize: tuple[int, ...] | None, target: Size) -> Size:
    """Return the (width, height) to which a picture is resized before `target` is cut out of it.

    resize: None: the smallest that covers `target`; (R,): the shorter side becomes R, with torchvision's rounding;
        (h, w): that height and width; (): the picture's own size
    """
    width, height = picture
    if resize is None:
        if width * target[1] >= height * target[0]:
            return max(int(target[1] * width / height), target[0]), target[1]
        return target[0], max(int(target[0] * height / width), target[1])
    if len(resize) == 1:
        (short,) = resize
        return (int(short * width / height), short) if height <= width else (short, int(short * height / width))
    return (resize[1], resize[0]) if resize else picture


def centred(size: int, target: int, rounding: str) -> int:
    """Return where the middle `target` pixels of a side of `size` pixels start; negative if the side is shorter.

    rounding: where an odd border goes: even (torchvision: to the even number) or down (transformers: to the smaller one)
    """
    if rounding == "down":
        return (size - target) // 2
    return round((size - target) / 2) if size >= target else -((target - size) // 2)


def resized(picture: Image.Image, size: Size, interpolation: str, antialias: bool = True) -> Image.Image:
    """Return the whole picture at `size`. Raises OptionError if nothing interpolates so without antialias."""
    if antialias:
        return picture.resize(size, _filter(interpolation))
    return Image.fromarray(_tensor_part(picture, size, (0, 0), size, interpolation))


def resized_part(
    picture: Image.Image,
    size: Size,
    corner: tuple[int, int],
    part: Size,
    interpolation: str,
    antialias: bool = True,
) -> np.ndarray:
    """Return what "resize to `size`, then cut out `part`" gives, (H, W, 3) uint8; what lies outside the picture is black.

    picture: RGB; corner: (left, top) of the part in the resized picture, either may be negative
    The pixels are exactly those of the resized picture. Only if that would have more than LARGEST_RESIZED pixels, a box of
    the original is resized instead, whose edges Pillow rounds to float32.
    """
    left, top = max(corner[0], 0), max(corner[1], 0)
    right, bottom = min(corner[0] + part[0], size[0]), min(corner[1] + part[1], size[1])
    inner = right - left, bottom - top
    if not antialias:
        found = _tensor_part(picture, size, (left, top), inner, interpolation)
    elif size[0] * size[1] <= LARGEST_RESIZED:
        found = np.asarray(picture.resize(size, _filter(interpolation)).crop((left, top, right, bottom)))
    else:
        found = resized_box(picture, part_box(picture.size, size, (left, top), inner), inner, interpolation)
    if inner == part:
        return found
    whole = np.zeros((part[1], part[0], 3), np.uint8)
    whole[top - corner[1] : bottom - corner[1], left - corner[0] : right - corner[0]] = found
    return whole


def resized_box(picture: Image.Image, box: Edges, size: Size, interpolation: str) -> np.ndarray:
    """Return a box of a picture at `size`, (H, W, 3) uint8, at bounded cost even for a picture of 1 x 10000 pixels."""
    return np.asarray(picture.resize(size, _filter(interpolation), box=box))


def part_box(picture: Size, size: Size, corner: tuple[int, int], part: Size) -> Edges:
    """Return the box of the original picture that a part of the resized picture shows.

    picture: the original's size; size: that of the resized picture; corner: (left, top) of the part in it
    """
    (left, right), (top, bottom) = (_interval(*side) for side in zip(picture, size, corner, part, strict=True))
    return left, top, right, bottom


def _interval(original: int, scaled: int, start: int, count: int) -> tuple[float, float]:
    ratio = original / scaled
    end = (start + count) * ratio
    return start * ratio, min(end, float(original)) if start + count <= scaled else end


def _filter(interpolation: str) -> Image.Resampling:
    return Image.Resampling[interpolation.upper()]


def _tensor_part(picture: Image.Image, size: Size, corner: tuple[int, int], part: Size, interpolation: str) -> np.ndarray:
    """As `torch.nn.functional.interpolate` and rounding: an RGB picture -> (H, W, 3) uint8, the part alone."""
    taps = {"nearest": _nearest_taps, "bilinear": _linear_taps, "bicubic": _cubic_taps}.get(interpolation)
    if taps is None:
        raise OptionError(f"interpolation {interpolation} has no form without antialias; use {', '.join(WITHOUT_ANTIALIAS)}")
    columns, across = taps(picture.width, size[0], corner[0], part[0])  # (W, k) each
    rows, down = taps(picture.height, size[1], corner[1], part[1])  # (H, k) each
    needed, places = np.unique(rows, return_inverse=True)
    source = rows_of(picture, needed)  # (r, w, 3)
    sources = [source[:, column].astype(np.float32) for column in columns.T]  # (r, W, 3) each
    narrow, places = _weighted(sources, across[None, :, :, None]), places.reshape(rows.shape)
    found = _weighted([narrow[place] for place in places.T], down[:, None, :, None])  # (H, W, 3)
    return np.clip(np.rint(found), 0, 255).astype(np.uint8)


def _weighted(values: list[np.ndarray], weights: np.ndarray) -> np.ndarray:
    """Sum the values, each with its own weight along the last axis but one of `weights`, in float32."""
    total = values[0] * weights[..., 0, :]
    for i, value in enumerate(values[1:], 1):
        total += value * weights[..., i, :]
    return total


def _centres(size: int, scaled: int, start: int, count: int) -> np.ndarray:
    """Return where the centres of pixels start..start + count of a resized side lie in the original, (count,) float32."""
    scale = np.float64(np.float32(size) / np.float32(scaled))
    return (scale * (np.arange(start, start + count) + 0.5) - 0.5).astype(np.float32)  # one rounding: PyTorch fuses the two


def _nearest_taps(size: int, scaled: int, start: int, count: int) -> tuple[np.ndarray, np.ndarray]:
    scale = np.float32(size) / np.float32(scaled)
    indices = np.floor(np.arange(start, start + count, dtype=np.float32) * scale).astype(np.int64)
    return np.minimum(indices, size - 1)[:, None], np.ones((count, 1), np.float32)


def _linear_taps(size: int, scaled: int, start: int, count: int) -> tuple[np.ndarray, np.ndarray]:
    centres = np.maximum(_centres(size, scaled, start, count), np.float32(0))
    first = np.minimum(centres.astype(np.int64), size - 1)
    second = np.clip(centres - first.astype(np.float32), np.float32(0), np.float32(1))
    return np.stack([first, np.minimum(first + 1, size - 1)], 1), np.stack([np.float32(1) - second, second], 1)


def _cubic_taps(size: int, scaled: int, start: int, count: int) -> tuple[np.ndarray, np.ndarray]:
    centres = _centres(size, scaled, start, count)
    first = np.minimum(np.floor(centres).astype(np.int64), size - 1)
    t = np.clip(centres - first.astype(np.float32), np.float32(0), np.float32(1))
    one, a = np.float32(1), np.float32(CUBIC)
    near = [((a + 2) * x - (a + 3)) * x * x + 1 for x in (t, one - t)]
    far = [((a * x - 5 * a) * x + 8 * a) * x - 4 * a for x in (t + one, one - t + one)]
    indices = np.clip(first[:, None] + np.arange(-1, 3), 0, size - 1)
    return indices, np.stack([far[0], near[0], near[1], far[1]], 1).astype(np.float32)
