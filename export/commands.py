"""python -m export: the options of every subcommand."""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TypeAlias

from engine.attributes.table import CONFIDENCES
from engine.bundle.manifest import PRECISIONS
from engine.bundle.report import TARGETS
from engine.errors import OptionError
from engine.pictures.reading import add_reading_options, reading_of
from engine.runtime.gpu_options import LADDER
from engine.saliency.similarity import METRICS
from engine.terminal import CommandParser, run_command, say
from export.checks import check
from export.large_blocks import return_large_blocks
from export.model_options import add_embedding_options, add_source_options
from export.preprocessing_options import add_preprocessing_options
from export.timekeeper import TIME_LIMIT

_SIMILARITY_EXAMPLES = """examples:
  python -m export similarity --module mynet:build --weights best.pt --size 224 \\
      --mean 0.485 0.456 0.406 --std 0.229 0.224 0.225 --gradient --out bundle
  python -m export similarity --onnx resnet.onnx --output embedding --metric dot --out bundle
  python -m export similarity --hf openai/clip-vit-base-patch32 --out bundle
  python -m export similarity --timm resnet50 --weights resnet50.safetensors --out bundle
  python -m export similarity --checkpoint polyvore_model.pth.tar --arch sane-polyvore \\
      --typespaces nondisjoint/typespaces.p --out bundle
"""
_EXAMPLES = f"""{_SIMILARITY_EXAMPLES}\
  python -m export attributes bundle --labels labels.csv --images pictures
  python -m export attributes bundle --module mynet:attributes --names predicates.txt
  python -m export quantize bundle --images pictures
  python -m export calibrate bundle --images pictures --labels labels.csv
  python -m export tensorrt bundle
  python -m export triton bundle model_repository
  python -m export check bundle
  python -m export check bundle --against embeddings.npz --images pictures
"""
_ATTRIBUTE_EXAMPLES = """examples:
  python -m export attributes bundle --labels labels.csv --images pictures
  python -m export attributes bundle --vectors text_embeddings.npz
  python -m export attributes bundle --module mynet:attributes --names predicates.txt
"""

