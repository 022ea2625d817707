"""Models that take two pictures and give a score (cross-encoders, learned metrics), to a bundle."""

from pathlib import Path

import numpy as np
import onnx
import torch
from torch import nn

from engine.bundle.manifest import Graph, Manifest
from engine.pictures.preprocessing import Preprocessing
from engine.runtime.opening import canonical_result, open_pair
from export import onnx_files
from export.demo_pictures import demo_pictures
from export.errors import ExportError, root_cause
from export.graphs import EXPORT_TOLERANCE
from export.onnx_selection import sort_nodes
from export.runtime import runner_of, silence
from export.separable import separable_embedding
from export.write import check_free, finish, replacing

PAIR_FILE = "pair.fp32.onnx"
PAIR_OPSET = 18
INPUTS, SCORE = ("query", "reference"), "score"


def export_pair(
    source: nn.Module | Path, preprocessing: Preprocessing, out: Path, *, name: str = "", licence: str = ""
) -> str:
    """Write a bundle of a model that takes two pictures, and return a line for people: where it is, and what to try instead.

    source: a module (B, 3, H, W), (B, 3, H, W) float32 -> (B,) or (B, 1) float32, or an ONNX file of such a graph
    name: of the model; empty: the name of `out`
    Raises an EngineError, and leaves `out` as it was, if the graph does not agree with the source on real pictures.
    """
    out = Path(out)
    check_free(out)
    pixels = demo_pictures(preprocessing)
    pictures = preprocessing.normalised(pixels)
    queries, references = pictures, np.roll(pictures, 1, axis=0)
    if isinstance(source, nn.Module):
        expected, model = _from_module(source, queries, references)
    else:
        expected, model = _from_file(source, queries, references)
    model = _one_score_a_row(model)
    onnx_files.strip(model)
    _require_equal(model, queries, references, expected)
    first, second = (node.name for node in model.graph.input)
    graph = Graph(PAIR_FILE, "similarity", "fp32", "any", onnx_files.opset(model), first, model.graph.output[0].name, second)
    manifest = Manifest(name or out.resolve().name, licence, preprocessing, 1, "dot", (graph,))
    with replacing(out) as folder:
        onnx_files.write_model(model, folder / PAIR_FILE)
        session = open_pair(folder / PAIR_FILE, graph, "cpu", None, preprocessing, pixels[0])
        canonical = {"picture": pixels[0], PAIR_FILE: canonical_result(session, manifest, pixels[0])}
        finish(folder, manifest, None, canonical)
    shortcut = separable_embedding(model)
    return f"wrote {out}" + (f"\n{shortcut}" if shortcut else "")


def _from_module(module: nn.Module, queries: np.ndarray, references: np.ndarray) -> tuple[np.ndarray, onnx.ModelProto]:
    """Scores (n,) that the module gives pair by pair, and its graph."""
    module = module.cpu().float().eval()
    pairs = [(torch.tensor(q[None]), torch.tensor(r[None])) for q, r in zip(queries, references, strict=True)]
    try:
        with torch.inference_mode():
            scores = [module(*pair) for pair in pairs]
    except Exception as error:  # the module is the user's code and may raise anything
        raise ExportError(f"the module fails on two pictures (1, 3, H, W): {root_cause(error)}; correct --size") from error
    for score in scores:
        if not isinstance(score, torch.Tensor) or score.numel() != 1:
            got = tuple(score.shape) if isinstance(score, torch.Tensor) else type(score).__name__
            raise ExportError(f"a two-input module must give one score for two pictures, got {got}: wrap it so that it does")
    example = tuple(torch.tensor(side[:2]) for side in (queries, references))
    batch = {0: torch.export.Dim("batch")}
    try:
        with silence():
            program = torch.onnx.export(
                module,
                example,
                dynamo=True,
                dynamic_shapes=(batch, batch),
                opset_version=PAIR_OPSET,
                input_names=list(INPUTS),
                output_names=[SCORE],
                external_data=False,
                verbose=False,
            )
    except Exception as error:  # the exporter runs the user's code, and has no error class of its own
        raise ExportError(f"torch.onnx.export cannot export the module: {root_cause(error)}") from error
    if program is None:
        raise ExportError("torch.onnx.export gave no graph")
    return np.array([float(score) for score in scores]), onnx_files.folded(program.model_proto)


def _from_file(path: Path, queries: np.ndarray, references: np.ndarray) -> tuple[np.ndarray, onnx.ModelProto]:
    """Scores (n,) that the file gives pair by pair, and its graph."""
    model = onnx_files.read_model(path)
    constants = {tensor.name for tensor in model.graph.initializer}
    inputs = [node for node in model.graph.input if node.name not in constants]
    if len(inputs) != 2 or len(model.graph.output) != 1:
        names = ", ".join(node.name for node in inputs)
        raise ExportError(f"{path}: --siamese needs a graph of two inputs and one output, this one has inputs {names}")
    for node in inputs:
        size = node.type.tensor_type.shape.dim[0] if node.type.tensor_type.shape.dim else None
        if size is not None and size.dim_value:
            raise ExportError(
                f"{path}: input {node.name} has a fixed batch of {size.dim_value}; export it with an open batch"
            )
    del model.graph.input[:]
    model.graph.input.extend(inputs)
    sort_nodes(model.graph, path)
    onnx_files.require_operators(model, path)
    runner = runner_of(model)
    found = [
        np.asarray(runner.run_all(_feeds(model, q[None], r[None]))[0]) for q, r in zip(queries, references, strict=True)
    ]
    if any(score.size != 1 for score in found):
        raise ExportError(f"{path}: its output is {found[0].shape} for two pictures, a two-input graph must give one score")
    return np.array([score.item() for score in found]), onnx_files.folded(model)


def _one_score_a_row(model: onnx.ModelProto) -> onnx.ModelProto:
    """The score as (batch, 1), whether the model gives (batch,) or (batch, 1) or (batch, 1, 1)."""
    old = model.graph.output[0].name
    shape = onnx.numpy_helper.from_array(np.array([-1, 1], np.int64), "sane_score_shape")
    model.graph.initializer.append(shape)
    new = f"{old}_by_row"
    model.graph.node.append(onnx.helper.make_node("Reshape", [old, shape.name], [new]))
    del model.graph.output[:]
    model.graph.output.append(onnx.helper.make_tensor_value_info(new, onnx.TensorProto.FLOAT, ["batch", 1]))
    return model


def _require_equal(model: onnx.ModelProto, queries: np.ndarray, references: np.ndarray, expected: np.ndarray) -> None:
    got = runner_of(model).run_all(_feeds(model, queries, references))[0]
    if got.shape != (len(expected), 1) or not np.isfinite(got).all():
        raise ExportError(f"the exported graph gives {got.shape} for {len(expected)} pairs, or numbers that are not finite")
    off, limit = float(np.abs(got[:, 0] - expected).max()), EXPORT_TOLERANCE * max(float(np.abs(expected).max()), 1e-6)
    if off > limit:
        raise ExportError(
            f"the exported graph is off by {off:.2g} from its source on pairs of pictures, {limit:.2g} is allowed"
        )


def _feeds(model: onnx.ModelProto, queries: np.ndarray, references: np.ndarray) -> dict[str, np.ndarray]:
    first, second = (node.name for node in model.graph.input)
    return {first: queries, second: references}
