"""How files of pictures are read: the limit on pixels and the colour profiles, in Python and as options of a command."""

import argparse
import dataclasses

from engine.protocol import require_whole

MAX_PIXELS = 50_000_000
"""Pixels of the largest picture that is read."""
MOST_PIXELS = 2**40
"""The largest limit that can be set."""


@dataclasses.dataclass(frozen=True)
class Reading:
    """How pictures are read.

    max_pixels: of the largest picture, judged before its pixels are decoded (`engine.pictures.limits`)
    apply_profiles: whether colours are converted to sRGB by the profile that comes with a picture; False: the numbers are
        taken as they are, as the pipelines of transformers, timm and torchvision do

    Raises OptionError.
    """

    max_pixels: int = MAX_PIXELS
    apply_profiles: bool = False

    def __post_init__(self) -> None:
        require_whole("max_pixels", self.max_pixels, 1, MOST_PIXELS)


AS_USUAL = Reading()
"""The default of every function and command that reads pictures."""


def reading_of(options: argparse.Namespace) -> Reading:
    """Return what the options of `add_reading_options` say. Raises OptionError."""
    return Reading(options.max_pixels, options.apply_profiles)


def add_reading_options(parser: argparse.ArgumentParser) -> None:
    """Add the options that every command which reads pictures has."""
    add_pixel_limit(parser)
    parser.add_argument(
        "--apply-profiles", action="store_true", help="convert colours to sRGB by the profiles of the pictures"
    )


def add_pixel_limit(parser: argparse.ArgumentParser) -> None:
    """Add the limit alone, for commands whose index says whether colours are converted."""
    parser.add_argument(
        "--max-pixels",
        type=int,
        default=MAX_PIXELS,
        metavar="N",
        help="refuse larger pictures before they are decoded (default: %(default)s)",
    )
