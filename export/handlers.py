"""The subcommands that write a bundle: from their options to the functions that do the work."""

import argparse
import dataclasses
from pathlib import Path
from typing import Any

import numpy as np

from engine.attributes.table import CONFIDENCES, AttributeTable
from engine.bundle import load_bundle
from engine.bundle.manifest import Conditions
from engine.errors import OptionError
from engine.pictures.preprocessing import Preprocessing
from engine.terminal import notice
from export.bundles import export_attributes, export_similarity
from export.calibration import calibrate
from export.checkpoints import ARCHITECTURES, AUTHORS_PREPROCESSING, load_checkpoint
from export.inputs import load_conditions, load_names
from export.quantize import export_quantized
from export.sources import OnnxSource, Source, TorchSource, load_module
from export.trained import Trained, load_trained
from export.write import check_free


def run_handler(options: argparse.Namespace) -> str:
    """Run the subcommand, and say for people what was written."""
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
        _refuse_options_of_other_sources(options)
        if _size(options.size) is not None or _given_preprocessing(options):
            raise OptionError(f"{options.trained} holds its own preprocessing: leave those options out")
    else:
        source, conditions = _source(options)
        preprocessing = _preprocessing(options, source)
    if options.conditions is not None:
        if conditions is not None:
            raise OptionError("--conditions cannot be given, because the model holds its own: leave it out")
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
        _refuse_options_of_other_sources(options)
        if trained.table is None or options.names is not None:
            raise OptionError(f"{options.trained} holds the names of its attributes: leave out --names")
        wanted = load_bundle(options.out).manifest.preprocessing
        if trained.preprocessing != wanted:
            raise OptionError(
                f"{options.trained} was trained on pictures prepared as {trained.preprocessing}, the bundle has {wanted}: "
                "train the attributes on pictures prepared as the bundle's are"
            )
        return export_attributes(TorchSource(trained.network), dataclasses.replace(trained.table, **given), options.out)
    if options.names is None:
        raise OptionError("--names is needed: a file of attribute names, one per line, in the order of the maps")
    names = load_names(options.names)
    source, _ = _source(options)
    table = AttributeTable(names, bias=np.zeros(len(names), np.float32), **{"confidence": CONFIDENCES[0], **given})
    return export_attributes(source, table, options.out)


def _trained(options: argparse.Namespace, kind: str) -> Trained:
    """Read the file that `training.<kind>` wrote."""
    trained = load_trained(options.trained)
    found = "similarity" if trained.table is None else "attributes"
    if found != kind:
        raise OptionError(
            f"{options.trained} holds a network for {found}, not for {kind}: give the file that "
            f"`python -m training.{kind}` wrote"
        )
    return trained


def _quantize(options: argparse.Namespace) -> str:
    done = export_quantized(options.bundle, options.images, options.targets)
    if done.unreadable:
        notice(f"left out files that are not pictures ({_some([path.name for path in done.unreadable])})")
    return "\n".join([*(f"{file}: {found}" for file, found in done.report.graphs.items()), f"wrote {options.bundle}"])


def _calibrate(options: argparse.Namespace) -> str:
    found = calibrate(options.bundle, options.images, options.labels, seed=options.seed, quiet=False)
    passes = [name for name, value in zip(found.table.names, found.prior.value, strict=True) if value > 0]
    pairs, grouped = found.record["explained_pairs"], found.record["pairing"] == "groups"
    search = found.search
    lines = [
        f"pairs: {'pictures of one group' if grouped else 'each picture and the one most similar to it (no groups given)'}",
        f"prior: significant for {len(passes)} of {len(found.table.names)} attributes"
        + (f": {', '.join(passes)}" if passes else ""),
        f"calibration error: {found.before.error:.4f} -> {found.after.error:.4f}",
        f"phi: {' '.join(f'{weight:g}' for weight in search.phi)}; drop in similarity over {pairs} pairs {search.best}, "
        f"with confidence alone {search.confidence}; gain of weights that other pairs chose {search.held_out}",
        f"wrote {options.bundle}",
    ]
    unknown = list(found.record["unknown_attributes"])
    if unknown:
        lines.insert(0, f"left out attributes that the bundle does not have ({_some(unknown)})")
    return "\n".join(lines)


def _some(names: list[str]) -> str:
    """Say how many names there are, and the first of them."""
    return f"{len(names)}: {', '.join(names[:3])}{', ...' if names[3:] else ''}"


def _source(options: argparse.Namespace) -> tuple[Source, Conditions | None]:
    """Return the model that the options name, and the conditions that it holds."""
    _refuse_options_of_other_sources(options)
    if options.module is not None:
        return TorchSource(load_module(options.module, options.weights)), None
    if options.onnx is not None:
        return OnnxSource(options.onnx, options.input, options.output), None
    if options.arch is None:
        raise OptionError(f"--checkpoint needs --arch {' or '.join(ARCHITECTURES)}")
    module, conditions = load_checkpoint(options.checkpoint, options.arch, options.typespaces)
    return TorchSource(module), conditions


def _refuse_options_of_other_sources(options: argparse.Namespace) -> None:
    """Raise OptionError for an option that belongs to another source than the given one."""
    belongs = {"weights": "module", "input": "onnx", "output": "onnx", "arch": "checkpoint", "typespaces": "checkpoint"}
    for name, owner in belongs.items():
        if getattr(options, name, None) is not None and getattr(options, owner, None) is None:
            raise OptionError(f"--{name} is used with --{owner} only: leave it out")


def _preprocessing(options: argparse.Namespace, source: Source) -> Preprocessing:
    given, size = _given_preprocessing(options), _size(options.size)
    if options.checkpoint is not None:
        return _authors_preprocessing(options.arch, size, given)
    if size is None and isinstance(source, OnnxSource):
        size = source.size(given.get("layout", "nchw"))
    if size is None:
        what = "a PyTorch module" if options.module is not None else "this ONNX graph, which takes pictures of any size"
        raise OptionError(f"--size is needed for {what}: give height and, if it differs, width")
    return Preprocessing(*size, **given)


def _given_preprocessing(options: argparse.Namespace) -> dict[str, Any]:
    """Return the fields of the preprocessing that the command line sets."""
    names = ("fit", "mean", "std", "scale", "channel_order", "layout")
    given = {n: getattr(options, n) for n in names if getattr(options, n) is not None}
    return given | {n: tuple(given[n]) for n in ("mean", "std") if n in given}


def _size(numbers: list[int] | None) -> tuple[int, int] | None:
    """Return (height, width) as --size gave them."""
    if numbers is None:
        return None
    if len(numbers) > 2:
        raise OptionError(f"--size takes a height and, if it differs, a width, got {len(numbers)} numbers")
    return numbers[0], numbers[-1]


def _authors_preprocessing(arch: str, size: tuple[int, int] | None, given: dict[str, object]) -> Preprocessing:
    wanted = (AUTHORS_PREPROCESSING.height, AUTHORS_PREPROCESSING.width)
    if size not in (None, wanted):
        raise OptionError(
            f"{arch} works at --size {wanted[0]} {wanted[1]} only, because of its last pool, got {size}: leave --size out"
        )
    if given.get("layout", "nchw") != "nchw":
        raise OptionError(f"{arch} takes layout nchw only, got --layout {given['layout']}: leave it out")
    return Preprocessing(**{**vars(AUTHORS_PREPROCESSING), **given})
