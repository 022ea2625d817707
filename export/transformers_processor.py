"""Follow the `preprocessor_config.json` of transformers, in its present and its older forms."""

import dataclasses
from typing import Any

from engine.pictures.preprocessing import Preprocessing
from export.errors import ExportError
from export.processor_values import per_channel, pillow_filter, scale_of, shown, side, sides, truth

Triple = tuple[float, float, float]
IMAGENET_MEAN: Triple = (0.485, 0.456, 0.406)
IMAGENET_STD: Triple = (0.229, 0.224, 0.225)
IMAGENET = IMAGENET_MEAN, IMAGENET_STD
CLIP: tuple[Triple, Triple] = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
HALF: tuple[Triple, Triple] = (0.5, 0.5, 0.5), (0.5, 0.5, 0.5)


@dataclasses.dataclass(frozen=True)
class Processor:
    """What a processor's class does if the file does not say.

    resample: its interpolation; colours: mean and std; number: what a single number for size means, shortest or square
    more: other keys of the file and their values
    """

    resample: str
    colours: tuple[Triple, Triple]
    number: str
    more: dict[str, Any] = dataclasses.field(default_factory=dict)


_CROPS = {"do_center_crop": True}
PROCESSORS = {
    "Beit": Processor("bicubic", HALF, "square"),
    "Bit": Processor("bicubic", CLIP, "shortest", _CROPS),
    "Blip": Processor("bicubic", CLIP, "square"),
    "CLIP": Processor("bicubic", CLIP, "shortest", _CROPS),
    "ChineseCLIP": Processor("bicubic", CLIP, "shortest", _CROPS),
    "ConvNext": Processor("bicubic", HALF, "shortest", {"crop_pct": 224 / 256}),
    "DINOv3ViT": Processor("bilinear", IMAGENET, "square"),
    "DeiT": Processor("bicubic", HALF, "square", _CROPS),
    "EfficientNet": Processor("bicubic", HALF, "square", {"include_top": True}),
    "Levit": Processor("bicubic", IMAGENET, "shortest", _CROPS),
    "MobileNetV1": Processor("bilinear", HALF, "shortest", _CROPS),
    "MobileNetV2": Processor("bilinear", HALF, "shortest", _CROPS),
    "MobileViT": Processor("bicubic", HALF, "shortest", {**_CROPS, "do_normalize": False, "do_flip_channel_order": True}),
    "PoolFormer": Processor("bicubic", IMAGENET, "shortest", {**_CROPS, "crop_pct": 0.9}),
    "Pvt": Processor("bicubic", IMAGENET, "square"),
    "Siglip": Processor("bicubic", HALF, "square"),
    "ViT": Processor("bilinear", HALF, "square"),
}
"""Processors by their names, without "ImageProcessor" and what follows it."""
_FOLLOWED = (
    *("do_resize", "size", "resample", "do_center_crop", "crop_size", "crop_pct", "do_rescale", "rescale_factor"),
    *("rescale_offset", "include_top", "do_normalize", "image_mean", "image_std", "do_flip_channel_order"),
)
_WITHOUT_EFFECT = (  # on the pixels of one RGB picture
    *("image_processor_type", "feature_extractor_type", "processor_class", "auto_map", "do_convert_rgb", "data_format"),
    *("input_data_format", "return_tensors", "device", "disable_grouping", "default_to_square", "do_reduce_labels"),
    *("reduce_labels", "pad_size", "size_divisor", "_valid_processor_keys", "use_fast", "backend", "image_seq_length"),
)


def from_transformers(config: dict[str, Any]) -> Preprocessing:
    """Return what the processor that wrote this file does to an RGB picture, as its Pillow form does it.

    config: preprocessor_config.json, or processor_config.json, which has it under "image_processor"
    Raises ExportError that names the key that the engine cannot follow.
    """
    config = config.get("image_processor", config) if isinstance(config, dict) else config
    if not isinstance(config, dict):
        raise ExportError(f"a processor's description must be a JSON object, got {shown(config)}")
    given = {key: value for key, value in config.items() if value is not None}
    kind, processor = _processor(given)
    for key, value in given.items():
        if key == "do_pad" and value:
            raise ExportError(
                "do_pad is true, but the engine adds no border to a resized picture: set it to false if it adds none"
            )
        if key not in (*_FOLLOWED, *_WITHOUT_EFFECT) and value is not False:
            raise ExportError(f"{key} cannot be followed: remove it from the file if it changes no pixels")
    given = {**processor.more, **given}
    fields: dict[str, Any] = {"interpolation": pillow_filter("resample", given.get("resample", processor.resample))}
    if kind == "ConvNext":
        fields |= _convnext_size(given)
    else:
        fields |= _size(given, _resize(given, kind, processor))
    return Preprocessing(**fields, **_colours(given, processor))


