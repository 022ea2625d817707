"""What the network sees: the usual PyTorch transform, bit for bit."""

import dataclasses
import json

import numpy as np
import pytest
import torch
from helpers import IMAGENET, noise
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from engine.errors import OptionError
from engine.pictures.preprocessing import Preprocessing

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
@pytest.mark.parametrize("size", [(1, 1), (1, 10_000), (10_000, 1)])
def test_extreme_shapes_fit(fit: str, size: tuple[int, int]) -> None:
    pixels, _ = Preprocessing(30, 40, fit=fit).fitted(Image.new("RGB", size, "red"))
    assert pixels.shape == (30, 40, 3)


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
    [{"fit": "zoom"}, {"layout": "hwc"}, {"height": 0}, {"std": (0, 1, 1)}, {"mean": (0, 0)}, {"scale": -1.0}],
)
def test_impossible_preprocessing_is_refused(fields: dict[str, object]) -> None:
    with pytest.raises(OptionError):
        Preprocessing(**{"height": 8, "width": 8, **fields})  # type: ignore[arg-type]
