"""Descriptions of preprocessing as other libraries write them, and what those libraries themselves make of a picture.

python -m tests.preprocessor_cases   # tests/data/preprocessors.json anew, with transformers, timm and torchvision installed
"""

import importlib
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

DATA = Path(__file__).parent / "data" / "preprocessors.json"
CLIP_MEAN, CLIP_STD = [0.48145466, 0.4578275, 0.40821073], [0.26862954, 0.26130258, 0.27577711]
MEAN, STD = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]
HALF = [0.5, 0.5, 0.5]
STEPS = {"do_normalize": True, "do_rescale": True, "do_resize": True, "rescale_factor": 0.00392156862745098}
CLIP = {
    **{"image_processor_type": "CLIPImageProcessor", "do_convert_rgb": True, "do_center_crop": True, "resample": 3, **STEPS},
    **{"size": {"shortest_edge": 224}, "crop_size": {"height": 224, "width": 224}, "image_mean": CLIP_MEAN},
    **{"image_std": CLIP_STD},
}
CONVNEXT = {"image_processor_type": "ConvNextImageProcessor", "resample": 3, "image_mean": MEAN, "image_std": STD, **STEPS}
EFFICIENTNET = {
    **{"image_processor_type": "EfficientNetImageProcessor", "do_center_crop": False, "resample": 0, **STEPS},
    **{"size": {"height": 346, "width": 346}, "crop_size": {"height": 289, "width": 289}, "image_mean": MEAN},
    **{"image_std": [0.47853944, 0.4732864, 0.47434163], "include_top": True, "rescale_offset": False},
}
VIT = {
    **{"image_processor_type": "ViTImageProcessor", "resample": 2, "image_mean": HALF, "image_std": HALF, **STEPS},
    "size": {"height": 224, "width": 224},
}

TRANSFORMERS: dict[str, dict[str, Any]] = {
    "clip": CLIP,
    "clip-older": {  # as openai/clip-vit-base-patch32 has it
        **{"crop_size": 224, "do_center_crop": True, "do_normalize": True, "do_resize": True, "resample": 3, "size": 224},
        **{"feature_extractor_type": "CLIPFeatureExtractor", "image_mean": CLIP_MEAN, "image_std": CLIP_STD},
    },
    "siglip": {
        **{"image_processor_type": "SiglipImageProcessor", "do_convert_rgb": None, "resample": 3, **STEPS},
        **{"size": {"height": 225, "width": 224}, "image_mean": HALF, "image_std": HALF},
    },
    "vit": VIT,
    "vit-older": {"do_normalize": True, "do_resize": True, "image_mean": HALF, "image_std": HALF, "size": 224},
    "dinov2": {  # facebook/dinov2-small
        **{**CLIP, "image_processor_type": "BitImageProcessor", "size": {"shortest_edge": 256}},
        **{"image_mean": MEAN, "image_std": STD},
    },
    "deit": {
        **{**CLIP, "image_processor_type": "DeiTImageProcessor", "size": {"height": 256, "width": 256}},
        **{"image_mean": MEAN, "image_std": STD},
    },
    "convnext-224": {**CONVNEXT, "crop_pct": 0.875, "size": {"shortest_edge": 224}},
    "convnext-384": {**CONVNEXT, "crop_pct": 0.875, "size": {"shortest_edge": 384}},
    "convnext-older": {**CONVNEXT, "crop_pct": 0.95, "size": 288},
    "efficientnet": EFFICIENTNET,
    "efficientnet-offset": {
        **{**EFFICIENTNET, "rescale_offset": True, "rescale_factor": 0.00784313725490196, "do_center_crop": True},
        **{"resample": 3, "include_top": False},
    },
    "beit": {
        **{**VIT, "image_processor_type": "BeitImageProcessor", "crop_size": {"height": 224, "width": 224}, "resample": 2},
        **{"do_center_crop": False, "do_reduce_labels": False},
    },
    "beit-crop": {
        **{**VIT, "image_processor_type": "BeitImageProcessor", "crop_size": {"height": 223, "width": 200}, "resample": 1},
        **{"do_center_crop": True, "size": {"height": 256, "width": 240}},
    },
    "levit": {**CLIP, "image_processor_type": "LevitImageProcessor", "image_mean": MEAN, "image_std": STD},
    "poolformer": {**CLIP, "image_processor_type": "PoolFormerImageProcessor", "crop_pct": 0.9},
    "mobilevit": {
        **{"image_processor_type": "MobileViTImageProcessor", "crop_size": {"height": 256, "width": 256}, "resample": 2},
        **{"do_center_crop": True, "do_flip_channel_order": True, "do_rescale": True, "do_resize": True},
        **{"rescale_factor": 0.00392156862745098, "size": {"shortest_edge": 288}},
    },
    "bare": {**CLIP, "do_normalize": False, "do_rescale": False, "size": {"shortest_edge": 100}},  # a crop larger than that
    "cropped-only": {**CLIP, "do_resize": False, "crop_size": {"height": 61, "width": 64}},
}
"""preprocessor_config.json of transformers, each with the steps that set it apart."""

