"""What can be exported: a PyTorch module or an ONNX file. Both give a graph, and the results that it must reproduce."""

import contextlib
import copy
import dataclasses
import functools
import importlib
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from torch import nn

from export import batch, onnx_files
from export.errors import ExportError, root_cause
from export.runtime import ModelRunner, silence

TORCH_OPSET = 18
INPUT = "image"


@dataclasses.dataclass(frozen=True)
class TorchSource:
    """module: maps a batch (N, 3, H, W) or (N, H, W, 3) float32 to one tensor; it is copied, not changed"""

    module: nn.Module

    def results(self, pictures: np.ndarray) -> np.ndarray:
        """Return what PyTorch gives for each picture alone, (n, ...) float32; pictures: (n, ...) float32, normalised."""
        rows = []
        with torch.inference_mode():
            for picture in torch.tensor(pictures):  # a copy, because modules may work in place
                try:
                    row = self._evaluated(picture[None])
                except Exception as error:  # the module is the user's code and may raise anything
                    shape = tuple(pictures.shape[1:])
                    raise ExportError(f"the module fails on a batch of shape (1, *{shape}): {root_cause(error)}") from error
                rows.append(_one_row(row))
        if len({r.shape for r in rows}) > 1:
            raise ExportError(f"the module gives results of different shapes: {sorted({r.shape[1:] for r in rows})}")
        return np.concatenate(rows)

    def graph(self, pictures: np.ndarray, output: str) -> onnx.ModelProto:
        """Return the ONNX graph with its output named `output`. pictures: (n, ...) float32, n > 1, the example input"""
        example = torch.tensor(pictures[:2])  # the exporter would take a batch of 1 for a constant
        try:
            with silence():
                program = torch.onnx.export(
                    self._evaluated,
                    (example,),
                    dynamo=True,
                    dynamic_shapes=({0: torch.export.Dim("batch")},),
                    opset_version=TORCH_OPSET,
                    input_names=[INPUT],
                    output_names=[output],
                    external_data=False,
                    verbose=False,
                )
        except Exception as error:  # the exporter runs the user's code, and has no error class of its own
            raise ExportError(f"torch.onnx.export cannot export the module: {root_cause(error)}") from error
        if program is None:
            raise ExportError("torch.onnx.export gave no graph")
        return onnx_files.folded(program.model_proto)

    def explain_fault(self, graph: onnx.ModelProto, pictures: np.ndarray) -> str:
        """Say why `graph` may differ from the module: a traced graph does not show where."""
        return (
            "the module behaves differently when it is traced, or for a batch: write its forward as plain tensor operations"
        )

    @functools.cached_property
    def _evaluated(self) -> nn.Module:
        """A copy in evaluation mode, float32, on the CPU."""
        try:
            return copy.deepcopy(self.module).cpu().float().eval()
        except Exception as error:  # modules may define their own copying
            raise ExportError(f"the module cannot be copied: {root_cause(error)}") from error


@dataclasses.dataclass(frozen=True)
class OnnxSource:
    """path: an ONNX file; input, output: names, needed if the graph has more than one"""

    path: Path
    input: str | None = None
    output: str | None = None

    def size(self, layout: str) -> tuple[int, int] | None:
        """Return the only (height, width) that the graph takes, or None if it takes any size."""
        shape = onnx_files.fixed_shape(self._model)
        if shape is None or len(shape) != 4:
            return None
        height, width = shape[2:] if layout == "nchw" else shape[1:3]
        return None if height is None or width is None else (height, width)

    def results(self, pictures: np.ndarray) -> np.ndarray:
        """Return what the unchanged file gives for each picture alone: (n, ...) float32 -> (n, ...) float32."""
        self._check_input(pictures.shape[1:])
        try:
            runner = ModelRunner(onnx_files.serialised(self._model))
            rows = [np.asarray(runner.run(p[None])[0]) for p in pictures]
        except ExportError as error:
            raise ExportError(f"ONNX Runtime cannot run {self.path}: {error}") from error
        if any(r.ndim < 1 or len(r) != 1 or r.shape != rows[0].shape for r in rows):
            output = self._model.graph.output[0].name
            raise ExportError(f"{self.path}: output {output!r} is {rows[0].shape} for one picture, not (1, ...)")
        return np.concatenate(rows)

    def graph(self, pictures: np.ndarray, output: str) -> onnx.ModelProto:
        """Return the graph for any batch, with batch normalisations folded. It keeps the names of the file, not `output`."""
        try:
            model = onnx_files.folded(self._model)
            if (onnx_files.fixed_shape(model) or (None,))[0] == 1:
                model = batch.with_open_batch(model)
        except Exception as error:  # neither onnx nor onnxscript has an error class of its own
            raise ExportError(f"{self.path} cannot be simplified: {root_cause(error)}") from error
        onnx_files.declare(model.graph.input[0], pictures.shape[1:])
        return model

    def explain_fault(self, graph: onnx.ModelProto, pictures: np.ndarray) -> str:
        """Name the node of `graph`, a result of the method `graph`, that differs from the file."""
        original = onnx_files.folded(self._model)
        onnx_files.declare(original.graph.input[0], pictures.shape[1:])
        try:
            node = batch.first_wrong_node(original, graph, pictures[:3])
        except ExportError as error:  # a part of the graph may not run although the whole graph does
            node = f"a node that could not be found ({error})"
        return f"{self.path} does not take a batch because of {node}; export it with an open batch"

    @functools.cached_property
    def _model(self) -> onnx.ModelProto:
        return onnx_files.read_onnx(Path(self.path), self.input, self.output)

    def _check_input(self, wanted: tuple[int, ...]) -> None:
        got = onnx_files.fixed_shape(self._model)
        name = self._model.graph.input[0].name
        if got is None:
            return
        first = got[0] if got else None
        if first not in (None, 1):
            raise ExportError(
                f"{self.path}: input {name!r} has a fixed batch of {first}; export it with an open batch or a batch of 1"
            )
        if len(got) != 4 or any(g not in (None, w) for g, w in zip(got[1:], wanted, strict=True)):
            sizes = ", ".join("any" if g is None else str(g) for g in got)
            raise ExportError(
                f"{self.path}: input {name!r} is [{sizes}], but the preprocessing gives {['batch', *wanted]}; "
                "correct --size or --layout"
            )


