"""What the network sees: the usual PyTorch transform, bit for bit."""

import dataclasses
import json

import numpy as np
import pytest
import torch
from helpers import IMAGENET, ROOT, noise
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from engine.bundle import load_bundle
from engine.bundle.manifest import Manifest
from engine.errors import OptionError
from engine.pictures.preprocessing import Preprocessing
from engine.pictures.resizing import INTERPOLATIONS, scaled_size
from engine.typed import typed

DEMO = ROOT / "engine" / "data" / "bundle"
EVERY_VALUE = np.arange(256, dtype=np.uint8).reshape(16, 16, 1).repeat(3, axis=2)


@pytest.mark.parametrize("scale", [255.0, 1.0, 127.5])
def test_normalised_equals_torch_bit_for_bit(scale: float) -> None:
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (IMAGENET.mean, IMAGENET.std))
    expected = (torch.from_numpy(EVERY_VALUE).permute(2, 0, 1).to(torch.float32).div(scale) - mean) / std
    got = dataclasses.replace(IMAGENET, height=16, width=16, scale=scale).normalised(EVERY_VALUE)
    np.testing.assert_array_equal(got.view(np.uint32), expected.contiguous().numpy().view(np.uint32))


def test_channel_order_comes_before_mean_and_layout_after() -> None:
    pixels = noise(5, 4)
    p = Preprocessing(5, 4, mean=(1, 2, 3), std=(1, 2, 4), scale=1, channel_order="bgr", layout="nhwc")
    expected = (pixels[..., ::-1].astype(np.float32) - np.float32([1, 2, 3])) / np.float32([1, 2, 4])
    np.testing.assert_array_equal(p.normalised(pixels[None])[0], expected)


@given(st.integers(1, 90), st.integers(1, 90), st.integers(1, 40), st.integers(1, 40))
def test_crop_is_torchvisions_resize_and_centre_crop(h: int, w: int, height: int, width: int) -> None:
    picture = Image.fromarray(noise(h, w))
    got, box = Preprocessing(height, width).fitted(picture)
    wide = (max(int(height * w / h), width), height)
    size = wide if w * height >= h * width else (width, max(int(width * h / w), height))
    left, top = round((size[0] - width) / 2), round((size[1] - height) / 2)
    resized = np.asarray(picture.resize(size, Image.Resampling.BILINEAR))
    # the same weights, computed from a box: Pillow rounds each to 8 bits, so one level may differ
    assert np.abs(got.astype(int) - resized[top : top + height, left : left + width]).max() <= 1
    assert box[0] == pytest.approx(left * w / size[0])
    assert box[3] == pytest.approx((top + height) * h / size[1])


def test_fits_keep_their_promise_and_their_box() -> None:
    wide = Image.fromarray(noise(50, 100))
    pixels, box = Preprocessing(20, 20).fitted(wide)
    assert (pixels.shape, box) == ((20, 20, 3), (25.0, 0.0, 75.0, 50.0))
    pixels, box = Preprocessing(20, 20, fit="stretch").fitted(wide)
    assert (pixels.shape, box) == ((20, 20, 3), (0.0, 0.0, 100.0, 50.0))
    pixels, box = dataclasses.replace(IMAGENET, height=20, width=20, fit="pad").fitted(wide)
    assert box == (0.0, -25.0, 100.0, 75.0)
    assert pixels[0, 0].tolist() == [124, 116, 104]
    np.testing.assert_array_equal(pixels[5:15], np.asarray(wide.resize((20, 10), Image.Resampling.BILINEAR)))


@pytest.mark.parametrize("fit", ["crop", "stretch", "pad"])
@pytest.mark.parametrize("interpolation", ["bilinear", "lanczos"])
@pytest.mark.parametrize("size", [(1, 1), (1, 10_000), (10_000, 1)])
def test_extreme_shapes_fit(fit: str, interpolation: str, size: tuple[int, int]) -> None:
    pixels, _ = Preprocessing(30, 40, fit=fit, interpolation=interpolation).fitted(Image.new("RGB", size, "red"))
    assert pixels.shape == (30, 40, 3)