TIMM: dict[str, dict[str, Any]] = {
    mode: {
        **{"input_size": [3, 224, 224], "interpolation": interpolation, "crop_pct": crop_pct, "crop_mode": mode},
        **{"mean": MEAN, "std": STD, "url": "", "test_input_size": [3, 288, 288], "num_classes": 1000},
    }
    for mode, interpolation, crop_pct in (
        ("center", "bicubic", 0.9),
        ("squash", "bilinear", 0.95),
        ("border", "bicubic", 1.0),
    )
}

TORCHVISION: dict[str, list[Any]] = {
    "imagenet": [
        {"Resize": {"size": 256, "interpolation": "bicubic", "antialias": True}},
        *({"CenterCrop": 224}, "ToTensor", {"Normalize": {"mean": MEAN, "std": STD}}),
    ],
    "stretched": [{"Resize": [224, 200]}, "ToTensor"],
    "grey": [
        "Grayscale",
        {"Resize": {"size": 40}},
        {"CenterCrop": [32, 31]},
        "ToTensor",
        {"Normalize": {"mean": [0.5], "std": [0.2]}},
    ],
    "tensors": [
        *("PILToTensor", {"Resize": {"size": 90, "interpolation": "bilinear", "antialias": False}}, {"CenterCrop": 80}),
        {"ConvertImageDtype": "float32"},
    ],
}
PROCESSORS = {
    **{"CLIP": "clip", "Siglip": "siglip", "ViT": "vit", "Bit": "bit", "DeiT": "deit", "ConvNext": "convnext"},
    **{
        "EfficientNet": "efficientnet",
        "Beit": "beit",
        "Levit": "levit",
        "PoolFormer": "poolformer",
        "MobileViT": "mobilevit",
    },
}
"""Processors' names and the folders of transformers that they are in."""


def golden_picture() -> Image.Image:
    """A picture of 123 x 181 pixels without any chance in it: waves of three lengths."""
    y, x = np.mgrid[:123, :181].astype(np.float64)
    waves = [np.sin(x / 3) * np.cos(y / 5), np.sin(x * y / 900), np.cos((x - y) / 2)]
    return Image.fromarray(np.stack([np.rint(127.5 + 127.5 * w) for w in waves], 2).astype(np.uint8))


def samples(x: np.ndarray) -> list[float]:
    """(C, H, W): its shape, its mean, and 3 x 3 values of each channel."""
    places = [[0, n // 2, n - 1] for n in x.shape[1:]]
    return [*map(float, x.shape), float(x.mean(dtype=np.float64)), *map(float, x[:, places[0]][:, :, places[1]].ravel())]


def processor(config: dict[str, Any]) -> Any:
    """The processor of transformers that a file describes, in its Pillow form."""
    name = config.get("image_processor_type", config.get("feature_extractor_type", "ViT"))
    kind = name.split("ImageProcessor")[0].split("FeatureExtractor")[0]
    module = f"transformers.models.{PROCESSORS[kind]}.image_processing_pil_{PROCESSORS[kind]}"
    made = getattr(importlib.import_module(module), f"{kind}ImageProcessorPil")
    return made(**{key: value for key, value in config.items() if not key.endswith("_type")})


def by_transformers(config: dict[str, Any], picture: Image.Image) -> np.ndarray:
    return np.asarray(processor(config)(picture)["pixel_values"][0])


def by_timm(config: dict[str, Any], picture: Image.Image) -> np.ndarray:
    data = importlib.import_module("timm.data")
    found: np.ndarray = data.create_transform(**data.resolve_data_config(pretrained_cfg=config))(picture).numpy()
    return found


def by_torchvision(transforms: list[Any], picture: Image.Image) -> np.ndarray:
    torch, tv = importlib.import_module("torch"), importlib.import_module("torchvision.transforms")
    x: Any = picture
    for entry in transforms:
        name, given = (entry, None) if isinstance(entry, str) else next(iter(entry.items()))
        if isinstance(given, dict) and "interpolation" in given:
            given = {**given, "interpolation": tv.InterpolationMode(given["interpolation"])}
        if given == "float32":
            given = torch.float32
        made = getattr(tv, name)
        x = (made(**given) if isinstance(given, dict) else made() if given is None else made(given))(x)
    found: np.ndarray = x.numpy()
    return found


LIBRARIES = (("transformers", TRANSFORMERS), ("timm", TIMM), ("torchvision", TORCHVISION))


def main() -> None:
    picture, found = golden_picture(), {}
    for library, cases in LIBRARIES:
        make = globals()[f"by_{library}"]
        version = importlib.import_module(library).__version__
        found[library] = {"version": version, "samples": {name: samples(make(c, picture)) for name, c in cases.items()}}
    text = json.dumps(found, indent=1)
    DATA.write_text(re.sub(r"(?<=[\[\d,])\n +(?=[-\d\]])", "", text) + "\n")  # a line per case


if __name__ == "__main__":
    main()
