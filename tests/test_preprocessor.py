"""Files of transformers, timm and torchvision become the preprocessing that they describe, to the last float digit."""

import importlib.util
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers import noise
from PIL import Image
from preprocessor_cases import (
    CLIP,
    CONVNEXT,
    DATA,
    EFFICIENTNET,
    LIBRARIES,
    MEAN,
    STD,
    TIMM,
    TORCHVISION,
    TRANSFORMERS,
    VIT,
    by_timm,
    golden_picture,
    processor,
    samples,
)

from engine.errors import EngineError
from engine.pictures.loading import load_picture
from engine.pictures.preprocessing import Preprocessing
from export.errors import ExportError
from export.preprocessor import from_timm, from_torchvision, from_transformers, read_preprocessor

FOLLOW: dict[str, Callable[[Any], Preprocessing]] = {
    "transformers": from_transformers,
    "timm": from_timm,
    "torchvision": from_torchvision,
}
GOLDEN = json.loads(DATA.read_text())
SIZES = [(31, 500), (500, 31), (1000, 700), (333, 224), (224, 333), (224, 224), (257, 255), (99, 100), (481, 640), (20, 20)]
SIZES += [(225, 300), (301, 227)]


def prepared(preprocessing: Preprocessing, picture: Image.Image) -> np.ndarray:
    """(C, H, W) float32, as the network of the library would take it"""
    return preprocessing.normalised(preprocessing.fitted(load_picture(picture))[0])