@given(st.integers(1, 90), st.integers(1, 90), st.integers(1, 40), st.integers(1, 40), st.sampled_from(INTERPOLATIONS[:-1]))
def test_crop_with_another_interpolation_is_exact(h: int, w: int, height: int, width: int, interpolation: str) -> None:
    picture = Image.fromarray(noise(h, w))
    p = Preprocessing(height, width, interpolation=interpolation, crop_rounding="down")
    size = scaled_size(picture.size, None, (width, height))
    left, top = (size[0] - width) // 2, (size[1] - height) // 2
    resized = np.asarray(picture.resize(size, Image.Resampling[interpolation.upper()]))
    wanted = resized[top : top + height, left : left + width]
    if interpolation == "bilinear":  # the default of bundles that know no other keeps its pixels
        wanted = np.asarray(picture.resize((width, height), Image.Resampling.BILINEAR, box=p.fitted(picture)[1]))
    np.testing.assert_array_equal(p.fitted(picture)[0], wanted)


def test_resize_says_how_large_a_picture_is_before_the_crop() -> None:
    picture = Image.fromarray(noise(50, 100))
    pixels, box = Preprocessing(20, 20, resize=(25,)).fitted(picture)  # 25 x 50; columns 15..35, rows 2..22
    resized = np.asarray(picture.resize((50, 25), Image.Resampling.BILINEAR))
    np.testing.assert_array_equal(pixels, resized[2:22, 15:35])
    assert box == (30.0, 4.0, 70.0, 44.0)
    pixels, box = Preprocessing(20, 20, resize=(25, 30)).fitted(picture)  # (height, width)
    resized = np.asarray(picture.resize((30, 25), Image.Resampling.BILINEAR))
    np.testing.assert_array_equal(pixels, resized[2:22, 5:25])
    pixels, box = Preprocessing(60, 20, resize=()).fitted(picture)  # as it is: too low by 10 rows
    np.testing.assert_array_equal(pixels[5:55], np.asarray(picture)[:, 40:60])
    assert not pixels[:5].any() and not pixels[55:].any()
    assert box == (40.0, -5.0, 60.0, 55.0)


def test_padding_has_a_colour_and_a_position() -> None:
    picture = Image.fromarray(noise(50, 100))
    p = Preprocessing(20, 20, fit="pad", pad_colour=(1, 2, 3), pad_position="top-left", interpolation="bicubic")
    pixels, box = p.fitted(picture)
    np.testing.assert_array_equal(pixels[:10], np.asarray(picture.resize((20, 10), Image.Resampling.BICUBIC)))
    assert (pixels[10:] == (1, 2, 3)).all()
    assert box == (0.0, 0.0, 100.0, 100.0)


def test_without_antialias_pixels_are_skipped() -> None:
    picture = Image.fromarray(noise(40, 40))
    nearest = Preprocessing(10, 10, fit="stretch", interpolation="nearest", antialias=False)
    np.testing.assert_array_equal(nearest.fitted(picture)[0], np.asarray(picture)[::4, ::4])
    linear = {"fit": "stretch", "interpolation": "bilinear"}
    smooth, rough = (Preprocessing(10, 10, antialias=a, **linear).fitted(picture)[0] for a in (True, False))  # type: ignore[arg-type]
    assert smooth.std() < 0.6 * rough.std()
    cropped = Preprocessing(8, 8, resize=(10,), antialias=False)
    np.testing.assert_array_equal(cropped.fitted(picture)[0], rough[1:9, 1:9])


