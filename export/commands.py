"""python -m export: the command line of the export."""

import argparse
from collections.abc import Sequence
from pathlib import Path

from engine.attributes.table import CONFIDENCES
from engine.bundle.manifest import PRECISIONS
from engine.bundle.report import TARGETS
from engine.errors import OptionError
from engine.pictures.preprocessing import CHANNEL_ORDERS, FITS, LAYOUTS
from engine.runtime.gpu_options import LADDER
from engine.saliency.similarity import METRICS
from engine.terminal import run_command, say
from export.checks import check

_EXAMPLES = """examples:
  python -m export similarity --module mynet:build --weights best.pt --size 224 \\
      --mean 0.485 0.456 0.406 --std 0.229 0.224 0.225 --gradient --out bundle
  python -m export similarity --onnx resnet.onnx --output embedding --metric dot --out bundle
  python -m export similarity --checkpoint polyvore_model.pth.tar --arch sane-polyvore \\
      --typespaces nondisjoint/typespaces.p --out bundle
  python -m export attributes --module mynet:attributes --names predicates.txt --out bundle
  python -m export attributes --trained runs/attributes/attributes.pt --out bundle
  python -m export quantize bundle --images pictures
  python -m export calibrate bundle --images pictures --labels labels.csv
  python -m export tensorrt bundle
  python -m export check bundle
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit status, see `engine.terminal`."""
    return run_command(lambda: say(_answer(_parser().parse_args(arguments))))


def _answer(options: argparse.Namespace) -> str:
    """What the command did, for people. Raises an EngineError."""
    # imported when needed: PyTorch takes seconds to load, and `check` and `tensorrt` do without it
    try:
        if options.command == "check":
            return check(options.bundle)
        if options.command == "tensorrt":
            from export.tensorrt import build_engines  # noqa: PLC0415

            return build_engines(options)
        from export.handlers import run_handler  # noqa: PLC0415

        return run_handler(options)
    except ModuleNotFoundError as error:
        if error.name not in ("torch", "onnx", "onnxscript"):
            raise
        raise OptionError(f"{error.name} is not installed; pip install 'sane-engine[cpu,export]'") from error


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m export",
        description="Make a bundle from a trained model, add attributes or faster graphs to it, or verify it.",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    commands = parser.add_subparsers(dest="command", required=True)
    for add in (_add_similarity, _add_attributes, _add_quantize, _add_calibrate, _add_tensorrt, _add_check):
        add(commands)
    return parser


