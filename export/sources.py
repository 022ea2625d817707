"""What can be exported: a PyTorch module, or an ONNX file. Both give a graph, and what it must compute."""

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
    """module: takes one batch (N, 3, H, W) or (N, H, W, 3) float32 and gives one tensor; it is copied, not changed."""

    module: nn.Module

    def results(self, pictures: np.ndarray) -> np.ndarray:
        """What PyTorch gives for every picture by itself: (n, ...) float32 as the network takes them -> (n, ...)."""
        rows = []
        with torch.inference_mode():
            for picture in torch.tensor(pictures):  # a copy: modules may work in place
                try:
                    row = self._frozen(picture[None])
                except Exception as error:  # the module is the user's code and may raise anything
                    shape = tuple(pictures.shape[1:])
                    raise ExportError(f"the module fails on a batch of shape (1, *{shape}): {root_cause(error)}") from error
                rows.append(_one_row(row))
        if len({r.shape for r in rows}) > 1:
            raise ExportError(f"the module gives results of different shapes: {sorted({r.shape[1:] for r in rows})}")
        return np.concatenate(rows)

    def graph(self, pictures: np.ndarray, output: str) -> onnx.ModelProto:
        """The ONNX graph, its output named `output`; pictures (n, ...) float32, n > 1, serve as the example."""
        example = torch.tensor(pictures[:2])  # a batch of 1 would be taken for a constant
        try:
            with silence():
                program = torch.onnx.export(
                    self._frozen,
                    (example,),
                    dynamo=True,
                    dynamic_shapes=({0: torch.export.Dim("batch")},),
                    opset_version=TORCH_OPSET,
                    input_names=[INPUT],
                    output_names=[output],
                    external_data=False,
                    verbose=False,
                )
        except Exception as error:  # the exporter runs the user's code, and has no single error of its own
            raise ExportError(f"torch.onnx.export cannot export the module: {root_cause(error)}") from error
        if program is None:
            raise ExportError("torch.onnx.export gave no graph")
        return onnx_files.folded(program.model_proto)

    def fault(self, graph: onnx.ModelProto, pictures: np.ndarray) -> str:
        """Where `graph` departs from the module, as far as it can be told."""
        return "the module behaves otherwise when it is traced, or when it sees a batch; make its forward plain tensor code"

    @functools.cached_property
    def _frozen(self) -> nn.Module:
        try:
            return copy.deepcopy(self.module).cpu().float().eval()
        except Exception as error:  # modules may define how they are copied
            raise ExportError(f"the module cannot be copied: {root_cause(error)}") from error


@dataclasses.dataclass(frozen=True)
class OnnxSource:
    """path: an ONNX file; input, output: names, needed where the graph has more than one."""

    path: Path
    input: str | None = None
    output: str | None = None

    def size(self, layout: str) -> tuple[int, int] | None:
        """(height, width) that the graph is fixed to, or None where it takes any size."""
        shape = onnx_files.fixed_shape(self._model)
        if shape is None or len(shape) != 4:
            return None
        height, width = shape[2:] if layout == "nchw" else shape[1:3]
        return None if height is None or width is None else (height, width)

    def results(self, pictures: np.ndarray) -> np.ndarray:
        """What the file as it is gives for every picture by itself: (n, ...) float32 -> (n, ...) float32."""
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
        """The graph for any batch, batch normalisations folded; names are those of the file, not `output`."""
        try:
            model = onnx_files.folded(self._model)
            if (onnx_files.fixed_shape(model) or (None,))[0] == 1:
                model = batch.freed(model)
        except Exception as error:  # neither onnx nor onnxscript has an error of its own
            raise ExportError(f"{self.path} cannot be simplified: {root_cause(error)}") from error
        onnx_files.declare(model.graph.input[0], pictures.shape[1:])
        return model

    def fault(self, graph: onnx.ModelProto, pictures: np.ndarray) -> str:
        """Which node of `graph`, as `graph` made it, departs from the file."""
        original = onnx_files.folded(self._model)
        onnx_files.declare(original.graph.input[0], pictures.shape[1:])
        try:
            node = batch.blame(original, graph, pictures[:3])
        except ExportError as error:  # a part of the graph does not run, though the whole does
            node = f"a node that could not be found ({error})"
        return f"{self.path} does not take a batch because of {node}"

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
                f"{self.path}: input {name!r} has a fixed batch of {first}; export it with a batch of 1 or an open one"
            )
        if len(got) != 4 or any(g not in (None, w) for g, w in zip(got[1:], wanted, strict=True)):
            sizes = ", ".join("any" if g is None else str(g) for g in got)
            raise ExportError(f"{self.path}: input {name!r} is [{sizes}], the preprocessing gives {['batch', *wanted]}")


