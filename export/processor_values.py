"""Values in other libraries' descriptions of preprocessing: checked, and errors name the key."""

import json
import math
from typing import Any

from engine.pictures.preprocessing import LARGEST_SIDE
from engine.pictures.resizing import INTERPOLATIONS
from export.errors import ExportError

PILLOW_NUMBERS = ("nearest", "lanczos", "bilinear", "bicubic", "box", "hamming")
"""Pillow's filters by their numbers, 0..5."""


def shown(value: Any) -> str:
    """Return a value as JSON has it, cut to 80 characters."""
    text = json.dumps(value, default=str)
    return text if len(text) <= 80 else f"{text[:77]}..."


def side(key: str, value: Any) -> int:
    """Return a side in pixels. Raises ExportError unless it is a whole number that the engine takes."""
    if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= LARGEST_SIDE:
        raise ExportError(f"{key} must be a whole number from 1 to {LARGEST_SIDE}, got {shown(value)}")
    return value


def sides(key: str, value: Any) -> tuple[int, int]:
    """Return (height, width) of a number, a list of one or two, or {"height": ..., "width": ...}."""
    if isinstance(value, dict):
        if set(value) != {"height", "width"}:
            raise ExportError(f'{key} must be a number or {{"height": H, "width": W}}, got {shown(value)}')
        value = [value["height"], value["width"]]
    if not isinstance(value, list | tuple):
        value = [value]
    if len(value) not in (1, 2):
        raise ExportError(f"{key} must be one or two numbers, got {shown(value)}")
    return side(key, value[0]), side(key, value[-1])


def per_channel(key: str, value: Any, channels: int | None = None) -> tuple[float, ...]:
    """Return one finite number per channel; a single number outside a list counts for all `channels`."""
    if isinstance(value, int | float) and not isinstance(value, bool):
        value = [value] * (channels or 3)
    if not isinstance(value, list | tuple) or not all(
        isinstance(v, int | float) and not isinstance(v, bool) and math.isfinite(v) for v in value
    ):
        raise ExportError(f"{key} must be a list of finite numbers, got {shown(value)}")
    if len(value) not in ((1, 3) if channels is None else (channels,)):
        raise ExportError(f"{key} must have {channels or '1 or 3'} numbers, one per channel, got {shown(value)}")
    return tuple(float(v) for v in value)


def truth(key: str, value: Any) -> bool:
    """Return a Boolean. Raises ExportError for anything else."""
    if not isinstance(value, bool):
        raise ExportError(f"{key} must be true or false, got {shown(value)}")
    return value


def pillow_filter(key: str, value: Any) -> str:
    """Return an interpolation of the engine from Pillow's number, or a name like "bicubic" or "Resampling.BICUBIC"."""
    if isinstance(value, int) and not isinstance(value, bool) and 0 <= value < len(PILLOW_NUMBERS):
        return PILLOW_NUMBERS[value]
    name = value.rpartition(".")[2].lower() if isinstance(value, str) else None
    if name not in INTERPOLATIONS:
        raise ExportError(f"{key} must be one of {', '.join(INTERPOLATIONS)}, or Pillow's number, got {shown(value)}")
    return name


def scale_of(key: str, factor: Any) -> float:
    """Return the number that pixels are divided by, from the one that they are multiplied by: 0.003921569 gives 255."""
    if isinstance(factor, bool) or not isinstance(factor, int | float) or not 0 < factor < math.inf:
        raise ExportError(f"{key} must be a positive number, got {shown(factor)}")
    scale = 1 / factor
    return float(round(scale)) if math.isclose(scale, round(scale), rel_tol=1e-6) else scale
