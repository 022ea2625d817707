"""python -m export: the options of every subcommand."""

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
    """Run the command; return its exit status (see `engine.terminal`)."""
    return run_command(lambda: say(_run(_parser().parse_args(arguments))))


def _run(options: argparse.Namespace) -> str:
    """Run the subcommand, and say for people what it did. Raises an EngineError."""
    # imported when needed: PyTorch takes seconds to load, and `check` and `tensorrt` run without it
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
        raise OptionError(f"{error.name} is not installed: pip install 'sane-engine[cpu,export]'") from error


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m export",
        description="Make a bundle from a trained model, add attributes or faster graphs to a bundle, or verify one.",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    commands = parser.add_subparsers(dest="command", required=True)
    for add in (_add_similarity, _add_attributes, _add_quantize, _add_calibrate, _add_tensorrt, _add_check):
        add(commands)
    return parser


def _add_similarity(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    text = "Write a new bundle from a similarity model, whose output is one embedding per picture."
    parser = commands.add_parser(
        "similarity", help="write a new bundle from a similarity model", description=text, allow_abbrev=False
    )
    source = _add_sources(parser)
    source.add_argument("--checkpoint", type=Path, metavar="FILE", help="a similarity checkpoint of the paper's authors")
    parser.add_argument("--arch", metavar="NAME", help="the network in --checkpoint: sane-polyvore or sane-awa")
    parser.add_argument(
        "--typespaces", type=Path, metavar="FILE", help="typespaces.p of Polyvore Outfits, which names the conditions"
    )
    _add_preprocessing(parser)
    parser.add_argument(
        "--metric", choices=METRICS, default="cosine", help="how embeddings are compared (default: %(default)s)"
    )
    parser.add_argument(
        "--conditions", type=Path, metavar="FILE", help=".npz with condition_weights (C, D) and condition_names (C,)"
    )
    parser.add_argument("--gradient", action="store_true", help="add the graph that method mask needs")
    parser.add_argument("--name", help="the model's name (default: the name of the --out folder)")
    parser.add_argument("--licence", default="", help="the licence of the weights (default: not stated)")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="the new bundle; a bundle there is replaced")


def _add_attributes(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    text = "Add an attribute model, whose output is one activation map per attribute, to an existing bundle."
    parser = commands.add_parser(
        "attributes", help="add an attribute model to an existing bundle", description=text, allow_abbrev=False
    )
    _add_sources(parser)
    parser.add_argument("--names", type=Path, metavar="FILE", help="attribute names, one per line, in the order of the maps")
    parser.add_argument("--confidence", choices=CONFIDENCES, help="how scores become confidences (default: softmax)")
    parser.add_argument("--threshold", type=float, help="lowest confidence of an attribute that is named (default: 0)")
    parser.add_argument(
        "--phi", type=float, nargs=3, default=(1.0, 1.0, 0.0), metavar=("A", "B", "C"), help="weights of confidence, "
        "match and prior in the ranking (default: 1 1 0)"
    )  # fmt: skip
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="the bundle, which must exist")