@pytest.fixture(scope="module")
def varied() -> list[Image.Image]:
    """24 pictures: wide, tall, odd, small, grey, with palette, with and without transparency."""
    random, pictures = np.random.default_rng(0), []
    for number, (height, width) in enumerate(SIZES * 2):
        small = Image.fromarray(noise(max(height // 9, 1), max(width // 9, 1), number))
        picture = small.resize((width, height), Image.Resampling.BICUBIC)
        pixels = np.asarray(picture).astype(int) + random.integers(-25, 25, (height, width, 1))
        picture = Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8))
        if number >= len(SIZES):
            picture = picture.convert(("L", "RGBA", "P", "LA")[number % 4])
        if picture.mode == "RGBA":
            picture.putalpha(Image.linear_gradient("L").resize(picture.size))
        pictures.append(picture)
    return pictures


@pytest.mark.parametrize(("library", "name"), [(library, name) for library, cases in LIBRARIES for name in cases])
def test_stored_results_of_the_libraries(library: str, name: str) -> None:
    cases: dict[str, Any] = dict(LIBRARIES)[library]
    found = samples(prepared(FOLLOW[library](cases[name]), golden_picture()))
    np.testing.assert_allclose(found, GOLDEN[library]["samples"][name], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", TRANSFORMERS)
def test_transformers_own_processors(name: str, varied: list[Image.Image]) -> None:
    pytest.importorskip("transformers", reason="transformers is not installed: stored results only")
    config = TRANSFORMERS[name]
    made, ours = processor(config), from_transformers(config)
    # pixels, before rescaling and normalisation, are equal as whole numbers
    bare = processor({**config, "do_rescale": False, "do_normalize": False, "include_top": False})
    for picture in varied:
        shown = picture if config.get("do_convert_rgb") else load_picture(picture)
        pixels, _ = ours.fitted(load_picture(picture))
        wanted = np.moveaxis(np.asarray(bare(shown)["pixel_values"][0]), 0, -1)
        np.testing.assert_array_equal(pixels[..., ::-1] if name == "mobilevit" else pixels, wanted)
        scale = 255 if name == "bare" else 1  # floats round by their size
        np.testing.assert_allclose(ours.normalised(pixels), made(shown)["pixel_values"][0], rtol=0, atol=1e-5 * scale)


@pytest.mark.parametrize("name", TIMM)
def test_timms_own_transform(name: str, varied: list[Image.Image]) -> None:
    if importlib.util.find_spec("torchvision") is None or importlib.util.find_spec("timm") is None:
        pytest.skip("timm or torchvision is not installed: stored results, and timm's rule written anew, only")
    for picture in varied:
        rgb = load_picture(picture)
        np.testing.assert_allclose(prepared(from_timm(TIMM[name]), rgb), by_timm(TIMM[name], rgb), rtol=0, atol=1e-5)


@pytest.mark.parametrize("mode", ["center", "squash"])
@pytest.mark.parametrize("crop_pct", [0.875, 0.9, 0.965, 1.0])
@pytest.mark.parametrize("interpolation", ["bicubic", "bilinear"])
def test_timms_rule(mode: str, crop_pct: float, interpolation: str, varied: list[Image.Image]) -> None:
    """`timm.data.create_transform` needs torchvision, which is not everywhere: its arithmetic with Pillow alone."""
    side, resample = 96, Image.Resampling[interpolation.upper()]
    config = {**TIMM["center"], "input_size": [3, side, side], "crop_pct": crop_pct, "interpolation": interpolation}
    ours, scaled = from_timm({**config, "crop_mode": mode}), math.floor(side / crop_pct)
    for picture in map(load_picture, varied):
        width, height = picture.size
        if mode == "squash":
            size = scaled, scaled
        elif width <= height:
            size = scaled, int(scaled * height / width)
        else:
            size = int(scaled * width / height), scaled
        left, top = round((size[0] - side) / 2.0), round((size[1] - side) / 2.0)
        pixels = np.asarray(picture.resize(size, resample).crop((left, top, left + side, top + side)))
        np.testing.assert_array_equal(ours.fitted(picture)[0], pixels)
        wanted = (pixels.astype(np.float32) / np.float32(255) - np.float32(MEAN)) / np.float32(STD)
        np.testing.assert_allclose(ours.normalised(pixels), np.moveaxis(wanted, -1, 0), rtol=0, atol=1e-6)


def test_what_files_become() -> None:
    clip = Preprocessing(
        224, 224, mean=tuple(CLIP["image_mean"]), std=tuple(CLIP["image_std"]), resize=(224,), interpolation="bicubic",
        crop_rounding="down",
    )  # fmt: skip
    assert from_transformers(CLIP) == from_transformers(TRANSFORMERS["clip-older"]) == clip
    assert from_transformers({"image_processor": CLIP, "video_processor": {}}) == clip
    assert from_transformers({**CLIP, "image_processor_type": "CLIPImageProcessorFast", "resample": "bicubic"}) == clip
    vit = Preprocessing(224, 224, fit="stretch", mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5))
    assert from_transformers(VIT) == from_transformers(TRANSFORMERS["vit-older"]) == vit
    assert from_transformers({**CONVNEXT, "size": 224}).resize == (256,)  # crop_pct is 224 / 256 by itself
    assert from_transformers({**CONVNEXT, "size": {"shortest_edge": 384}}).fit == "stretch"
    offset = from_transformers({**EFFICIENTNET, "rescale_offset": True, "include_top": False})
    np.testing.assert_allclose(offset.mean, np.array(MEAN) + 1)
    assert from_transformers({**VIT, "do_rescale": False}).scale == 1
    assert from_transformers({**VIT, "rescale_factor": 0.003921569}).scale == 255
    assert from_transformers({**VIT, "do_normalize": False}).std == (1, 1, 1)
    grey = from_transformers({**VIT, "image_mean": [0.5], "image_std": [0.25]})
    assert (grey.channels, grey.mean, grey.std) == (1, (0.5,), (0.25,))
    timm = from_timm({"architecture": "vit_tiny", "pretrained_cfg": {**TIMM["center"], "crop_pct": None}})
    assert (timm.resize, timm.interpolation, timm.crop_rounding) == ((256,), "bicubic", "even")
    assert from_timm({"input_size": (3, 96, 96)}).mean == tuple(MEAN)
    assert from_timm({"input_size": [1, 28, 28], "mean": [0.1], "std": [0.3], "crop_pct": 1}).channels == 1
    assert from_torchvision(["PILToTensor", {"Resize": [8, 9]}, {"ToDtype": {"dtype": "float32"}}]).scale == 1
    exact = {"Resize": {"size": [8, 9], "interpolation": "InterpolationMode.NEAREST_EXACT"}}
    for resize, antialias in ((exact, True), ({"Resize": {"size": [8, 9], "interpolation": "nearest"}}, False)):
        found = from_torchvision(["ToImage", resize, {"ConvertImageDtype": "float32"}])
        assert (found.interpolation, found.antialias, found.fit) == ("nearest", antialias, "stretch")


@pytest.mark.parametrize(
    ("config", "key"),
    [
        ({**CLIP, "do_pad": True}, "do_pad"),
        ({**CLIP, "max_num_patches": 256}, "max_num_patches"),
        ({**CLIP, "do_center_crop": False}, "do_center_crop"),
        ({**CLIP, "do_resize": False, "do_center_crop": False}, "do_resize"),
        ({**CLIP, "do_resize": "yes"}, "do_resize"),
        ({**CLIP, "crop_size": None}, "crop_size"),
        ({**CLIP, "crop_size": {"shortest_edge": 224}}, "crop_size"),
        ({**CLIP, "size": {"shortest_edge": 224, "longest_edge": 400}}, "size"),
        ({**CLIP, "size": {"shortest_edge": "224"}}, "shortest_edge"),
        ({**CLIP, "size": None}, "size"),
        ({**CLIP, "resample": 9}, "resample"),
        ({**CLIP, "resample": "cubic"}, "resample"),
        ({**CLIP, "image_mean": [0.5, 0.5]}, "image_mean"),
        ({**CLIP, "image_mean": 0.5, "image_std": [0.5]}, "image_mean and image_std"),
        ({**CLIP, "image_std": "0.5"}, "image_std"),
        ({**CLIP, "image_std": [0, 1, 1]}, "std"),
        ({**CLIP, "rescale_factor": 0}, "rescale_factor"),
        ({**CLIP, "image_processor_type": "Siglip2ImageProcessor"}, "Siglip2ImageProcessor"),
        ({"do_center_crop": True, "crop_size": 224, "size": 256}, "image_processor_type"),
        ({**CONVNEXT, "size": {"height": 224, "width": 224}}, "shortest_edge"),
        ({**CONVNEXT, "size": 224, "crop_pct": 1.5}, "crop_pct"),
        ({**CONVNEXT, "size": 224, "do_center_crop": True}, "do_center_crop"),
        ({**TRANSFORMERS["poolformer"], "size": {"height": 224, "width": 200}}, "crop_pct"),
        ({"image_processor": [1]}, "JSON object"),
        ({**TIMM["center"], "input_size": [4, 224, 224]}, "input_size"),
        ({**TIMM["center"], "input_size": [3, 256, 128]}, "input_size"),
        ({**TIMM["center"], "crop_pct": "0.9"}, "crop_pct"),
        ({**TIMM["center"], "crop_mode": "corner"}, "crop_mode"),
        ({**TIMM["border"], "crop_pct": 0.9}, "crop_mode border"),
        ({**TIMM["center"], "interpolation": "random"}, "interpolation"),
        ({"pretrained_cfg": 3}, "pretrained_cfg"),
        ([], "list"),
        ([{"Resize": 256, "CenterCrop": 224}], "transform 1"),
        ([{"Resize": {"size": 256, "max_size": 300}}, {"CenterCrop": 224}, "ToTensor"], "max_size"),
        ([{"Resize": {"size": 256, "fill": 3}}, {"CenterCrop": 224}, "ToTensor"], "fill"),
        ([{"Resize": {"size": 256, "antialias": False}}, {"CenterCrop": 224}, "ToTensor"], "antialias"),
        (["ToTensor", {"Resize": 256}], "Resize"),
        ([{"Resize": 256}, "ToTensor"], "CenterCrop"),
        (["ToTensor"], "no Resize"),
        ([{"CenterCrop": 224}, {"Resize": 256}, "ToTensor"], "Resize"),
        ([{"CenterCrop": 224}], "ToTensor"),
        ([{"CenterCrop": 224}, {"CenterCrop": 200}, "ToTensor"], "CenterCrop"),
        ([{"CenterCrop": None}, "ToTensor"], "CenterCrop needs size"),
        ([{"CenterCrop": 224}, {"Normalize": {"mean": MEAN, "std": STD}}], "Normalize"),
        ([{"CenterCrop": 224}, "ToTensor", {"Normalize": {"mean": MEAN}}], "Normalize: std"),
        (["PILToTensor", "ToTensor"], "ToTensor"),
        (["PILToTensor", "PILToTensor"], "PILToTensor"),
        ([{"ToDtype": "float32"}], "ToDtype"),
        (["PILToTensor", {"ToDtype": "float16"}], "dtype"),
        (["PILToTensor", {"Resize": {"size": 256, "interpolation": "box"}}], "box"),
        ([{"Resize": 256}, "Grayscale"], "Grayscale"),
        ([{"Grayscale": 3}], "num_output_channels"),
        ([{"Pad": 4}, {"CenterCrop": 224}, "ToTensor"], "Pad"),
        ([{"RandomResizedCrop": 224}, "ToTensor"], "RandomResizedCrop changes pictures at random"),
        ({"learning_rate": 1}, "docs/preprocessing.md"),
        ("text", "docs/preprocessing.md"),
    ],
)
def test_what_cannot_be_followed_is_named(config: Any, key: str, tmp_path: Path) -> None:
    path = tmp_path / "preprocessor_config.json"
    path.write_text(json.dumps(config))
    with pytest.raises(ExportError) as caught:
        read_preprocessor(path)
    message = str(caught.value)
    assert message.startswith(f"{path}: ")
    assert key in message
    assert "\n" not in message and len(message) < 330 + len(str(path))


def test_files_are_read(tmp_path: Path) -> None:
    path = tmp_path / "file.json"
    for config, expected in (
        (CLIP, from_transformers(CLIP)),
        ({"image_processor": VIT}, from_transformers(VIT)),
        ({"pretrained_cfg": TIMM["center"]}, from_timm(TIMM["center"])),
        (TIMM["border"], from_timm(TIMM["border"])),
        (TORCHVISION["grey"], from_torchvision(TORCHVISION["grey"])),
    ):
        path.write_text(json.dumps(config), encoding="utf-8-sig")  # with a byte order mark, as some editors write it
        assert read_preprocessor(path) == expected
    path.write_text("{")
    with pytest.raises(EngineError, match="is not JSON"):
        read_preprocessor(path)
    with pytest.raises(EngineError, match="cannot read"):
        read_preprocessor(tmp_path / "none.json")
