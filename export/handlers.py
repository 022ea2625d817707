"""The subcommands that write a bundle: from their options to the functions that do the work."""

import argparse
import dataclasses
from pathlib import Path

import numpy as np

from engine.attributes.table import CONFIDENCES, AttributeTable
from engine.bundle import load_bundle
from engine.errors import OptionError
from engine.pictures.folders import pictures_below
from engine.pictures.loading import load_picture
from engine.pictures.preprocessing import Preprocessing
from engine.pictures.reading import reading_of
from engine.terminal import notice
from export.attribute_handlers import counted
from export.bundles import export_attributes, export_similarity
from export.checkpoints import ARCHITECTURES, AUTHORS_PREPROCESSING, load_checkpoint
from export.inputs import load_conditions, load_names
from export.model_options import POOLS
from export.pairs import export_pair
from export.preprocessing_options import given_fields, given_size, put_together
from export.preprocessor import read_preprocessor
from export.quantize import export_quantized
from export.sources import ChosenModel, OnnxSource, TorchSource, hf_model, load_module, timm_model
from export.trained import Trained, load_trained
from export.write import check_free

MOST_GRADIENT_PICTURES = 8


def run_handler(options: argparse.Namespace) -> str:
    """Run the subcommand, and say for people what was written."""
    if options.command == "quantize":
        return _quantize(options)
    return _similarity(options) if options.command == "similarity" else f"wrote {_attributes(options)}"


def _similarity(options: argparse.Namespace) -> str:
    check_free(options.out)  # before a checkpoint is read
    if options.siamese:
        return _siamese(options)
    if options.trained is not None:
        trained = _trained(options, "similarity")
        model, preprocessing = ChosenModel(TorchSource(trained.network), trained.conditions), trained.preprocessing
        _refuse_options_of_other_sources(options)
        if given_size(options.size) is not None or given_fields(options) or options.preprocessor is not None:
            raise OptionError(f"{options.trained} holds its own preprocessing: leave those options out")
    else:
        model = _source(options)
        preprocessing = _preprocessing(options, model)
    conditions = model.conditions
    if options.conditions is not None:
        if conditions is not None:
            raise OptionError("--conditions cannot be given, because the model holds its own: leave it out")
        conditions = load_conditions(options.conditions)
    out = export_similarity(
        model.source,
        preprocessing,
        options.out,
        metric=options.metric,
        conditions=conditions,
        name=options.name,
        licence=options.licence,
        gradient=options.gradient,
        pictures=_gradient_pictures(options, preprocessing),
        origin=model.origin,
    )
    return f"{model.note}\nwrote {out}".lstrip()


def _gradient_pictures(options: argparse.Namespace, preprocessing: Preprocessing) -> np.ndarray | None:
    """The pictures of --images to verify the gradient on, (n, H, W, 3) uint8; None: the demo's."""
    if options.images is None:
        return None
    if not options.gradient:
        raise OptionError("--images is used with --gradient only: leave it out")
    files = pictures_below(options.images)[:MOST_GRADIENT_PICTURES]
    if len(files) < 2:
        raise OptionError(f"{options.images} holds {len(files)} pictures; at least 2 are needed to verify the gradient on")
    return np.stack([preprocessing.fitted(load_picture(file, reading_of(options)))[0] for file in files])


def _siamese(options: argparse.Namespace) -> str:
    """Export a model that takes two pictures and gives a score."""
    if options.module is None and options.onnx is None:
        raise OptionError("--siamese is used with --module or --onnx only")
    if options.gradient or options.conditions is not None or options.output is not None:
        raise OptionError("a two-input model has no embedding: leave --gradient, --conditions and --output out")
    _refuse_options_of_other_sources(options)
    base, size = None if options.preprocessor is None else read_preprocessor(options.preprocessor), given_size(options.size)
    if base is None and size is None:
        raise OptionError(
            "--size is needed for a two-input model: height and, if it differs, width, or --preprocessor FILE.json"
        )
    preprocessing = put_together(given_fields(options), size, base)
    source = options.onnx if options.module is None else load_module(options.module, options.weights)
    return export_pair(source, preprocessing, options.out, name=options.name or "", licence=options.licence)


