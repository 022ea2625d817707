"""A PyTorch module as the source of a graph."""

import contextlib
import copy
import dataclasses
import functools
import importlib
import io
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx
import onnx_ir
import torch
from torch import nn

from export import onnx_files
from export.errors import ExportError, root_cause
from export.model_options import POOLS
from export.pooling import TorchPool, channels_last, pooled
from export.runtime import silence
from export.torch_files import load_state, state_dict

TORCH_OPSET = 18
TORCHSCRIPT_OPSET = 17
"""The newest opset that PyTorch's TorchScript exporter knows whole."""
INPUT = "image"
_OURS = ("sane_engine_input", "sane_engine_output")
"""Names during the export. The exporter does not keep them apart from the names inside a module: nobody has these."""


@dataclasses.dataclass(frozen=True)
class TorchSource:
    """module: maps a batch (N, C, H, W) or (N, H, W, C) float32 to one tensor

    pool: how tokens or maps become one vector, see `export.pooling`
    sure: take its output for an embedding even if it looks like the probabilities of classes
    own: nobody else uses the module, so that it need not be copied
    """

    module: nn.Module
    pool: str = POOLS[0]
    sure: bool = False
    own: bool = False

    halves = False

    @property
    def confident(self) -> bool:
        """Whether the output is an embedding because somebody said so."""
        return self.sure

    def results(self, pictures: np.ndarray) -> np.ndarray:
        """Return what PyTorch gives for each picture alone, (n, ...) float32; pictures: (n, ...) float32, normalised."""
        rows = []
        with torch.inference_mode():
            for picture in torch.tensor(pictures):  # a copy, because modules may work in place
                try:
                    row = self._evaluated(picture[None])
                except Exception as error:  # the module is the user's code and may raise anything
                    shape = tuple(pictures.shape[1:])
                    raise ExportError(
                        f"the module fails on a batch of shape (1, *{shape}): {root_cause(error)}; correct --size, "
                        "--channels or --layout, or the module"
                    ) from error
                rows.append(_one_row(row))
        if len({r.shape for r in rows}) > 1:
            raise ExportError(
                f"the module gives results of different shapes, {sorted({r.shape[1:] for r in rows})}: "
                "wrap it so that they have one shape"
            )
        return pooled(np.concatenate(rows), self.pool, channels_last(pictures))

    def graph(self, pictures: np.ndarray, output: str) -> onnx.ModelProto:
        """Return the ONNX graph with its output named `output`. pictures: (n, ...) float32, n > 1, the example input

        PyTorch has two exporters; the older one is tried if the other one fails.
        """
        example = torch.tensor(pictures[:2])  # the exporter would take a batch of 1 for a constant
        module = self._evaluated
        if self.pool != POOLS[0]:
            module = nn.Sequential(module, TorchPool(self.pool, channels_last(pictures))).eval()
        reasons = []
        for exporter in (_exported, _exported_by_torchscript):
            try:
                with silence():
                    model = onnx_files.folded(exporter(module, example))
                return onnx_files.with_names(model, INPUT, output)
            except Exception as error:  # the exporters run the user's code, and have no error class of their own
                if _decides_by_numbers(error):  # the older exporter would keep one way of the decision, without a word
                    raise ExportError(
                        f"torch.onnx.export cannot export the module: {root_cause(error)}; a decision in its forward "
                        "depends on the numbers of a picture: compute both ways, and choose with torch.where"
                    ) from error
                reasons.append(root_cause(error))
        raise ExportError(
            f"torch.onnx.export cannot export the module: {reasons[0]}; nor can its TorchScript exporter: {reasons[1]}; "
            "write the module's forward as plain tensor operations, or export an ONNX file yourself and give it as --onnx"
        )

    def explain_fault(self, graph: onnx.ModelProto, pictures: np.ndarray) -> str:
        """Say why `graph` may differ from the module: a traced graph does not show where."""
        return (
            "the module behaves differently when it is traced, or for a batch: write its forward as plain tensor operations"
        )

    def suggestion(self) -> str:
        """Say what to do if the output is no embedding."""
        return "change the module so that it returns an embedding per picture"

    @functools.cached_property
    def _evaluated(self) -> nn.Module:
        """The module, or a copy, in evaluation mode, float32, on the CPU."""
        try:
            module = self.module if self.own else copy.deepcopy(self.module)
            return module.cpu().float().eval().requires_grad_(False)
        except Exception as error:  # modules may define their own copying
            raise ExportError(f"the module cannot be copied: {root_cause(error)}; correct its __deepcopy__") from error


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


def _exported(module: nn.Module, example: torch.Tensor) -> onnx_ir.Model:
    program = torch.onnx.export(
        module,
        (example,),
        dynamo=True,
        dynamic_shapes=({0: torch.export.Dim("batch")},),
        opset_version=TORCH_OPSET,
        input_names=[_OURS[0]],
        output_names=[_OURS[1]],
        external_data=False,
        verbose=False,
    )
    if program is None:
        raise ExportError("torch.onnx.export gave no graph")
    return program.model  # its weights are the module's own, not copies


def _exported_by_torchscript(module: nn.Module, example: torch.Tensor) -> onnx.ModelProto:
    content = io.BytesIO()
    torch.onnx.export(
        module,
        (example,),
        content,  # type: ignore[arg-type] # a file object is as good: its annotation says less than its docstring
        dynamo=False,
        dynamic_axes={name: {0: "batch"} for name in _OURS},
        opset_version=TORCHSCRIPT_OPSET,
        input_names=[_OURS[0]],
        output_names=[_OURS[1]],
    )
    return onnx.load_from_string(content.getvalue())


def _decides_by_numbers(error: BaseException | None) -> bool:
    while error is not None:
        if "DataDependent" in type(error).__name__:  # of torch.fx.experimental, so not to be imported
            return True
        error = error.__cause__
    return False


def _one_row(result: object) -> np.ndarray:
    """(1, ...) float32"""
    if not isinstance(result, torch.Tensor):
        raise ExportError(f"the module gives {type(result).__name__}, not one tensor; wrap it so that it returns one tensor")
    if result.ndim < 1 or len(result) != 1 or result.dtype != torch.float32:
        shape = tuple(result.shape)
        raise ExportError(
            f"the module gives {result.dtype} {shape} for one picture, but must give float32 (1, ...): wrap it"
        )
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
