"""Prepare a picture for the network: fit to size, order channels, then `x = (pixel / scale - mean) / std`."""

import dataclasses
import math
from typing import Any

import numpy as np
from PIL import Image, ImageFilter

from engine.errors import OptionError
from engine.pictures import resizing
from engine.pictures.bands import in_bands
from engine.pictures.resizing import INTERPOLATIONS, WITHOUT_ANTIALIAS
from engine.protocol import require_whole

Box = tuple[float, float, float, float]
"""(left, top, right, bottom) in pixels of the upright original; a padded picture's box reaches outside it."""

FITS = ("crop", "stretch", "pad")
CHANNEL_ORDERS = ("rgb", "bgr")
LAYOUTS = ("nchw", "nhwc")
CROP_ROUNDINGS = ("even", "down")
PAD_POSITIONS = ("centre", "top-left")
LARGEST_SIDE = 8192
BASELINES = ("mean", "black", "white", "blur")
BLUR_WINDOW = 11
"""Side of the median filter of baseline "blur", in pixels."""
_CHOICES: dict[str, tuple[object, ...]] = {
    "fit": FITS,
    "channel_order": CHANNEL_ORDERS,
    "layout": LAYOUTS,
    "interpolation": INTERPOLATIONS,
    "crop_rounding": CROP_ROUNDINGS,
    "pad_position": PAD_POSITIONS,
    "channels": (3, 1),
}
_FIRST_FIELDS = ("height", "width", "fit", "mean", "std", "scale", "channel_order", "layout")