def _add_similarity(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    parser = commands.add_parser("similarity", help="a similarity model to a new bundle", allow_abbrev=False)
    source = _add_sources(parser)
    source.add_argument("--checkpoint", type=Path, help="a similarity checkpoint of the paper's authors")
    parser.add_argument("--arch", metavar="NAME", help="the network in --checkpoint: sane-polyvore or sane-awa")
    parser.add_argument("--typespaces", type=Path, help="typespaces.p of Polyvore Outfits: names for the conditions")
    _add_preprocessing(parser)
    parser.add_argument("--metric", choices=METRICS, default="cosine", help="what compares embeddings (cosine)")
    parser.add_argument("--conditions", type=Path, help=".npz with condition_weights (C, D) and condition_names (C,)")
    parser.add_argument("--gradient", action="store_true", help="add the graph that method mask needs")
    parser.add_argument("--name", help="what the model is called (the name of --out)")
    parser.add_argument("--licence", default="", help="what the weights may be used for")
    parser.add_argument("--out", type=Path, required=True, help="the bundle's folder; a bundle there is replaced")


def _add_attributes(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    parser = commands.add_parser("attributes", help="an attribute model into an existing bundle", allow_abbrev=False)
    _add_sources(parser)
    parser.add_argument("--names", type=Path, help="attribute names, one a line, in the maps' order")
    parser.add_argument("--confidence", choices=CONFIDENCES, help="over the scores (softmax)")
    parser.add_argument("--threshold", type=float, help="least confidence of a named attribute (0)")
    parser.add_argument(
        "--phi", type=float, nargs=3, default=(1.0, 1.0, 0.0), metavar=("A", "B", "C"), help="weights of confidence, "
        "match and prior (1 1 0)"
    )  # fmt: skip
    parser.add_argument("--out", type=Path, required=True, help="the bundle, which must exist")


def _add_quantize(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    parser = commands.add_parser(
        "quantize",
        help="int8 and fp16 graphs into an existing bundle, with a report of how faithful they are",
        description="Adds int8 for CPUs (U8S8), and for GPUs fp16 and symmetric int8 (S8S8), in place of earlier ones. "
        "Of the folder's files at most 48 are read, evenly over the names; those that are no pictures are left out, and one "
        "line says so. A quarter of the pictures is not calibrated on: the report, precision.json, is over those.",
        allow_abbrev=False,
    )
    parser.add_argument("bundle", type=Path, help="the bundle's folder")
    parser.add_argument(
        "--images",
        type=Path,
        required=True,
        metavar="DIR",
        help="pictures like those to be explained: at least 4, better 40",
    )
    parser.add_argument("--targets", nargs="+", choices=TARGETS, default=TARGETS, help="what to make graphs for (cpu gpu)")


def _add_calibrate(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    parser = commands.add_parser(
        "calibrate",
        help="prior, calibrated confidences and phi for a bundle's attributes, from labelled pictures",
        description="Finds which attributes the similarity grows towards (TCAV, tested against random concepts), makes "
        "confidences probabilities (Platt scaling) and weighs confidence, match and prior by attribute removal. Writes "
        "attributes.json and calibration.json; the model stays the same. Pairs are compared under no condition. "
        "Give pictures that neither network was trained on.",
        epilog="FILE is a CSV with columns image,group,attributes: a file below DIR; any text, equal for pictures that "
        "match (without this column each picture is paired with the one most similar to it); names with ; between them.",
        allow_abbrev=False,
    )
    parser.add_argument("bundle", type=Path, help="the bundle's folder")
    parser.add_argument("--images", type=Path, required=True, metavar="DIR", help="where the pictures are")
    parser.add_argument("--labels", type=Path, required=True, metavar="FILE", help="a CSV, see below")
    parser.add_argument("--seed", type=int, default=0, metavar="S", help="of everything that is drawn (0)")


def _add_tensorrt(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    parser = commands.add_parser(
        "tensorrt",
        help="build TensorRT's engines for a bundle ahead, on a machine with the GPU that will run it",
        description="Builds what the engine would build when it first loads the bundle with provider tensorrt: an engine "
        "for whole pictures, one for masked ones, one for attributes. Each is named by what it depends on and appears whole "
        "or not at all; one that is there already stays.",
        allow_abbrev=False,
    )
    parser.add_argument("bundle", type=Path, help="the bundle's folder")
    parser.add_argument("--out", type=Path, metavar="DIR", help="where (in the engine's cache, where it looks for them)")
    parser.add_argument("--precision", choices=("auto", *PRECISIONS), default="auto", help="of the similarity (auto)")
    parser.add_argument(
        "--batches", type=int, nargs="+", default=LADDER, metavar="N", help="masked pictures in one run: the first of these "
        f"that fits the device's memory ({' '.join(map(str, LADDER))})"
    )  # fmt: skip
    parser.add_argument("--list", action="store_true", help="only say what would be built; needs no GPU")


def _add_check(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    parser = commands.add_parser("check", help="verify a bundle and say what is in it", allow_abbrev=False)
    parser.add_argument("bundle", type=Path, help="the bundle's folder")


def _add_sources(parser: argparse.ArgumentParser) -> "argparse._MutuallyExclusiveGroup":
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--module", metavar="PACKAGE:FACTORY", help="a callable that gives the PyTorch module")
    source.add_argument("--onnx", type=Path, help="an ONNX file")
    source.add_argument("--trained", type=Path, metavar="FILE", help="what training.similarity or .attributes wrote")
    parser.add_argument("--weights", type=Path, help="a state dict for --module")
    parser.add_argument("--input", help="the graph's input, where --onnx has more than one")
    parser.add_argument("--output", help="the graph's output, where --onnx has more than one")
    return source


def _add_preprocessing(parser: argparse.ArgumentParser) -> None:
    abc = ("A", "B", "C")
    parser.add_argument("--size", type=int, nargs="+", metavar="PIXELS", help="height and, where it differs, width")
    parser.add_argument("--fit", choices=FITS, help="how a picture comes to that size (crop)")
    parser.add_argument("--mean", type=float, nargs=3, metavar=abc, help="per channel, in the network's order (0 0 0)")
    parser.add_argument("--std", type=float, nargs=3, metavar=abc, help="per channel, in the network's order (1 1 1)")
    parser.add_argument("--scale", type=float, help="what pixels 0..255 are divided by first (255)")
    parser.add_argument("--channel-order", choices=CHANNEL_ORDERS, help="of the network's input (rgb)")
    parser.add_argument("--layout", choices=LAYOUTS, help="of the network's input (nchw)")
