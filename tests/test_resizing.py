"""Resizing: bit for bit what Pillow gives, and what PyTorch gives on tensors without antialias; only a part is computed."""

import numpy as np
import pytest
import torch
from helpers import noise
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from engine.errors import OptionError
from engine.pictures import resizing
from engine.pictures.resizing import INTERPOLATIONS, WITHOUT_ANTIALIAS, centred, part_box, resized, resized_part, scaled_size

SIDE = st.integers(1, 90)
TARGET = st.integers(1, 50)


@given(SIDE, SIDE, TARGET, TARGET, TARGET, st.sampled_from(INTERPOLATIONS), st.sampled_from(["even", "down"]))
def test_resize_then_crop_is_pillows_bit_for_bit(
    h: int, w: int, short: int, height: int, width: int, interpolation: str, rounding: str
) -> None:
    picture = Image.fromarray(noise(h, w))
    long = int(short * max(h, w) / min(h, w))
    size = (long, short) if w >= h else (short, long)
    assert scaled_size(picture.size, (short,), (width, height)) == size
    whole = np.asarray(picture.resize(size, Image.Resampling[interpolation.upper()]))
    left, top = centred(size[0], width, rounding), centred(size[1], height, rounding)
    got = resized_part(picture, size, (left, top), (width, height), interpolation)
    np.testing.assert_array_equal(got, cut_out(whole, left, top, width, height))


@given(SIDE, SIDE, TARGET, TARGET, st.sampled_from(WITHOUT_ANTIALIAS))
def test_without_antialias_is_pytorchs_interpolate(h: int, w: int, height: int, width: int, interpolation: str) -> None:
    pixels = noise(h, w)
    found = interpolated(pixels, (height, width), interpolation)
    got = np.asarray(resized(Image.fromarray(pixels), (width, height), interpolation, antialias=False))
    wanted = np.clip(np.rint(found), 0, 255)
    tie = np.abs(found - np.floor(found) - 0.5) < 1e-3  # PyTorch's own last digit depends on the processor
    np.testing.assert_array_equal(got[~tie], wanted[~tie])
    assert np.abs(got - wanted).max() <= 1


@given(SIDE, SIDE, st.integers(20, 70), st.integers(1, 90), st.sampled_from(WITHOUT_ANTIALIAS))
def test_a_part_without_antialias_is_cut_out_of_the_whole(h: int, w: int, short: int, side: int, interpolation: str) -> None:
    picture = Image.fromarray(noise(h, w))
    size = scaled_size(picture.size, (short,), (side, side))
    left, top = centred(size[0], side, "even"), centred(size[1], side, "even")
    whole = np.asarray(resized(picture, size, interpolation, antialias=False))
    got = resized_part(picture, size, (left, top), (side, side), interpolation, antialias=False)
    np.testing.assert_array_equal(got, cut_out(whole, left, top, side, side))


def test_sizes() -> None:
    assert scaled_size((500, 31), None, (224, 224)) == (int(224 * 500 / 31), 224)
    assert scaled_size((31, 500), None, (200, 224)) == (200, int(200 * 500 / 31))
    assert scaled_size((31, 500), (256,), (224, 224)) == (256, int(256 * 500 / 31))
    assert scaled_size((31, 500), (40, 50), (224, 224)) == (50, 40)  # (h, w) -> (width, height)
    assert scaled_size((31, 500), (), (224, 224)) == (31, 500)


def test_odd_borders_go_where_each_library_has_them() -> None:
    assert [centred(n, 224, "even") for n in (225, 227, 229, 231)] == [0, 2, 2, 4]  # round half to even
    assert [centred(n, 224, "down") for n in (225, 227, 229, 231)] == [0, 1, 2, 3]
    assert centred(221, 224, "even") == -1  # torchvision pads 1 before and 2 after
    assert centred(221, 224, "down") == -2  # transformers pads 2 before


@pytest.mark.parametrize("size", [(1, 10_000), (10_000, 1)])
@pytest.mark.parametrize("antialias", [True, False])
def test_absurd_shapes_cost_little(size: tuple[int, int], antialias: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resizing, "LARGEST_RESIZED", 10**6)
    strip = Image.fromarray(np.repeat(np.arange(10_000, dtype=np.uint32)[:, None] // 40, 3, 1).astype(np.uint8)[None])
    picture = strip if size[1] == 1 else strip.transpose(Image.Transpose.ROTATE_90)
    big = scaled_size(picture.size, (100,), (80, 80))
    corner = centred(big[0], 80, "even"), centred(big[1], 80, "even")
    got = resized_part(picture, big, corner, (80, 80), "bicubic", antialias)
    assert got.shape == (80, 80, 3)
    assert np.abs(got.astype(int) - 124.5).max() <= 1.5  # the middle of the strip


def test_box_of_a_part() -> None:
    assert part_box((100, 50), (200, 100), (50, 0), (100, 100)) == (25.0, 0.0, 75.0, 50.0)
    assert part_box((100, 50), (200, 100), (-10, -20), (220, 140)) == (-5.0, -10.0, 105.0, 60.0)
    assert part_box((49, 49), (9, 9), (0, 0), (9, 9))[2:] == (49.0, 49.0)  # never a rounding error outside


def test_what_pytorch_does_not_have_is_refused() -> None:
    with pytest.raises(OptionError, match="lanczos has no form without antialias; use nearest, bilinear, bicubic"):
        resized(Image.new("RGB", (4, 4)), (2, 2), "lanczos", antialias=False)


def cut_out(whole: np.ndarray, left: int, top: int, width: int, height: int) -> np.ndarray:
    """The window of a picture, with black outside it."""
    border = max(height, width)
    padded = np.pad(whole, ((border, border), (border, border), (0, 0)))
    return padded[top + border : top + border + height, left + border : left + border + width]


def interpolated(pixels: np.ndarray, size: tuple[int, int], mode: str) -> np.ndarray:
    more = {} if mode == "nearest" else {"align_corners": False, "antialias": False}
    x = torch.from_numpy(pixels).permute(2, 0, 1)[None].float()
    found: np.ndarray = torch.nn.functional.interpolate(x, size=size, mode=mode, **more)[0].permute(1, 2, 0).numpy()
    return found