def _add_quantize(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    parser = commands.add_parser(
        "quantize",
        help="add int8 and fp16 graphs to a bundle, with a report of how faithful they are",
        description="Add an int8 graph for CPUs (U8S8), and an fp16 and a symmetric int8 graph (S8S8) for GPUs, to a "
        "bundle; earlier ones are replaced. At most 48 files of the folder are read, spread evenly over the sorted names; "
        "files that are not pictures are left out, and one line says so. A quarter of the pictures is kept out of the "
        "calibration, and the report, precision.json, is measured on those.",
        allow_abbrev=False,
    )
    parser.add_argument("bundle", type=Path, help="the bundle's folder")
    parser.add_argument(
        "--images",
        type=Path,
        required=True,
        metavar="DIR",
        help="folder of pictures like those that you will explain: at least 4, better 40",
    )
    parser.add_argument(
        "--targets", nargs="+", choices=TARGETS, default=TARGETS, help="processors to make graphs for (default: cpu gpu)"
    )


def _add_calibrate(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    parser = commands.add_parser(
        "calibrate",
        help="find prior, calibrated confidences and phi of a bundle's attributes on labelled pictures",
        description="Find which attributes raise the similarity (TCAV, tested against random concepts), turn confidences "
        "into probabilities (Platt scaling), and choose the weights of confidence, match and prior by attribute removal. "
        "This writes attributes.json and calibration.json into the bundle; the model stays the same. Pairs are compared "
        "without a condition. Use pictures that neither network was trained on.",
        epilog="FILE is a CSV with the columns image,group,attributes. image: a file below DIR. group: any text; pictures "
        "of one group match each other (without this column each picture is paired with the one most similar to it). "
        "attributes: names separated by semicolons.",
        allow_abbrev=False,
    )
    parser.add_argument("bundle", type=Path, help="the bundle's folder")
    parser.add_argument("--images", type=Path, required=True, metavar="DIR", help="folder of the pictures")
    parser.add_argument("--labels", type=Path, required=True, metavar="FILE", help="what is true of each picture: see below")
    parser.add_argument("--seed", type=int, default=0, metavar="S", help="seed of all random choices (default: %(default)s)")


def _add_tensorrt(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    parser = commands.add_parser(
        "tensorrt",
        help="build TensorRT engines for a bundle in advance, on a machine with the GPU that will run it",
        description="Build the TensorRT engines that would otherwise be built when the bundle is first loaded with provider "
        "tensorrt: one for whole pictures, one for masked pictures, one for attributes. The folder of each is named by what "
        "the engine depends on, and appears complete or not at all; an engine that is already there is kept.",
        allow_abbrev=False,
    )
    parser.add_argument("bundle", type=Path, help="the bundle's folder")
    parser.add_argument(
        "--out", type=Path, metavar="DIR", help="where the engines go (default: the cache folder that the package reads)"
    )
    parser.add_argument(
        "--precision",
        choices=("auto", *PRECISIONS),
        default="auto",
        help="precision of the similarity graph (default: %(default)s)",
    )
    parser.add_argument(
        "--batches", type=int, nargs="+", default=LADDER, metavar="N", help="masked pictures per run: the first of these "
        f"numbers that fits the GPU's memory is used (default: {' '.join(map(str, LADDER))})"
    )  # fmt: skip
    parser.add_argument("--list", action="store_true", help="only list what would be built; needs no GPU")


def _add_check(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    text = "Verify the files of a bundle, run its graphs for CPUs against their recorded results, and say what is in it."
    parser = commands.add_parser("check", help="verify a bundle and say what is in it", description=text, allow_abbrev=False)
    parser.add_argument("bundle", type=Path, help="the bundle's folder")


def _add_sources(parser: argparse.ArgumentParser) -> "argparse._MutuallyExclusiveGroup":
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--module", metavar="PACKAGE:FACTORY", help="a function that returns the PyTorch module")
    source.add_argument("--onnx", type=Path, metavar="FILE", help="an ONNX file")
    source.add_argument(
        "--trained", type=Path, metavar="FILE", help="a file that training.similarity or training.attributes wrote"
    )
    parser.add_argument("--weights", type=Path, metavar="FILE", help="a state dict for --module")
    parser.add_argument("--input", metavar="NAME", help="the graph's input, if the --onnx file has more than one")
    parser.add_argument("--output", metavar="NAME", help="the graph's output, if the --onnx file has more than one")
    return source


def _add_preprocessing(parser: argparse.ArgumentParser) -> None:
    abc = ("A", "B", "C")
    parser.add_argument("--size", type=int, nargs="+", metavar="PIXELS", help="height and, if it differs, width")
    parser.add_argument("--fit", choices=FITS, help="how a picture is brought to that size (default: crop)")
    parser.add_argument(
        "--mean", type=float, nargs=3, metavar=abc, help="mean per channel, in the network's order (default: 0 0 0)"
    )
    parser.add_argument(
        "--std", type=float, nargs=3, metavar=abc, help="deviation per channel, in the network's order (default: 1 1 1)"
    )
    parser.add_argument("--scale", type=float, help="pixels 0..255 are first divided by this number (default: 255)")
    parser.add_argument("--channel-order", choices=CHANNEL_ORDERS, help="channels of the network's input (default: rgb)")
    parser.add_argument("--layout", choices=LAYOUTS, help="layout of the network's input (default: nchw)")
