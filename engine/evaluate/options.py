"""What the evaluate commands share: options, the check of the report's name, the methods and the explainer."""

import argparse
import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from engine.bundle import demo_bundle
from engine.errors import OptionError, OutputError
from engine.explainer import Explainer
from engine.methods import COUNTED_BY, Method, method_named
from engine.pictures.reading import add_reading_options, reading_of
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


def add_shared_options(
    parser: argparse.ArgumentParser,
    *,
    out: str,
    images: str,
    images_required: bool,
    masks: str,
    default_out: Path | None = None,
) -> None:
    """Add the options that all commands have.

    out, images, masks: the help of these options, which differs; images_required: whether --images must be given
    default_out: where the report goes without --out; None: it must be given
    """
    add = parser.add_argument
    add("--out", type=Path, required=default_out is None, default=default_out, metavar="FILE", help=out)
    add("--images", type=Path, required=images_required, metavar="DIR", help=images)
    add("--bundle", metavar="DIR", help="model made by `python -m export` (default: the embedded emoji demo)")
    add("--masks", type=int, metavar="N", help=masks)
    add("--seed", type=int, default=0, metavar="S", help="seed of everything that is drawn (default: %(default)s)")
    add_reading_options(parser)
    add("--quiet", action="store_true", help="show no progress bar on standard error")


def add_provider_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of what runs the networks, see `open_explainer`."""
    add = parser.add_argument
    add("--provider", default="auto", metavar="P", help=f"auto, {', '.join(PROVIDERS)} (default: %(default)s)")
    add("--precision", default="auto", metavar="P", help="auto, fp32, fp16, bf16, int8 (default: %(default)s)")


def names_of(known: Sequence[str]) -> Callable[[str], tuple[str, ...]]:
    """Return a function that reads known names, separated by commas."""

    def read(text: str) -> tuple[str, ...]:
        names = tuple(dict.fromkeys(name.strip() for name in text.split(",")))
        unknown = [name for name in names if name not in known]
        if unknown:
            raise argparse.ArgumentTypeError(f"{unknown[0]!r} is not one of {', '.join(known)}")
        return names

    return read


def counted_method(name: str, seed: int, masks: int | None) -> Method:
    """Return the options of a method. masks: passes of rise and lime, steps of mask; None: its own. Raises OptionError."""
    chosen = method_named(name)
    if type(chosen) not in COUNTED_BY:
        return chosen
    changes: dict[str, Any] = {"seed": seed} if masks is None else {"seed": seed, COUNTED_BY[type(chosen)]: masks}
    return dataclasses.replace(chosen, **changes)


def require_graphs(explainer: Explainer, names: Sequence[str]) -> None:
    """Raise OptionError if the bundle lacks the graphs of one of the methods."""
    wanted = {"mask": "was exported with --gradient", "tokens": "has graphs of tokens in this precision"}
    for name, what in wanted.items():
        if name in names and name not in explainer.methods:
            others = ",".join(n for n in names if n != name) or "rise"
            raise OptionError(
                f"method {name} needs a bundle that {what}, and this one is without; name other methods: --methods {others}"
            )


def require_json_name(out: Path) -> None:
    """Raise OutputError unless the report's name ends in .json."""
    if out.suffix != ".json":
        raise OutputError(f"cannot write {out}: the report's name must end in .json")


def reads_of(options: argparse.Namespace, table: Path) -> list[Path]:
    """Return what both commands read besides pictures. table: the pairs or labels"""
    return [table, Path(options.bundle or demo_bundle())]


def open_explainer(options: argparse.Namespace) -> Explainer:
    """Open the explainer that the shared options ask for. Raises BundleError, OptionError, ProviderError."""
    return Explainer(
        options.bundle,
        options.provider,
        options.precision,
        **vars(reading_of(options)),
    )
