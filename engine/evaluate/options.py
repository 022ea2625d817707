"""What the two evaluate commands share: options, the check of the report's name, and the explainer."""

import argparse
from pathlib import Path

from engine.errors import OutputError
from engine.explainer import Explainer
from engine.runtime.providers import PROVIDERS
from engine.terminal import CommandParser


def evaluate_parser(prog: str, description: str, epilog: str) -> CommandParser:
    """Return a parser without options, which prints description and epilog with their line breaks."""
    return CommandParser(
        prog=prog,
        description=description,
        epilog=epilog,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )


def add_shared_options(parser: argparse.ArgumentParser, *, out: str, images: str, images_required: bool, masks: str) -> None:
    """Add the options that both commands have.

    out, images, masks: the help of these options, which differs; images_required: whether --images must be given
    """
    add = parser.add_argument
    add("--out", type=Path, required=True, metavar="FILE", help=out)
    add("--images", type=Path, required=images_required, metavar="DIR", help=images)
    add("--bundle", metavar="DIR", help="model made by `python -m export` (default: the embedded emoji demo)")
    add("--masks", type=int, metavar="N", help=masks)
    add("--seed", type=int, default=0, metavar="S", help="seed of everything that is drawn (default: %(default)s)")
    add("--provider", default="auto", metavar="P", help=f"auto, {', '.join(PROVIDERS)} (default: %(default)s)")
    add("--precision", default="auto", metavar="P", help="auto, fp32, fp16, bf16, int8 (default: %(default)s)")
    add("--quiet", action="store_true", help="show no progress bar on standard error")


def require_json_name(out: Path) -> None:
    """Raise OutputError unless the report's name ends in .json."""
    if out.suffix != ".json":
        raise OutputError(f"cannot write {out}: the report's name must end in .json")


def open_explainer(options: argparse.Namespace) -> Explainer:
    """Open the explainer that the shared options ask for. Raises BundleError, OptionError, ProviderError."""
    return Explainer(options.bundle, options.provider, options.precision)
