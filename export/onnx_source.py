"""An ONNX file as the source of a graph."""

import dataclasses
import functools
import itertools
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from export import batch, batch_faults, onnx_files, onnx_selection
from export.errors import ExportError, root_cause
from export.model_options import POOLS
from export.onnx_types import as_input, give_float32, has_halves, input_type, take_float32, widen
from export.pooling import add_pool, channels_last, pooled
from export.runtime import runner_of


@dataclasses.dataclass(frozen=True)
class OnnxSource:
    """path: an ONNX file

    input: its name, needed if the graph has more than one; output: any tensor of the graph, needed if it has several outputs
    pool: how tokens or maps become one vector, see `export.pooling`
    sure: take the output for an embedding even if it looks like scores of classes; so is an `output` that is named
    """

    path: Path
    input: str | None = None
    output: str | None = None
    pool: str = POOLS[0]
    sure: bool = False

    @property
    def halves(self) -> bool:
        """Whether the file computes in half precision; its graph does not."""
        return has_halves(self._model)

    @property
    def confident(self) -> bool:
        """Whether the output is an embedding because somebody said so."""
        return self.sure or self.output is not None

    def size(self, layout: str) -> tuple[int, int] | None:
        """Return the only (height, width) that the graph takes, or None if it takes any size."""
        shape = onnx_files.fixed_shape(self._model)
        if shape is None or len(shape) != 4:
            return None
        height, width = shape[2:] if layout == "nchw" else shape[1:3]
        return None if height is None or width is None else (height, width)

    def fields(self, described: bool = False) -> dict[str, Any]:
        """Return fields of the preprocessing that the graph's input decides: its layout, one channel, pixels as they are.

        described: a file says how pixels become numbers, so that this does not
        """
        shape = onnx_files.fixed_shape(self._model) or ()
        found: dict[str, Any] = {}
        if len(shape) == 4:
            last = shape[3] in (1, 3) and shape[1] not in (1, 3)
            found |= {"layout": "nhwc"} if last else {}
            found |= {"channels": 1} if shape[3 if last else 1] == 1 else {}
        if input_type(self._model) == onnx.TensorProto.UINT8 and not described:
            found["scale"] = 1.0
        return found

    def results(self, pictures: np.ndarray) -> np.ndarray:
        """Return what the unchanged file gives for each picture alone: (n, ...) float32 -> (n, ...) float32."""
        self._check_input(pictures.shape[1:])
        rows = self._run(pictures)
        if any(r.ndim < 1 or len(r) != 1 or r.shape != rows[0].shape for r in rows):
            name = self._model.graph.output[0].name
            raise ExportError(
                f"{self.path}: output {name!r} is {rows[0].shape} for one picture, not (1, ...); {self.suggestion()}"
            )
        return pooled(np.concatenate(rows).astype(np.float32), self.pool, channels_last(pictures))

    def graph(self, pictures: np.ndarray, output: str) -> onnx.ModelProto:
        """Return the graph for any batch, with batch normalisations folded. It keeps the names of the file, not `output`."""
        try:
            model = self._changed(pictures)
            return self._opened(model, pictures[:2]) if self._for_one_picture else model
        except ExportError:
            raise
        except Exception as error:  # neither onnx nor onnxscript has an error class of its own
            raise ExportError(
                f"{self.path} cannot be simplified: {root_cause(error)}; export it again, with an open batch if it has none"
            ) from error

    def explain_fault(self, graph: onnx.ModelProto, pictures: np.ndarray) -> str:
        """Name the node of `graph`, a result of the method `graph`, that differs from the file."""
        try:
            node = batch_faults.first_wrong_node(self._changed(pictures), graph, pictures[:3])
        except ExportError as error:  # a part of the graph may not run although the whole graph does
            node = f"a node that could not be found ({error})"
        return f"{self.path} does not take a batch because of {node}; export it with an open batch"

    def suggestion(self) -> str:
        """Say what to do if the output is no embedding: which tensors could be one."""
        found = onnx_selection.suggestions(self._model)
        return f"choose an earlier tensor with --output{': ' if found else ''}{found}"

    @functools.cached_property
    def _model(self) -> onnx.ModelProto:
        model = onnx_files.read_model(Path(self.path))
        onnx_selection.reduce_to(model, Path(self.path), self.input, self.output)
        onnx_files.require_operators(model, Path(self.path))
        return model

    def _run(self, pictures: np.ndarray) -> list[np.ndarray]:
        """Return the unchanged file's result for each picture."""
        given = as_input(pictures, input_type(self._model), self.path)
        try:
            runner = runner_of(self._model)
            return [np.asarray(runner.run(p[None])[0]) for p in given]
        except ExportError as error:
            raise ExportError(
                f"ONNX Runtime cannot run {self.path}: {error}; correct --size or --layout, or export the file again"
            ) from error

    def _changed(self, pictures: np.ndarray) -> onnx.ModelProto:
        """Return the graph as a bundle has it, but for its batch: float32, simple, with the pool, its sizes declared."""
        model = onnx_files.folded(self._model)
        (example,) = self._run(pictures[:1])
        model.graph.output[0].type.tensor_type.elem_type = onnx.helper.np_dtype_to_tensor_dtype(example.dtype)
        widen(model)
        take_float32(model)
        give_float32(model)
        if self.pool != POOLS[0]:
            add_pool(model, self.pool, example.ndim, channels_last(pictures))
        onnx_files.declare(model.graph.input[0], pictures.shape[1:])
        if self._for_one_picture:
            model.graph.input[0].type.tensor_type.shape.dim[0].dim_value = 1
            batch.make_sizes_constant(model)
        return model

    def _opened(self, model: onnx.ModelProto, pictures: np.ndarray) -> onnx.ModelProto:
        """Return the graph for any batch; if there are several ways to open it, one that gives `pictures` their results."""
        first, guessed = batch.with_open_batch(model)
        expected = self.results(pictures) if guessed else pictures
        tries = itertools.chain([first], (batch.with_open_batch(model, name)[0] for name in reversed(guessed)))
        return next((opened for opened in tries if not guessed or _gives(opened, pictures, expected)), first)

    @property
    def _for_one_picture(self) -> bool:
        return (onnx_files.fixed_shape(self._model) or (None,))[0] == 1

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
                "correct --size, --channels or --layout"
            )


def _gives(model: onnx.ModelProto, pictures: np.ndarray, expected: np.ndarray) -> bool:
    try:
        (got,) = runner_of(model).run(pictures)
    except ExportError:
        return False
    return got.shape == expected.shape and batch_faults.close(expected, got)