@pytest.mark.parametrize("fit", ["crop", "pad"])
def test_a_network_of_one_channel_gets_pillows_grey(fit: str) -> None:
    p = Preprocessing(8, 10, fit=fit, channels=1, mean=(0.4,), std=(0.5,))
    assert p.input_shape == (1, 8, 10)
    assert dataclasses.replace(p, layout="nhwc").input_shape == (8, 10, 1)
    picture = Image.fromarray(noise(16, 16))
    pixels, _ = p.fitted(picture)
    assert (pixels == pixels[..., :1]).all()
    grey, _ = dataclasses.replace(p, channels=3, mean=(0.4,) * 3, std=(0.5,) * 3).fitted(picture.convert("L").convert("RGB"))
    np.testing.assert_array_equal(pixels, grey)
    x = p.normalised(pixels[None])
    np.testing.assert_array_equal(x[0, 0], (pixels[..., 0] / np.float32(255) - np.float32(0.4)) / np.float32(0.5))
    assert dataclasses.replace(p, layout="nhwc").normalised(pixels).shape == (8, 10, 1)
    assert p.baseline("blur", pixels).shape == p.baseline("mean", pixels).shape == p.input_shape


def test_a_bundle_of_before_keeps_its_text_and_its_identity() -> None:
    loaded = load_bundle(DEMO)
    assert loaded.identity == "b9b1eec6d932ba32605ebcef9494678b11546f48b58d54ca9effe68cb68a6b51"
    text = (DEMO / "manifest.json").read_text()
    assert Manifest.from_json(text).to_json() == text
    first = ["height", "width", "fit", "mean", "std", "scale", "channel_order", "layout"]
    assert list(loaded.manifest.preprocessing.to_dict()) == first


@pytest.mark.parametrize(
    "fields",
    [
        {"resize": (256,), "interpolation": "bicubic", "crop_rounding": "down"},
        {"resize": (250, 240), "antialias": False},
        {"resize": ()},
        {"fit": "pad", "pad_colour": (0, 128, 255), "pad_position": "top-left"},
        {"channels": 1, "mean": (0.5,), "std": (0.5,)},
    ],
)
def test_the_manifest_keeps_every_field(fields: dict[str, object]) -> None:
    p = Preprocessing(224, 224, **fields)  # type: ignore[arg-type]
    assert typed(Preprocessing, json.loads(json.dumps(p.to_dict()))) == p
    assert set(p.to_dict()) == {*IMAGENET.to_dict(), *fields}


def test_baselines(golden: dict[str, np.ndarray]) -> None:
    query = golden["query"]
    p = IMAGENET
    assert not p.baseline("mean", query).any()
    for name, value in (("black", 0), ("white", 255)):
        np.testing.assert_array_equal(p.baseline(name, query), p.normalised(np.full_like(query, value)))
    np.testing.assert_array_equal(p.baseline("blur", query), p.normalised(golden["query_blur_uint8"]))
    with pytest.raises(OptionError, match="mean, black, white, blur"):
        p.baseline("pink", query)


def test_numbers_of_numpy_become_plain_ones() -> None:
    mean = tuple(np.float32([0.1, 0.2, 0.3]))
    assert json.dumps(Preprocessing(8, 8, mean=mean, scale=np.float32(2)).to_dict())


@pytest.mark.parametrize(
    "fields",
    [
        *({"fit": "zoom"}, {"layout": "hwc"}, {"height": 0}, {"std": (0, 1, 1)}, {"mean": (0, 0)}, {"scale": -1.0}),
        *(
            {"resize": 256},
            {"resize": (256.0,)},
            {"resize": (0,)},
            {"resize": (1, 2, 3)},
            {"resize": (9,), "fit": "stretch"},
        ),
        *({"interpolation": "cubic"}, {"interpolation": "box", "antialias": False}, {"antialias": None}),
        *({"crop_rounding": "up"}, {"pad_position": "left", "fit": "pad"}, {"pad_position": "top-left"}),
        *({"pad_colour": (1, 2, 3)}, {"pad_colour": (1, 2), "fit": "pad"}, {"pad_colour": (1, 2, 256), "fit": "pad"}),
        *({"channels": 4}, {"channels": 1}, {"channels": True, "mean": (0,), "std": (1,)}, {"mean": (0.5,)}),
    ],
)
def test_impossible_preprocessing_is_refused(fields: dict[str, object]) -> None:
    with pytest.raises(OptionError, match="|".join(fields)):
        Preprocessing(**{"height": 8, "width": 8, **fields})  # type: ignore[arg-type]