def _attributes(options: argparse.Namespace) -> Path:
    for name in ("images", "seed", "passes"):
        if getattr(options, name):
            raise OptionError(f"--{name} is used with --labels only: leave it out")
    given = {k: getattr(options, k) for k in ("confidence", "threshold") if getattr(options, k) is not None}
    given["phi"] = tuple(options.phi)
    if options.trained is not None:
        trained = _trained(options, "attributes")
        _refuse_options_of_other_sources(options)
        if trained.table is None or options.names is not None:
            raise OptionError(f"{options.trained} holds the names of its attributes: leave out --names")
        wanted = load_bundle(options.bundle).manifest.preprocessing
        if trained.preprocessing != wanted:
            raise OptionError(
                f"{options.trained} was trained on pictures prepared as {trained.preprocessing}, the bundle has {wanted}: "
                "train the attributes on pictures prepared as the bundle's are"
            )
        return export_attributes(TorchSource(trained.network), dataclasses.replace(trained.table, **given), options.bundle)
    if options.names is None:
        raise OptionError("--names is needed: a file of attribute names, one per line, in the order of the maps")
    names = load_names(options.names)
    source = _source(options).source
    table = AttributeTable(names, bias=np.zeros(len(names), np.float32), **{"confidence": CONFIDENCES[0], **given})
    return export_attributes(source, table, options.bundle)


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
    done = export_quantized(
        options.bundle,
        options.images,
        options.targets,
        time_limit=options.time_limit,
        quiet=options.quiet,
        reading=reading_of(options),
    )
    if done.unreadable:
        notice(f"left out files that are not pictures ({counted([path.name for path in done.unreadable])})")
    graphs = {} if done.report is None else done.report.graphs
    found = dict(graphs)
    if done.report is not None and done.report.bf16 is not None:
        found["bf16 on OpenVINO"] = done.report.bf16
    lines = []
    for what, one in found.items():
        lines += [f"{what}: {one}", *(f"  {other}" for other in one.other_maps)]
    lines += [f"{file}: {remark}" for file, remark in done.remarks.items()]
    return "\n".join([*lines, f"wrote {options.bundle}" if graphs else f"{options.bundle} stays as it was"])


def _source(options: argparse.Namespace) -> ChosenModel:
    """Return the model that the options name."""
    _refuse_options_of_other_sources(options)
    pool, sure = getattr(options, "pool", None) or POOLS[0], bool(getattr(options, "yes_embedding", None))
    if options.module is not None:
        return ChosenModel(TorchSource(load_module(options.module, options.weights), pool, sure, own=True))
    if options.onnx is not None:
        return ChosenModel(OnnxSource(options.onnx, options.input, options.output, pool, sure))
    if options.hf is not None:
        return hf_model(options.hf, options.pool)
    if options.timm is not None:
        return timm_model(options.timm, options.weights)
    if options.arch is None:
        raise OptionError(f"--checkpoint needs --arch {' or '.join(ARCHITECTURES)}")
    module, conditions = load_checkpoint(options.checkpoint, options.arch, options.typespaces)
    return ChosenModel(TorchSource(module, own=True), conditions)


def _refuse_options_of_other_sources(options: argparse.Namespace) -> None:
    """Raise OptionError for an option that belongs to another source than the given one."""
    belongs = {
        "weights": ("module", "timm"),
        "input": ("onnx",),
        "output": ("onnx",),
        "pool": ("onnx", "module", "hf"),
        "yes_embedding": ("onnx", "module"),
        "arch": ("checkpoint",),
        "typespaces": ("checkpoint",),
    }
    for name, owners in belongs.items():
        if getattr(options, name, None) is not None and all(getattr(options, o, None) is None for o in owners):
            option = name.replace("_", "-")
            raise OptionError(f"--{option} is used with {' or '.join(f'--{o}' for o in owners)} only: leave it out")


def _preprocessing(options: argparse.Namespace, model: ChosenModel) -> Preprocessing:
    given, size = given_fields(options), given_size(options.size)
    if options.checkpoint is not None:
        if options.preprocessor is not None:
            raise OptionError("--checkpoint has a preprocessing of its own: leave --preprocessor out")
        return _authors_preprocessing(options.arch, size, given)
    source = model.source
    if isinstance(source, OnnxSource):
        given = source.fields(described=options.preprocessor is not None) | given
    if options.preprocessor is not None:
        return put_together(given, size, read_preprocessor(options.preprocessor))
    if model.preprocessing is not None:
        return put_together(given, size, model.preprocessing())
    if size is None and isinstance(source, OnnxSource):
        size = source.size(given.get("layout", "nchw"))
    if size is None:
        what = "this ONNX graph, which takes pictures of any size" if options.onnx is not None else "a PyTorch module"
        if options.hf is not None:
            what = f"{options.hf}, which has no preprocessor_config.json"
        raise OptionError(f"--size is needed for {what}: give height and, if it differs, width, or --preprocessor FILE.json")
    return put_together(given, size)


def _authors_preprocessing(arch: str, size: tuple[int, int] | None, given: dict[str, object]) -> Preprocessing:
    wanted = (AUTHORS_PREPROCESSING.height, AUTHORS_PREPROCESSING.width)
    if size not in (None, wanted):
        raise OptionError(
            f"{arch} works at --size {wanted[0]} {wanted[1]} only, because of its last pool, got {size}: leave --size out"
        )
    if given.get("layout", "nchw") != "nchw":
        raise OptionError(f"{arch} takes layout nchw only, got --layout {given['layout']}: leave it out")
    return put_together(given, size, AUTHORS_PREPROCESSING)