Subcommands: TypeAlias = "argparse._SubParsersAction[CommandParser]"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; return its exit status (see `engine.terminal`)."""
    return_large_blocks()
    return run_command(lambda: say(_run(_parser().parse_args(arguments))))


def _run(options: argparse.Namespace) -> str:
    """Run the subcommand, and say for people what it did. Raises an EngineError."""
    # imported when needed: PyTorch takes seconds to load, and much runs without it
    try:
        if options.command == "check":
            return check(options.bundle, options.against, options.images, reading_of(options))
        if options.command == "tensorrt":
            from export.tensorrt import build_engines  # noqa: PLC0415

            return build_engines(options)
        if options.command == "triton":
            from export.triton import write_repository  # noqa: PLC0415

            return write_repository(options.bundle, options.out)
        if _needs_no_torch(options):
            from export.attribute_handlers import calibrated, fitted_attributes  # noqa: PLC0415

            return calibrated(options) if options.command == "calibrate" else fitted_attributes(options)
        from export.handlers import run_handler  # noqa: PLC0415

        return run_handler(options)
    except ModuleNotFoundError as error:
        if error.name not in ("torch", "onnx", "onnx_ir", "onnxscript"):
            raise
        extra = "attributes" if _needs_no_torch(options) else "export"
        raise OptionError(f"{error.name} is not installed: pip install 'sane-engine[cpu,{extra}]'") from error


def _needs_no_torch(options: argparse.Namespace) -> bool:
    from_data = options.command == "attributes" and bool(options.labels or options.vectors)
    return from_data or options.command in ("calibrate", "triton")


def _parser() -> argparse.ArgumentParser:
    parser = CommandParser(
        prog="python -m export",
        description="Make a bundle from a trained model, add attributes or faster graphs to a bundle, or verify one.",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    commands = parser.add_subparsers(dest="command", required=True)
    for add in (_add_similarity, _add_attributes, _add_quantize, _add_calibrate, _add_tensorrt, _add_triton, _add_check):
        add(commands)
    return parser


def _add_similarity(commands: Subcommands) -> None:
    text = "Write a new bundle from a similarity model, whose output is one embedding per picture."
    parser = commands.add_parser(
        "similarity",
        help="write a new bundle from a similarity model",
        description=text,
        epilog=_SIMILARITY_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    source = add_source_options(parser)
    source.add_argument("--checkpoint", type=Path, metavar="FILE", help="a similarity checkpoint of the paper's authors")
    parser.add_argument("--arch", metavar="NAME", help="the network in --checkpoint: sane-polyvore or sane-awa")
    parser.add_argument(
        "--typespaces", type=Path, metavar="FILE", help="typespaces.p of Polyvore Outfits, which names the conditions"
    )
    add_embedding_options(parser, source)
    add_preprocessing_options(parser)
    parser.add_argument(
        "--metric", choices=METRICS, default="cosine", help="how embeddings are compared (default: %(default)s)"
    )
    parser.add_argument(
        "--conditions", type=Path, metavar="FILE", help=".npz with condition_weights (C, D) and condition_names (C,)"
    )
    parser.add_argument(
        "--siamese", action="store_true", help="the model of --module or --onnx takes two pictures and gives one score"
    )
    parser.add_argument("--gradient", action="store_true", help="add the graph that method mask needs")
    parser.add_argument(
        "--images", type=Path, metavar="DIR", help="with --gradient: verify it on pictures of yours, not on the demo's"
    )
    add_reading_options(parser)
    parser.add_argument("--name", help="the model's name (default: the name of the --out folder)")
    parser.add_argument("--licence", default="", help="the licence of the weights (default: not stated)")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="the new bundle; a bundle there is replaced")


def _add_attributes(commands: Subcommands) -> None:
    parser = commands.add_parser(
        "attributes",
        help="add attributes to an existing bundle: from labels, by vectors, or an attribute model",
        description="Add attributes to an existing bundle, in place of those it has. From labelled pictures: linear probes\n"
        "on the similarity network's own layers, without training or PyTorch. By vectors of the embedding's size, such as\n"
        "text embeddings of the same model. Or from an attribute model, whose output is one activation map per attribute.",
        epilog=_ATTRIBUTE_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("bundle", type=Path, help="the bundle's folder")
    source = add_source_options(parser)
    source.add_argument("--labels", type=Path, metavar="FILE", help="labelled pictures, a CSV as for `calibrate`")
    source.add_argument(
        "--vectors", type=Path, metavar="FILE", help=".npz with names (A,), vectors (A, D) and, if wanted, scale, bias (A,)"
    )
    parser.add_argument("--images", type=Path, metavar="DIR", help="folder of the pictures of --labels")
    add_reading_options(parser)
    parser.add_argument("--passes", action="store_true", help="with --labels, for a network whose layers cannot be tapped: "
        "look at every picture through 256 masks too, which takes as long as explaining it")  # fmt: skip
    parser.add_argument("--seed", type=int, metavar="S", help="with --labels: of the cross-validation (default: 0)")
    parser.add_argument("--names", type=Path, metavar="FILE", help="of a model: attribute names, one per line, in its order")
    parser.add_argument(
        "--confidence",
        choices=CONFIDENCES,
        help="how scores become confidences (default: softmax of a model, else sigmoid)",
    )
    parser.add_argument(
        "--threshold", type=float, help="lowest probability of an attribute that is named (default: 0 for a model, else .5)"
    )
    parser.add_argument(
        "--phi", type=float, nargs=3, default=(1.0, 1.0, 0.0), metavar=("A", "B", "C"), help="weights of confidence, "
        "match and prior in ranking sane (default: 1 1 0)"
    )  # fmt: skip


def _add_quantize(commands: Subcommands) -> None:
    parser = commands.add_parser(
        "quantize",
        help="add int8 and fp16 graphs to a bundle, with a report of how faithful they are",
        description="Add an int8 graph for CPUs (U8S8), and an fp16 and a symmetric int8 graph (S8S8) for GPUs, to a "
        "bundle; earlier ones are replaced. At most 80 pictures of the folder and its subfolders are read, spread evenly "
        "over the sorted names; files that are not pictures are left out, and one line says so. A quarter of the pictures "
        "is kept out of the calibration, and the report, precision.json, is measured on those. If int8 changes the maps too "
        "much, the costliest nodes are left in fp32. Int8 for CPUs is left out if it is not faster than fp32 here.",
        allow_abbrev=False,
    )
    parser.add_argument("bundle", type=Path, help="the bundle's folder")
    parser.add_argument(
        "--images",
        type=Path,
        required=True,
        metavar="DIR",
        help="folder of pictures like those that you will explain, in it or in its subfolders: at least 4, better 40",
    )
    add_reading_options(parser)
    parser.add_argument(
        "--targets", nargs="+", choices=TARGETS, default=TARGETS, help="processors to make graphs for (default: cpu gpu)"
    )
    parser.add_argument(
        "--time-limit",
        type=float,
        default=TIME_LIMIT,
        metavar="SECONDS",
        help="when to stop searching and take the best graphs so far (default: %(default)g)",
    )
    parser.add_argument("--quiet", action="store_true", help="show no progress on standard error")


def _add_calibrate(commands: Subcommands) -> None:
    parser = commands.add_parser(
        "calibrate",
        help="find prior, calibrated confidences and phi of a bundle's attributes on labelled pictures",
        description="Find which attributes raise the similarity (TCAV, tested against random concepts), turn confidences "
        "into probabilities (Platt scaling), and choose the weights of confidence, match and prior by attribute removal. "
        "This writes attributes.json and calibration.json into the bundle; the model stays the same. Pairs are compared "
        "without a condition. Use pictures that neither network was trained on.",
        epilog="FILE is a CSV with the columns image,group,attributes; commas, semicolons or tabs separate them. image: a "
        "file below DIR. group: any text; pictures of one group match each other (without this column each is paired "
        "with the one most similar to it). attributes: names separated by semicolons.",
        allow_abbrev=False,
    )
    parser.add_argument("bundle", type=Path, help="the bundle's folder")
    parser.add_argument("--images", type=Path, required=True, metavar="DIR", help="folder of the pictures")
    add_reading_options(parser)
    parser.add_argument("--labels", type=Path, required=True, metavar="FILE", help="what is true of each picture: see below")
    parser.add_argument("--seed", type=int, default=0, metavar="S", help="seed of all random choices (default: %(default)s)")


def _add_tensorrt(commands: Subcommands) -> None:
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


def _add_triton(commands: Subcommands) -> None:
    parser = commands.add_parser(
        "triton",
        help="write a model repository for NVIDIA's Triton Inference Server",
        description="Write the similarity and attribute graphs of a bundle, with their weights and a config.pbtxt each, as "
        "a model repository. Triton then serves embeddings and activation maps; explanations are made by the engine.",
        allow_abbrev=False,
    )
    parser.add_argument("bundle", type=Path, help="the bundle's folder")
    parser.add_argument("out", type=Path, metavar="DIR", help="the repository, a folder that is not there yet")


def _add_check(commands: Subcommands) -> None:
    text = "Verify the files of a bundle, run its graphs for CPUs against their recorded results, and say what is in it."
    parser = commands.add_parser(
        "check",
        help="verify a bundle and say what is in it; compare it with your own index",
        description=f"{text} With --against, compare it with an index that was made elsewhere with the same network: "
        "cosines and nearest neighbours of up to 200 pictures. If they differ, other ways to prepare pictures are tried on "
        "24 of them, one line names the one that explains the difference, and the exit status is 2.",
        allow_abbrev=False,
    )
    parser.add_argument("bundle", type=Path, help="the bundle's folder")
    parser.add_argument(
        "--against", type=Path, metavar="FILE", help=".npz with embeddings (n, D) and files (n,), names below --images; or "
        ".npy with the embeddings of all pictures of --images, sorted by folder and name"
    )  # fmt: skip
    parser.add_argument("--images", type=Path, metavar="DIR", help="folder of the index's pictures, with its subfolders")
    add_reading_options(parser)
