"""One vector per picture from a sequence of tokens (batch, T, D) or from maps: in numpy, in PyTorch, and as ONNX nodes."""

import numpy as np
import onnx
import torch
from onnx import helper, numpy_helper
from torch import nn

from export.errors import ExportError


def pooled(results: np.ndarray, pool: str, last: bool) -> np.ndarray:
    """(n, T, D), (n, D, h, w) or, with `last`, (n, h, w, D) float32 -> (n, D) float32; with pool none, as it is.

    Raises ExportError if the results have another number of dimensions.
    """
    if pool == "none":
        return results
    if pool == "cls" and results.ndim == 3:
        return results[:, 0]
    return results.mean(_mean_axes(pool, results.ndim, last), dtype=np.float32)


def channels_last(pictures: np.ndarray) -> bool:
    """Say whether pictures (n, ...) are (n, H, W, C), not (n, C, H, W)."""
    return pictures.shape[-1] in (1, 3) and pictures.shape[1] not in (1, 3)


class TorchPool(nn.Module):
    """The same for tensors."""

    def __init__(self, pool: str, last: bool) -> None:
        super().__init__()
        self.pool, self.last = pool, last

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(N, T, D), (N, D, h, w) or (N, h, w, D) -> (N, D)"""
        return x[:, 0] if self.pool == "cls" else x.mean(_mean_axes(self.pool, x.ndim, self.last))


def add_pool(model: onnx.ModelProto, pool: str, ndim: int, last: bool) -> None:
    """Add the same to the only output of a graph, in place. ndim: of that output"""
    graph, (output,) = model.graph, model.graph.output
    name = f"{output.name}_{pool}"
    if pool == "cls":
        graph.initializer.append(numpy_helper.from_array(np.array(0, np.int64), f"{name}_index"))
        node = helper.make_node("Gather", [output.name, f"{name}_index"], [name], name=name, axis=1)
    else:
        axes = _mean_axes(pool, ndim, last)
        version = next(o.version for o in model.opset_import if o.domain in ("", "ai.onnx"))
        if version < 18:  # since then the axes are an input
            node = helper.make_node("ReduceMean", [output.name], [name], name=name, axes=axes, keepdims=0)
        else:
            graph.initializer.append(numpy_helper.from_array(np.array(axes, np.int64), f"{name}_axes"))
            node = helper.make_node("ReduceMean", [output.name, f"{name}_axes"], [name], name=name, keepdims=0)
    graph.node.append(node)
    output.CopyFrom(onnx.ValueInfoProto(name=name))


def _mean_axes(pool: str, ndim: int, last: bool) -> tuple[int, ...]:
    if ndim == 3 and pool == "mean":
        return (1,)
    if ndim == 4 and pool == "mean":
        return (1, 2) if last else (2, 3)
    wanted = "tokens (batch, T, D)" if pool == "cls" else "tokens (batch, T, D) or maps of four dimensions"
    raise ExportError(f"--pool {pool} is for {wanted}, but the output has {ndim} dimensions: leave --pool out")
