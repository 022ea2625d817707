"""What the commands that write a bundle do with their options."""

import argparse
import sys
from pathlib import Path

import numpy as np

from engine.attributes import AttributeTable
from engine.errors import OptionError
from engine.manifest import Conditions
from engine.preprocessing import Preprocessing
from export.bundles import export_attributes, export_similarity
from export.checkpoints import ARCHITECTURES, PREPROCESSING, load_checkpoint
from export.inputs import load_conditions, load_names
from export.quantize import export_quantized
from export.sources import OnnxSource, Source, TorchSource, load_module
from export.write import check_free


def run(options: argparse.Namespace) -> str:
    """What was written, for people."""
    if options.command == "quantize":
        return _quantize(options)
    folder = _similarity(options) if options.command == "similarity" else _attributes(options)
    return f"wrote {folder}"


def _similarity(options: argparse.Namespace) -> Path:
    check_free(options.out)  # before a checkpoint is read
    source, conditions = _source(options)
    if options.conditions is not None:
        if conditions is not None:
            raise OptionError(f"--conditions cannot be given with {options.arch}, whose checkpoint holds its own")
        conditions = load_conditions(options.conditions)
    return export_similarity(
        source,
        _preprocessing(options, source),
        options.out,
        metric=options.metric,
        conditions=conditions,
        name=options.name,
        licence=options.licence,
        gradient=options.gradient,
    )


def _attributes(options: argparse.Namespace) -> Path:
    names = load_names(options.names)
    bias = np.zeros(len(names), np.float32)
    table = AttributeTable(names, options.confidence, bias, options.threshold, tuple(options.phi))
    source, _ = _source(options)
    return export_attributes(source, table, options.out)


def _quantize(options: argparse.Namespace) -> str:
    done = export_quantized(options.bundle, options.images, options.targets)
    if done.unreadable:
        print(
            f"left out {len(done.unreadable)} files that are no pictures, {done.unreadable[0].name} first", file=sys.stderr
        )
    return "\n".join([*(f"{file}: {found}" for file, found in done.report.graphs.items()), f"wrote {options.bundle}"])


def _source(options: argparse.Namespace) -> tuple[Source, Conditions | None]:
    _refuse_strangers(options)
    if options.module is not None:
        return TorchSource(load_module(options.module, options.weights)), None
    if options.onnx is not None:
        return OnnxSource(options.onnx, options.input, options.output), None
    if options.arch is None:
        raise OptionError(f"--checkpoint needs --arch {' or '.join(ARCHITECTURES)}")
    module, conditions = load_checkpoint(options.checkpoint, options.arch, options.typespaces)
    return TorchSource(module), conditions


def _refuse_strangers(options: argparse.Namespace) -> None:
    """Options that belong to another source than the one that was given."""
    belongs = {"weights": "module", "input": "onnx", "output": "onnx", "arch": "checkpoint", "typespaces": "checkpoint"}
    for name, owner in belongs.items():
        if getattr(options, name, None) is not None and getattr(options, owner, None) is None:
            raise OptionError(f"--{name} goes with --{owner}")


def _preprocessing(options: argparse.Namespace, source: Source) -> Preprocessing:
    names = ("fit", "mean", "std", "scale", "channel_order", "layout")
    given = {n: getattr(options, n) for n in names if getattr(options, n) is not None}
    given |= {n: tuple(given[n]) for n in ("mean", "std") if n in given}
    size = _size(options.size)
    if options.checkpoint is not None:
        return _authors(options.arch, size, given)
    if size is None and isinstance(source, OnnxSource):
        size = source.size(given.get("layout", "nchw"))
    if size is None:
        what = "a PyTorch module" if options.module is not None else "this ONNX graph, which is not fixed to one"
        raise OptionError(f"--size is needed for {what}")
    return Preprocessing(*size, **given)


def _size(numbers: list[int] | None) -> tuple[int, int] | None:
    """(height, width) as --size gave them."""
    if numbers is None:
        return None
    if len(numbers) > 2:
        raise OptionError(f"--size takes a height and, where it differs, a width, got {len(numbers)} numbers")
    return numbers[0], numbers[-1]


def _authors(arch: str, size: tuple[int, int] | None, given: dict[str, object]) -> Preprocessing:
    wanted = (PREPROCESSING.height, PREPROCESSING.width)
    if size not in (None, wanted):
        raise OptionError(
            f"{arch} works at --size {wanted[0]} {wanted[1]} alone: its last pool is made for that, got {size}"
        )
    if given.get("layout", "nchw") != "nchw":
        raise OptionError(f"{arch} takes nchw, got --layout {given['layout']}")
    return Preprocessing(**{**vars(PREPROCESSING), **given})