Source = TorchSource | OnnxSource


def load_module(spec: str, weights: Path | None = None) -> nn.Module:
    """The module that the callable `package:factory` returns, with a state dict from `weights` in it.

    The current folder is importable. Raises ExportError.
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
        raise ExportError(f"{spec} gives {type(made).__name__}, not an nn.Module")
    if weights is not None:
        fill(made, state_dict(weights), str(weights))
    return made


def state_dict(path: Path) -> dict[str, torch.Tensor]:
    """Name -> tensor from a file of torch.save, a checkpoint's `state_dict` unwrapped; runs no code from the file."""
    path = Path(path)
    if not path.is_file():
        raise ExportError(f"there is no weights file {path}")
    try:
        with torch.serialization.safe_globals(_numpy_scalars()):  # checkpoints keep their best score as one
            content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # broken files raise almost anything, and torch tells them badly from pickled code
        raise ExportError(
            f"{path} is not a file of torch.save with tensors in plain containers, and nothing else is read, since it could "
            "run code; save module.state_dict() anew"
        ) from error
    if isinstance(content, dict) and isinstance(content.get("state_dict"), dict):
        content = content["state_dict"]
    if not isinstance(content, dict) or not content or not all(isinstance(v, torch.Tensor) for v in content.values()):
        raise ExportError(f"{path} holds no state dict: names with tensors, by themselves or under 'state_dict'")
    return {str(k): v for k, v in content.items()}


def fill(module: nn.Module, state: dict[str, torch.Tensor], path: str) -> None:
    """Put `state`, read from `path`, into `module`; raises ExportError unless the two fit each other exactly."""
    try:
        missing, unexpected = module.load_state_dict(state, strict=False)
    except RuntimeError as error:  # shapes that differ, one a line
        lines = [line.strip() for line in str(error).splitlines()[1:3]]
        raise ExportError(f"{path} does not fit the module: {' '.join(lines)}") from error
    for what, names in (("lacks", missing), ("has what the module does not take:", unexpected)):
        if names:
            more = f" and {len(names) - 3} more" if len(names) > 3 else ""
            raise ExportError(f"{path} {what} {', '.join(names[:3])}{more}")


def _one_row(result: object) -> np.ndarray:
    """(1, ...) float32"""
    if not isinstance(result, torch.Tensor):
        raise ExportError(f"the module gives {type(result).__name__}, not one tensor; wrap it to return the embedding alone")
    if result.ndim < 1 or len(result) != 1 or result.dtype != torch.float32:
        shape = tuple(result.shape)
        raise ExportError(f"the module gives {result.dtype} {shape} for one picture, the engine needs float32 (1, ...)")
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
    """What a pickled numpy number names, under the module names of numpy 1 and 2."""
    scalar = np.float64(0).__reduce__()[0]
    paths = ("numpy.core.multiarray.scalar", "numpy._core.multiarray.scalar")
    return [*((scalar, path) for path in paths), np.dtype, *{type(np.dtype(c)) for c in "?bBhHiIlLqQefd"}]