Source = TorchSource | OnnxSource


def load_module(spec: str, weights: Path | None = None) -> nn.Module:
    """Return the module that the function `package:factory` returns, with the state dict from the file `weights` loaded.

    Packages in the current folder are found too. Raises ExportError.
    """
    package, _, factory = spec.partition(":")
    if not package or not factory.isidentifier():
        raise ExportError(f"--module must be package:factory, for example mynet:build, got {spec!r}")
    with _current_folder_importable():
        try:
            made = getattr(importlib.import_module(package), factory)()
        except (Exception, SystemExit) as error:  # the package is the user's code and may raise anything
            raise ExportError(f"{spec} cannot be called: {root_cause(error)}") from error
    if not isinstance(made, nn.Module):
        raise ExportError(f"{spec} returns {type(made).__name__}, but must return an nn.Module")
    if weights is not None:
        load_state(made, state_dict(weights), str(weights))
    return made


def state_dict(path: Path) -> dict[str, torch.Tensor]:
    """Read tensors by name from a file of torch.save, at its top or under `state_dict`, without running code in the file.

    Raises ExportError.
    """
    path = Path(path)
    if not path.is_file():
        raise ExportError(f"there is no weights file {path}")
    try:
        with torch.serialization.safe_globals(_numpy_scalars()):  # in checkpoints the best score is a numpy scalar
            content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # broken files raise almost anything, and torch does not distinguish them from pickled code
        raise ExportError(
            f"{path} is not a file of torch.save with tensors in plain containers; anything else is not read, since it "
            "could run code: save module.state_dict() again"
        ) from error
    if isinstance(content, dict) and isinstance(content.get("state_dict"), dict):
        content = content["state_dict"]
    if not isinstance(content, dict) or not content or not all(isinstance(v, torch.Tensor) for v in content.values()):
        raise ExportError(f"{path} holds no state dict: it must hold tensors by name, at the top or under 'state_dict'")
    return {str(k): v for k, v in content.items()}


def load_state(module: nn.Module, state: dict[str, torch.Tensor], path: str) -> None:
    """Load `state`, read from `path`, into `module`; raises ExportError unless they fit each other exactly."""
    try:
        missing, unexpected = module.load_state_dict(state, strict=False)
    except RuntimeError as error:  # shapes that differ, one a line
        lines = [line.strip() for line in str(error).splitlines()[1:3]]
        raise ExportError(f"{path} does not fit the module: {' '.join(lines)}") from error
    for what, names in (("lacks", missing), ("has tensors that the module does not take:", unexpected)):
        if names:
            more = f" and {len(names) - 3} more" if len(names) > 3 else ""
            raise ExportError(f"{path} {what} {', '.join(names[:3])}{more}")


def _one_row(result: object) -> np.ndarray:
    """(1, ...) float32"""
    if not isinstance(result, torch.Tensor):
        raise ExportError(f"the module gives {type(result).__name__}, not one tensor; wrap it so that it returns one tensor")
    if result.ndim < 1 or len(result) != 1 or result.dtype != torch.float32:
        shape = tuple(result.shape)
        raise ExportError(f"the module gives {result.dtype} {shape} for one picture, but must give float32 (1, ...)")
    return result.numpy()


@contextlib.contextmanager
def _current_folder_importable() -> Iterator[None]:
    folder = str(Path.cwd())
    if folder in sys.path or "" in sys.path:
        yield
        return
    sys.path.append(folder)
    try:
        yield
    finally:
        sys.path.remove(folder)


def _numpy_scalars() -> list[Any]:
    """Return what a pickled numpy number refers to, under the module names of numpy 1 and 2."""
    scalar = np.float64(0).__reduce__()[0]
    paths = ("numpy.core.multiarray.scalar", "numpy._core.multiarray.scalar")
    return [*((scalar, path) for path in paths), np.dtype, *{type(np.dtype(c)) for c in "?bBhHiIlLqQefd"}]
