"""What the commands that write a bundle do with their options."""

import argparse
import dataclasses
import sys
from pathlib import Path
from typing import Any

import numpy as np

from engine.attributes.table import CONFIDENCES, AttributeTable
from engine.bundle import load_bundle
from engine.bundle.manifest import Conditions
from engine.errors import OptionError
from engine.pictures.preprocessing import Preprocessing
from export.bundles import export_attributes, export_similarity
from export.calibration import calibrate
from export.checkpoints import ARCHITECTURES, PREPROCESSING, load_checkpoint
from export.inputs import load_conditions, load_names
from export.quantize import export_quantized
from export.sources import OnnxSource, Source, TorchSource, load_module
from export.trained import Trained, load_trained
from export.write import check_free


def run_handler(options: argparse.Namespace) -> str:
    """What was written, for people."""
    if options.command == "quantize":
        return _quantize(options)
    if options.command == "calibrate":
        return _calibrate(options)
    folder = _similarity(options) if options.command == "similarity" else _attributes(options)
    return f"wrote {folder}"


def _similarity(options: argparse.Namespace) -> Path:
    check_free(options.out)  # before a checkpoint is read
    source: Source
    if options.trained is not None:
        trained = _trained(options, "similarity")
        source, conditions, preprocessing = TorchSource(trained.network), trained.conditions, trained.preprocessing
        _refuse_strangers(options)
        if _size(options.size) is not None or _given(options):
            raise OptionError(f"{options.trained} says how its pictures are prepared: leave those options out")
    else:
        source, conditions = _source(options)
        preprocessing = _preprocessing(options, source)
    if options.conditions is not None:
        if conditions is not None:
            raise OptionError("--conditions cannot be given with a checkpoint that holds its own")
        conditions = load_conditions(options.conditions)
    return export_similarity(
        source,
        preprocessing,
        options.out,
        metric=options.metric,
        conditions=conditions,
        name=options.name,
        licence=options.licence,
        gradient=options.gradient,
    )


def _attributes(options: argparse.Namespace) -> Path:
    given = {k: getattr(options, k) for k in ("confidence", "threshold") if getattr(options, k) is not None}
    given["phi"] = tuple(options.phi)
    if options.trained is not None:
        trained = _trained(options, "attributes")
        _refuse_strangers(options)
        if trained.table is None or options.names is not None:
            raise OptionError(f"{options.trained} names its attributes itself: leave out --names")
        wanted = load_bundle(options.out).manifest.preprocessing
        if trained.preprocessing != wanted:
            raise OptionError(f"{options.trained} was trained on pictures prepared as {trained.preprocessing}, not {wanted}")
        return export_attributes(TorchSource(trained.network), dataclasses.replace(trained.table, **given), options.out)
    if options.names is None:
        raise OptionError("--names is needed: attribute names, one a line, in the order of the maps")
    names = load_names(options.names)
    source, _ = _source(options)
    table = AttributeTable(names, bias=np.zeros(len(names), np.float32), **{"confidence": CONFIDENCES[0], **given})
    return export_attributes(source, table, options.out)


def _trained(options: argparse.Namespace, kind: str) -> Trained:
    """What `training.<kind>` wrote."""
    trained = load_trained(options.trained)
    found = "similarity" if trained.table is None else "attributes"
    if found != kind:
        raise OptionError(f"{options.trained} is of {found}, give what `python -m training.{kind}` wrote")
    return trained


def _quantize(options: argparse.Namespace) -> str:
    done = export_quantized(options.bundle, options.images, options.targets)
    if done.unreadable:
        print(
            f"left out {len(done.unreadable)} files that are no pictures, {done.unreadable[0].name} first", file=sys.stderr
        )
    return "\n".join([*(f"{file}: {found}" for file, found in done.report.graphs.items()), f"wrote {options.bundle}"])


def _calibrate(options: argparse.Namespace) -> str:
    found = calibrate(options.bundle, options.images, options.labels, seed=options.seed, quiet=False)
    passes = [name for name, value in zip(found.table.names, found.prior.value, strict=True) if value > 0]
    pairs, grouped = found.record["explained_pairs"], found.record["pairing"] == "groups"
    search = found.search
    lines = [
        f"pairs: {'pictures that share a group' if grouped else 'each picture and the most similar one, no groups given'}",
        f"prior: significant for {len(passes)} of {len(found.table.names)} attributes{': ' * bool(passes)}"
        + ", ".join(passes),
        f"calibration error: {found.before.error:.4f} -> {found.after.error:.4f}",
        f"phi: {' '.join(f'{weight:g}' for weight in search.phi)}, drop {search.best} over {pairs} pairs, confidence alone "
        f"{search.confidence}; weights chosen on other pairs gain {search.held_out}",
        f"wrote {options.bundle}",
    ]
    unknown = list(found.record["unknown_attributes"])
    if unknown:
        lines.insert(0, f"left out what the bundle does not name ({len(unknown)}): {', '.join(unknown[:3])}")
    return "\n".join(lines)


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
    given, size = _given(options), _size(options.size)
    if options.checkpoint is not None:
        return _authors(options.arch, size, given)
    if size is None and isinstance(source, OnnxSource):
        size = source.size(given.get("layout", "nchw"))
    if size is None:
        what = "a PyTorch module" if options.module is not None else "this ONNX graph, which is not fixed to one"
        raise OptionError(f"--size is needed for {what}")
    return Preprocessing(*size, **given)


def _given(options: argparse.Namespace) -> dict[str, Any]:
    """Fields of the preprocessing that the command line sets."""
    names = ("fit", "mean", "std", "scale", "channel_order", "layout")
    given = {n: getattr(options, n) for n in names if getattr(options, n) is not None}
    return given | {n: tuple(given[n]) for n in ("mean", "std") if n in given}


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
