"""The options of a preprocessing: on the command line, and put together with what a file or a model says."""

import argparse
import math
from pathlib import Path
from typing import Any

from engine.errors import OptionError
from engine.pictures.preprocessing import CHANNEL_ORDERS, CROP_ROUNDINGS, FITS, LAYOUTS, PAD_POSITIONS, Preprocessing
from engine.pictures.resizing import INTERPOLATIONS
from export.processor_values import scale_of

_FIELDS = (
    *("fit", "mean", "std", "scale", "channel_order", "layout", "resize", "interpolation", "antialias", "crop_rounding"),
    *("pad_colour", "pad_position", "channels"),
)


def add_preprocessing_options(parser: argparse.ArgumentParser) -> None:
    """Add the options that say how pictures are prepared; none has a default, so that those that are given are known."""
    add = parser.add_argument_group("how pictures are prepared (docs/preprocessing.md)").add_argument
    add(
        "--preprocessor", type=Path, metavar="FILE.json", help="transformers' preprocessor_config.json, timm's "
        "pretrained_cfg, or a list of torchvision's transforms; the options below change what it says"
    )  # fmt: skip
    add("--size", type=int, nargs="+", metavar="PIXELS", help="height and, if it differs, width")
    add("--fit", choices=FITS, help="how a picture is brought to that size (default: crop)")
    add(
        "--resize", type=int, nargs="+", metavar="PIXELS", help="with --fit crop, what a picture is resized to before the "
        "crop: the shorter side, or height and width (default: what just covers --size)"
    )  # fmt: skip
    add(
        "--crop-pct", type=float, metavar="P", help="instead of --resize: the part of the shorter side that is cut out, as "
        "in timm (0.875: 256 for --size 224)"
    )  # fmt: skip
    add("--crop-rounding", choices=CROP_ROUNDINGS, help="where an odd border goes: even, as in torchvision, or down, as in "
        "transformers (default: even)")  # fmt: skip
    add("--interpolation", choices=INTERPOLATIONS, help="how pixels are interpolated (default: bilinear)")
    add(
        "--no-antialias", dest="antialias", action="store_false", default=None, help="interpolate as PyTorch does on "
        "tensors without antialias (default: as Pillow does)"
    )  # fmt: skip
    add(
        "--pad-colour", type=int, nargs=3, metavar=("R", "G", "B"), help="with --fit pad, the colour around the picture, "
        "0..255 (default: the mean)"
    )  # fmt: skip
    add("--pad-position", choices=PAD_POSITIONS, help="with --fit pad, where the picture is (default: centre)")
    add("--channels", type=int, choices=(3, 1), help="channels of the network's input; 1: grey pictures (default: 3)")
    add("--channel-order", choices=CHANNEL_ORDERS, help="channels of the network's input (default: rgb)")
    add("--layout", choices=LAYOUTS, help="layout of the network's input (default: nchw)")
    add(
        "--mean", type=float, nargs="+", metavar="A", help="mean per channel, in the network's order, of pixels after "
        "--scale (default: 0 0 0)"
    )  # fmt: skip
    add(
        "--std", type=float, nargs="+", metavar="A", help="deviation per channel, in the network's order (default: 1 1 1)"
    )  # fmt: skip
    add("--scale", type=float, help="pixels 0..255 are first divided by this number (default: 255)")
    add("--rescale-factor", type=float, metavar="F", help="instead of --scale: pixels are multiplied by F")


def given_fields(options: argparse.Namespace) -> dict[str, Any]:
    """Return the fields of the preprocessing that the command line sets, other than height and width."""
    given = {name: getattr(options, name) for name in _FIELDS if getattr(options, name) is not None}
    given |= {name: tuple(given[name]) for name in ("mean", "std", "resize", "pad_colour") if name in given}
    if options.scale is not None and options.rescale_factor is not None:
        raise OptionError("--scale and --rescale-factor say the same thing: leave one out")
    if options.resize is not None and options.crop_pct is not None:
        raise OptionError("--resize and --crop-pct say the same thing: leave one out")
    if len(given.get("resize", ())) > 2:
        raise OptionError(f"--resize takes the shorter side, or height and width, got {len(given['resize'])} numbers")
    if options.rescale_factor is not None:
        given["scale"] = scale_of("--rescale-factor", options.rescale_factor)
    if options.crop_pct is not None:
        if not 0 < options.crop_pct < math.inf:
            raise OptionError(f"--crop-pct must be a positive number, got {options.crop_pct}")
        given["crop_pct"] = options.crop_pct
    return given


def given_size(numbers: list[int] | None) -> tuple[int, int] | None:
    """Return (height, width) as --size gave them."""
    if numbers is None:
        return None
    if len(numbers) > 2:
        raise OptionError(f"--size takes a height and, if it differs, a width, got {len(numbers)} numbers")
    return numbers[0], numbers[-1]


def put_together(given: dict[str, Any], size: tuple[int, int] | None, base: Preprocessing | None = None) -> Preprocessing:
    """Return `base` with the given fields, see `given_fields`, and the given (height, width) in place of its own.

    base: what --preprocessor or the model says; without one, `size` is needed
    Raises OptionError for fields that do not go together.
    """
    fields = {} if base is None else dict(vars(base))
    given = dict(given)
    if size is not None:
        changed = base is not None and size != (base.height, base.width) and base.resize is not None
        if changed and not {"resize", "crop_pct", "fit"} & set(given):
            raise OptionError(
                f"--size {size[0]} {size[1]} needs --resize or --crop-pct too, because the preprocessor resizes"
            )
        fields |= {"height": size[0], "width": size[1]}
    if "crop_pct" in given:
        if fields["height"] != fields["width"]:
            raise OptionError("--crop-pct is for a square --size only: use --resize")
        given["resize"] = (math.floor(fields["height"] / given.pop("crop_pct")),)
    if given.get("fit", "crop") != "crop":
        fields.pop("resize", None)
    if given.get("fit", "pad") != "pad":
        fields |= {"pad_colour": None, "pad_position": "centre"}
    if base is None and given.get("channels") == 1:
        fields |= {"mean": (0.0,), "std": (1.0,)}
    return Preprocessing(**{**fields, **given})