@dataclasses.dataclass(frozen=True)
class Preprocessing:
    """How a model's pictures are prepared. docs/preprocessing.md compares the fields with the words of other libraries.

    height, width: of the network's input, in pixels
    fit: crop (cut out the middle), stretch (ignore the aspect ratio), pad (fit inside, and fill up with a colour)
    mean, std: per channel, in the network's channel order, in units of pixel / scale
    scale: pixels 0..255 are divided by it first
    channel_order: rgb or bgr; layout: nchw or nhwc
    resize: with fit crop, what the picture is resized to before the crop: None: to cover the network's size; (R,): the
        shorter side becomes R; (h, w): that size; (): not at all. What is then smaller than the crop gets a black border.
    interpolation: one of INTERPOLATIONS
    antialias: True: as Pillow; False: as PyTorch on tensors without it (WITHOUT_ANTIALIAS only)
    crop_rounding: where an odd border goes: even (torchvision's int(round(x / 2))) or down (transformers' x // 2)
    pad_colour: with fit pad, red, green and blue, 0..255; None: the mean colour; pad_position: centre or top-left
    channels: 3, or 1 for a network that takes grey pictures; mean and std then have one entry

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
    resize: tuple[int, ...] | None = None
    interpolation: str = "bilinear"
    antialias: bool = True
    crop_rounding: str = "even"
    pad_colour: tuple[int, int, int] | None = None
    pad_position: str = "centre"
    channels: int = 3

    def __post_init__(self) -> None:
        for name, allowed in _CHOICES.items():
            if getattr(self, name) not in allowed:
                raise OptionError(f"{name} must be one of {', '.join(map(str, allowed))}, got {getattr(self, name)!r}")
        for name in ("height", "width"):
            require_whole(name, getattr(self, name), 1, LARGEST_SIDE)
        require_whole("channels", self.channels, 1, 3)
        for name in ("mean", "std"):
            values = getattr(self, name)
            if not isinstance(values, tuple) or len(values) != self.channels or not all(math.isfinite(v) for v in values):
                wanted = "three finite numbers" if self.channels == 3 else "one finite number, because channels is 1"
                raise OptionError(f"{name} must be a tuple of {wanted}, got {values}")
        if not all(v > 0 for v in (*self.std, self.scale)) or not math.isfinite(self.scale):
            raise OptionError(f"std and scale must be positive, got {self.std} and {self.scale}")
        self._check_resizing()

    def _check_resizing(self) -> None:
        if self.resize is not None:
            if not isinstance(self.resize, tuple) or len(self.resize) > 2:
                raise OptionError(f"resize must be None, (), (shorter side,) or (height, width), got {self.resize!r}")
            for side in self.resize:
                require_whole("resize", side, 1, LARGEST_SIDE)
            if self.fit != "crop":
                raise OptionError(
                    f"resize is used with fit crop only, got fit {self.fit}: leave resize out, or choose fit crop"
                )
        if not isinstance(self.antialias, bool):
            raise OptionError(f"antialias must be True or False, got {self.antialias!r}")
        if not self.antialias and self.interpolation not in WITHOUT_ANTIALIAS:
            raise OptionError(
                f"interpolation {self.interpolation} needs antialias; without it, use {', '.join(WITHOUT_ANTIALIAS)}"
            )
        if self.pad_colour is not None:
            if not isinstance(self.pad_colour, tuple) or len(self.pad_colour) != 3:
                raise OptionError(f"pad_colour must be (red, green, blue), got {self.pad_colour!r}")
            for level in self.pad_colour:
                require_whole("pad_colour", level, 0, 255)
        if self.fit != "pad" and (self.pad_colour is not None or self.pad_position != "centre"):
            raise OptionError(
                f"pad_colour and pad_position need fit pad, got fit {self.fit}: leave them out, or choose fit pad"
            )

    @property
    def input_shape(self) -> tuple[int, int, int]:
        """Shape of one picture in the network's layout."""
        size = (self.height, self.width)
        return (self.channels, *size) if self.layout == "nchw" else (*size, self.channels)

    def to_dict(self) -> dict[str, Any]:
        """Return the fields, ready for JSON even if they are numpy numbers.

        Fields that bundles of the first kind did not have are left out at their defaults: a model keeps its identity.
        """
        fields = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
        later = {f.name: f.default for f in dataclasses.fields(self) if f.name not in _FIRST_FIELDS}
        fields = {name: value for name, value in fields.items() if name not in later or value != later[name]}
        fields |= {name: [float(v) for v in fields[name]] for name in ("mean", "std")}
        fields |= {name: list(fields[name]) for name in ("resize", "pad_colour") if name in fields}
        return {**fields, "scale": float(self.scale)}

    def fitted(self, picture: Image.Image) -> tuple[np.ndarray, Box]:
        """Return the part of an RGB picture that the network sees, (H, W, 3) uint8, and its box in the original.

        With one channel, red, green and blue are equal.
        """
        if self.channels == 1:
            picture = in_bands(picture, lambda band: band.convert("L").convert("RGB"))
        if self.fit == "crop":
            return self._cropped(picture)
        if self.fit == "pad":
            return self._padded(picture)
        stretched = resizing.resized(picture, (self.width, self.height), self.interpolation, self.antialias)
        return np.asarray(stretched), (0.0, 0.0, float(picture.width), float(picture.height))

    def _cropped(self, picture: Image.Image) -> tuple[np.ndarray, Box]:
        target = self.width, self.height
        size = resizing.scaled_size(picture.size, self.resize, target)
        left, top = (resizing.centred(*sides, self.crop_rounding) for sides in zip(size, target, strict=True))
        box = resizing.part_box(picture.size, size, (left, top), target)
        if (self.resize, self.interpolation, self.antialias) == (None, "bilinear", True):
            # as bundles of the first kind have it, whose pixels must stay: nearly the same, and cheaper
            return resizing.resized_box(picture, box, target, self.interpolation), box
        return resizing.resized_part(picture, size, (left, top), target, self.interpolation, self.antialias), box

    def _padded(self, picture: Image.Image) -> tuple[np.ndarray, Box]:
        width, height = picture.size
        ratio = min(self.width / width, self.height / height)
        inner = (min(max(round(width * ratio), 1), self.width), min(max(round(height * ratio), 1), self.height))
        left, top = (self.width - inner[0]) // 2, (self.height - inner[1]) // 2
        if self.pad_position == "top-left":
            left, top = 0, 0
        canvas = Image.new("RGB", (self.width, self.height), self.pad_colour or self.mean_colour())
        canvas.paste(resizing.resized(picture, inner, self.interpolation, self.antialias), (left, top))
        across, down = width / inner[0], height / inner[1]
        box = (-left * across, -top * down, (self.width - left) * across, (self.height - top) * down)
        return np.asarray(canvas), box

    def mean_colour(self) -> tuple[int, int, int]:
        """Return red, green and blue, 0..255, of the colour that becomes 0 after normalisation."""
        mean = self.mean if self.channel_order == "rgb" else self.mean[::-1]
        levels = [min(max(round(m * self.scale), 0), 255) for m in mean]
        red, green, blue = levels * (3 // self.channels)
        return red, green, blue

    def normalised(self, pixels: np.ndarray) -> np.ndarray:
        """(..., H, W, 3) uint8 RGB -> float32 in the network's channel order and layout; of equal channels one is taken.

        Bit-identical to torchvision's ToTensor and Normalize: the same float32 operations, once per pixel value.
        """
        value = np.arange(256, dtype=np.float32)[:, None]
        table = (value / np.float32(self.scale) - np.array(self.mean, np.float32)) / np.array(
            self.std, np.float32
        )  # (256, C)
        ordered = pixels if self.channel_order == "rgb" else pixels[..., ::-1]
        x = table[ordered[..., : self.channels], np.arange(self.channels)]
        if self.layout == "nchw":
            x = np.moveaxis(x, -1, -3)
        # a copy of one's own shape: with one channel, PyTorch would take numpy's strides for another layout
        return np.ascontiguousarray(x).ravel().reshape(x.shape)

    def baseline(self, name: str, pixels: np.ndarray) -> np.ndarray:
        """Return the picture that replaces hidden pixels, float32, of `input_shape`.

        name: mean (0 after normalisation), black, white, blur (an 11 x 11 median filter over `pixels`)
        pixels: the picture itself, (H, W, 3) uint8
        Raises OptionError if the name is unknown.
        """
        if name == "mean":
            return np.zeros(self.input_shape, np.float32)
        if name == "blur":
            blurred = Image.fromarray(pixels).filter(ImageFilter.MedianFilter(BLUR_WINDOW))
            return self.normalised(np.asarray(blurred))
        if name in BASELINES:
            return self.normalised(np.full_like(pixels, 0 if name == "black" else 255))
        raise OptionError(f"baseline must be one of {', '.join(BASELINES)}, got {name!r}")
