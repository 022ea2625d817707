"""From a picture to what the network takes: fit to size, order channels, then `x = (pixel / scale - mean) / std`."""

import dataclasses
import math
from typing import Any

import numpy as np
from PIL import Image, ImageFilter

from engine.errors import OptionError
from engine.protocol import require_whole

Box = tuple[float, float, float, float]
"""(left, top, right, bottom) in pixels of the upright original; may reach outside it where a picture was padded."""

FITS = ("crop", "stretch", "pad")
CHANNEL_ORDERS = ("rgb", "bgr")
LAYOUTS = ("nchw", "nhwc")
BASELINES = ("mean", "black", "white", "blur")
BLUR_WINDOW = 11


@dataclasses.dataclass(frozen=True)
class Preprocessing:
    """How a model's pictures are prepared.

    height, width: pixels that the network sees
    fit: crop (cover the size and cut out the middle), stretch (ignore the aspect ratio), pad (fit inside, with the mean
        colour around)
    mean, std: per channel, in the network's channel order, in units of pixel / scale
    scale: what a pixel 0..255 is divided by first
    channel_order: rgb or bgr; layout: nchw or nhwc

    Raises OptionError for values out of range.
    """

    height: int
    width: int
    fit: str = "crop"
    mean: tuple[float, ...] = (0.0, 0.0, 0.0)
    std: tuple[float, ...] = (1.0, 1.0, 1.0)
    scale: float = 255.0
    channel_order: str = "rgb"
    layout: str = "nchw"

    def __post_init__(self) -> None:
        for name, allowed in (("fit", FITS), ("channel_order", CHANNEL_ORDERS), ("layout", LAYOUTS)):
            if getattr(self, name) not in allowed:
                raise OptionError(f"{name} must be one of {', '.join(allowed)}, got {getattr(self, name)!r}")
        for name in ("height", "width"):
            require_whole(name, getattr(self, name), 1, 8192)
        for name in ("mean", "std"):
            values = getattr(self, name)
            if not isinstance(values, tuple) or len(values) != 3 or not all(math.isfinite(v) for v in values):
                raise OptionError(f"{name} must be a tuple of three finite numbers, got {values}")
        if not all(v > 0 for v in (*self.std, self.scale)) or not math.isfinite(self.scale):
            raise OptionError(f"std and scale must be positive, got {self.std} and {self.scale}")

    @property
    def input_shape(self) -> tuple[int, int, int]:
        """Shape of one picture in the network's layout."""
        size = (self.height, self.width)
        return (3, *size) if self.layout == "nchw" else (*size, 3)

    def to_dict(self) -> dict[str, Any]:
        """Ready for JSON, whatever kind of numbers it was made with."""
        floats = {name: [float(v) for v in getattr(self, name)] for name in ("mean", "std")}
        return {**dataclasses.asdict(self), **floats, "scale": float(self.scale)}

    def fitted(self, picture: Image.Image) -> tuple[np.ndarray, Box]:
        """What the network sees of `picture` (RGB): (H, W, 3) uint8, and the box of the original that it shows."""
        width, height = picture.size
        if self.fit == "stretch":
            box: Box = (0.0, 0.0, float(width), float(height))
        elif self.fit == "crop":
            box = self._crop_box(width, height)
        else:
            return self._padded(picture)
        # resizing the box alone gives the pixels of "resize, then crop" without making the rest (a 1 x 10000 picture)
        fitted = picture.resize((self.width, self.height), Image.Resampling.BILINEAR, box=box)
        return np.asarray(fitted), box

    def _crop_box(self, width: int, height: int) -> Box:
        """The middle, as torchvision's Resize and CenterCrop take it, rounding included."""
        if width * self.height >= height * self.width:
            new_width, new_height = max(int(self.height * width / height), self.width), self.height
        else:
            new_width, new_height = self.width, max(int(self.width * height / width), self.height)
        left, top = round((new_width - self.width) / 2), round((new_height - self.height) / 2)
        across, down = width / new_width, height / new_height
        right, bottom = (left + self.width) * across, (top + self.height) * down
        return (left * across, top * down, min(right, float(width)), min(bottom, float(height)))

    def _padded(self, picture: Image.Image) -> tuple[np.ndarray, Box]:
        width, height = picture.size
        ratio = min(self.width / width, self.height / height)
        inner = (min(max(round(width * ratio), 1), self.width), min(max(round(height * ratio), 1), self.height))
        left, top = (self.width - inner[0]) // 2, (self.height - inner[1]) // 2
        canvas = Image.new("RGB", (self.width, self.height), self._mean_colour())
        canvas.paste(picture.resize(inner, Image.Resampling.BILINEAR), (left, top))
        across, down = width / inner[0], height / inner[1]
        box = (-left * across, -top * down, (self.width - left) * across, (self.height - top) * down)
        return np.asarray(canvas), box

    def _mean_colour(self) -> tuple[int, int, int]:
        mean = self.mean if self.channel_order == "rgb" else self.mean[::-1]
        red, green, blue = (min(max(round(m * self.scale), 0), 255) for m in mean)
        return red, green, blue

    def normalised(self, pixels: np.ndarray) -> np.ndarray:
        """(..., H, W, 3) uint8 RGB -> float32 in the network's channel order and layout.

        Bit-identical to torchvision's ToTensor and Normalize: the same float32 operations, done once per pixel value.
        """
        value = np.arange(256, dtype=np.float32)[:, None]
        table = (value / np.float32(self.scale) - np.array(self.mean, np.float32)) / np.array(
            self.std, np.float32
        )  # (256, 3)
        ordered = pixels if self.channel_order == "rgb" else pixels[..., ::-1]
        x = table[ordered, np.arange(3)]
        return np.ascontiguousarray(np.moveaxis(x, -1, -3) if self.layout == "nchw" else x)

    def baseline(self, name: str, pixels: np.ndarray) -> np.ndarray:
        """What takes the place of hidden pixels, float32 like one normalised picture.

        name: mean (0 after normalisation), black, white, blur (a median filter of 11 x 11 over `pixels`)
        """
        if name == "mean":
            return np.zeros(self.input_shape, np.float32)
        if name == "blur":
            blurred = Image.fromarray(pixels).filter(ImageFilter.MedianFilter(BLUR_WINDOW))
            return self.normalised(np.asarray(blurred))
        if name in BASELINES:
            return self.normalised(np.full_like(pixels, 0 if name == "black" else 255))
        raise OptionError(f"baseline must be one of {', '.join(BASELINES)}, got {name!r}")
