"""Read how pictures are prepared from another library's file: transformers, timm, or a list of torchvision's transforms."""

import json
import math
from pathlib import Path
from typing import Any

from engine.errors import EngineError
from engine.pictures.preprocessing import Preprocessing
from export.errors import ExportError
from export.processor_values import per_channel, pillow_filter, shown, sides
from export.torchvision_transforms import from_torchvision
from export.transformers_processor import IMAGENET_MEAN, IMAGENET_STD, from_transformers

__all__ = ["from_timm", "from_torchvision", "from_transformers", "read_preprocessor"]

TIMM_CROP_PCT = 0.875
"""What timm takes if a file names no crop_pct."""


def read_preprocessor(path: Path) -> Preprocessing:
    """Return the preprocessing that a JSON file describes; docs/preprocessing.md lists what it may hold.

    Raises ExportError that names the file and what in it cannot be followed.
    """
    try:
        config = json.loads(Path(path).read_text(encoding="utf-8-sig"))
    except OSError as error:
        raise ExportError(f"cannot read {path} ({error.strerror})") from error
    except (ValueError, RecursionError) as error:
        raise ExportError(f"{path} is not JSON ({error})") from error
    try:
        return _followed(config)
    except EngineError as error:
        raise ExportError(f"{path}: {error}") from error


def _followed(config: Any) -> Preprocessing:
    if isinstance(config, list):
        return from_torchvision(config)
    keys = set(config) if isinstance(config, dict) else set()
    if keys & {"pretrained_cfg", "input_size"}:
        return from_timm(config)
    if "feature_extractor_type" in keys or any(key.startswith(("image_", "do_")) for key in keys):
        return from_transformers(config)
    raise ExportError(
        "neither transformers' preprocessor_config.json, nor timm's pretrained_cfg, nor a list of torchvision's transforms: "
        "docs/preprocessing.md shows each"
    )


def from_timm(config: dict[str, Any]) -> Preprocessing:
    """Return what timm's transform for evaluation does to a Pillow picture.

    config: a pretrained_cfg, a file that has one under "pretrained_cfg", or what `timm.data.resolve_data_config` returns
    Raises ExportError that names the key that the engine cannot follow.
    """
    config = config.get("pretrained_cfg", config) if isinstance(config, dict) else config
    if not isinstance(config, dict):
        raise ExportError(f"pretrained_cfg must be a JSON object, got {shown(config)}")
    given = {key: value for key, value in config.items() if value is not None}
    shape = given.get("input_size")
    if not isinstance(shape, list | tuple) or len(shape) != 3 or shape[0] not in (1, 3):
        raise ExportError(f"input_size must be [channels, height, width] with 1 or 3 channels, got {shown(shape)}")
    channels, (height, width) = shape[0], sides("input_size", shape[1:])
    fields: dict[str, Any] = {"height": height, "width": width, "channels": channels}
    fields["interpolation"] = pillow_filter("interpolation", given.get("interpolation", "bicubic"))
    for key, default in (("mean", IMAGENET_MEAN), ("std", IMAGENET_STD)):
        fields[key] = per_channel(key, given.get(key, default), channels)
    return Preprocessing(**fields, **_timm_crop(given, height, width))


def _timm_crop(given: dict[str, Any], height: int, width: int) -> dict[str, Any]:
    """Resizing and cropping by crop_mode and crop_pct: `transforms_imagenet_eval` of timm.data.transforms_factory."""
    crop_pct, mode = given.get("crop_pct") or TIMM_CROP_PCT, given.get("crop_mode") or "center"
    if isinstance(crop_pct, bool) or not isinstance(crop_pct, int | float) or not 0 < crop_pct < math.inf:
        raise ExportError(f"crop_pct must be a positive number, got {shown(crop_pct)}")
    scaled = math.floor(height / crop_pct), math.floor(width / crop_pct)
    if mode == "squash":
        return {"fit": "stretch"} if scaled == (height, width) else {"resize": scaled}
    if mode == "border":
        if scaled != (height, width):
            raise ExportError(f"crop_pct {crop_pct} cannot be followed with crop_mode border, only 1")
        return {"fit": "pad"}
    if mode != "center":
        raise ExportError(f"crop_mode must be center, squash or border, got {shown(mode)}")
    if height != width:
        raise ExportError(
            f"input_size {height} x {width} is not square, and crop_mode center cannot be followed for it: "
            "leave the file out, and give --size, --mean, --std and --interpolation"
        )
    return {"resize": (scaled[0],)}