def _processor(given: dict[str, Any]) -> tuple[str, Processor]:
    """Return the processor's name and defaults; a file without a name is taken for a ViT's, as the first files were."""
    name = given.get("image_processor_type", given.get("feature_extractor_type"))
    if name is None:
        if not isinstance(given.get("size", {}), dict) and {"do_center_crop", "crop_size", "crop_pct"} & set(given):
            raise ExportError(
                f"size {shown(given['size'])} has two meanings if there is no image_processor_type: add that, or write "
                'size as {"shortest_edge": R} or {"height": H, "width": W}'
            )
        return "ViT", PROCESSORS["ViT"]
    kind = str(name).split("ImageProcessor")[0].split("FeatureExtractor")[0]
    if kind not in PROCESSORS:
        raise ExportError(f"image_processor_type {name} cannot be followed; these can: {', '.join(PROCESSORS)}")
    return kind, PROCESSORS[kind]


def _flag(given: dict[str, Any], key: str, default: bool) -> bool:
    return truth(key, given.get(key, default))


def _shortest_or_sides(given: dict[str, Any], processor: Processor) -> tuple[int, ...]:
    """Return the size as (shorter side,) or (height, width)."""
    size = given.get("size")
    if size is None:
        raise ExportError("size is missing: add it")
    if isinstance(size, dict) and set(size) == {"shortest_edge"}:
        return (side("size: shortest_edge", size["shortest_edge"]),)
    if isinstance(size, dict) and set(size) != {"height", "width"}:
        raise ExportError(f"size must have shortest_edge alone, or height and width, got {shown(size)}")
    if isinstance(size, int) and processor.number == "shortest":
        return (side("size", size),)
    return sides("size", size)


def _resize(given: dict[str, Any], kind: str, processor: Processor) -> tuple[int, ...]:
    """Return the size to which a picture is resized: (shorter side,), (height, width), or () if it is not."""
    if not _flag(given, "do_resize", True):
        return ()
    size = _shortest_or_sides(given, processor)
    if kind == "Levit" and len(size) == 1:
        return (int(256 / 224 * size[0]),)
    if "crop_pct" not in given:
        return size
    if len(set(size)) > 1:
        raise ExportError(f"crop_pct cannot be followed for a size that is not square, got {shown(given['size'])}")
    return (int(size[0] / _fraction(given)),)


def _size(given: dict[str, Any], resize: tuple[int, ...]) -> dict[str, Any]:
    if _flag(given, "do_center_crop", False):
        if "crop_size" not in given:
            raise ExportError("crop_size is missing, although do_center_crop is true: add it")
        height, width = sides("crop_size", given["crop_size"])
        return {"height": height, "width": width, "resize": resize, "crop_rounding": "down"}
    if len(resize) == 2:
        return {"height": resize[0], "width": resize[1], "fit": "stretch"}
    why = "size gives the shorter side alone" if resize else "do_resize is false"
    raise ExportError(f"pictures come in different sizes, because do_center_crop is false and {why}: correct one of them")


def _convnext_size(given: dict[str, Any]) -> dict[str, Any]:
    """ConvNeXt's own rule: below 384 a square is cut out, from 384 the picture is stretched."""
    if not _flag(given, "do_resize", True):
        return _size(given, ())
    size = _shortest_or_sides(given, PROCESSORS["ConvNext"])
    if len(size) != 1:
        raise ExportError(f"size must have shortest_edge for a ConvNext processor, got {shown(given['size'])}")
    if _flag(given, "do_center_crop", False):
        raise ExportError("do_center_crop is true, but a ConvNext processor crops by crop_pct: set it to false")
    (edge,) = size
    if edge >= 384:
        return {"height": edge, "width": edge, "fit": "stretch"}
    return {"height": edge, "width": edge, "resize": (int(edge / _fraction(given)),), "crop_rounding": "down"}


def _fraction(given: dict[str, Any]) -> float:
    value = given["crop_pct"]
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value <= 1:
        raise ExportError(f"crop_pct must be above 0 and at most 1, got {shown(value)}")
    return float(value)


def _colours(given: dict[str, Any], processor: Processor) -> dict[str, Any]:
    """Rescaling and normalisation. EfficientNet's rescale_offset subtracts 1 first, include_top divides by std once more."""
    rescales = _flag(given, "do_rescale", True)
    scale = scale_of("rescale_factor", given.get("rescale_factor", 1 / 255)) if rescales else 1.0
    mean, std = (
        per_channel(key, given.get(key, default))
        for key, default in zip(("image_mean", "image_std"), processor.colours, strict=True)
    )
    if len(mean) != len(std):
        raise ExportError(f"image_mean and image_std must be of one length, got {len(mean)} and {len(std)}")
    divisor = std
    if not _flag(given, "do_normalize", True):
        mean, divisor = (0.0,) * len(mean), (1.0,) * len(std)
    if _flag(given, "include_top", False):
        divisor = tuple(d * s for d, s in zip(divisor, std, strict=True))
    if rescales and _flag(given, "rescale_offset", False):
        mean = tuple(m + 1 for m in mean)
    flipped = _flag(given, "do_flip_channel_order", False)
    return {
        "mean": mean,
        "std": divisor,
        "scale": scale,
        "channel_order": "bgr" if flipped else "rgb",
        "channels": len(mean),
    }
