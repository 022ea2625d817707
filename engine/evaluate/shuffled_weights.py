"""A network whose weights are shuffled from the output backwards (docs/method.md, Sanity checks). Needs the onnx package."""

import contextlib
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from engine.errors import OptionError
from engine.model import GradientNetworks, LoadedModel
from engine.protocol import GraphSignature
from engine.runtime.gradient_session import GradientSession
from engine.runtime.session import Session

LEAST_WEIGHTS = 16
"""Numbers of a tensor that counts as weights; smaller ones are constants, such as a mean per channel or a scale."""


def require_onnx() -> None:
    """Raise OptionError if the onnx package is missing: to be called before the work, not after it."""
    try:
        import onnx  # noqa: F401, PLC0415 - an optional dependency
    except ImportError as error:
        raise OptionError(
            "--sanity shuffles the weights of the graph, which needs the onnx package: pip install onnx"
        ) from error


class Cascade:
    """The layers of a model's fp32 similarity graph, from the output backwards, and the model with some of them shuffled.

    layers: names of the weights of each node that has some, the last node first; a tensor belongs to the last node it feeds
    gradient: whether method mask is wanted: then the gradient graph is shuffled alike

    A shuffled tensor keeps its numbers in another order, so that it keeps their distribution.
    Raises OptionError if the graph has no weights, or the gradient graph has other ones.
    """

    def __init__(self, model: LoadedModel, seed: int, gradient: bool) -> None:
        require_onnx()
        self._model, self._seed = model, seed
        self._file = model.bundle.folder / model.manifest.base.file
        self._gradient = model.gradient_graph if gradient else None
        graph = _load(self._file).graph
        self.layers = _layers(graph)
        if not self.layers:
            raise OptionError(
                f"{self._file} has no float32 weights of {LEAST_WEIGHTS} or more numbers: nothing can be shuffled"
            )
        if self._gradient is not None:
            self._require_same_weights(graph, model.bundle.folder / self._gradient.file)

    @property
    def depths(self) -> tuple[int, ...]:
        """How many layers to shuffle, by turns: the last one, a third, two thirds, all."""
        count = len(self.layers)
        return tuple(sorted({1, -(-count // 3), -(-2 * count // 3), count}))

    @contextlib.contextmanager
    def shuffled(self, depth: int) -> Iterator[LoadedModel]:
        """Give the model with its last `depth` layers shuffled; a deeper one keeps what a shallower one has. CPU, fp32."""
        preprocessing, base, threads = self._model.preprocessing, self._model.manifest.base, self._model.threads
        output = (self._model.manifest.embedding,)
        with tempfile.TemporaryDirectory() as folder:
            path = self._write(self._file, depth, Path(folder) / "similarity")
            signature = GraphSignature(base.input, preprocessing.input_shape, base.output, output)
            network = Session(path, "cpu", threads, signature)
            networks = None
            if self._gradient is not None:
                path = self._write(self._model.bundle.folder / self._gradient.file, depth, Path(folder) / "gradient")
                signature = GraphSignature(self._gradient.input, preprocessing.input_shape, self._gradient.output, output)
                networks = GradientNetworks(GradientSession(path, "cpu", threads, signature), network, "cpu")
            yield self._model.running(network, networks)

    def _write(self, file: Path, depth: int, folder: Path) -> Path:
        """Write a graph with its last layers shuffled; return its path."""
        import onnx  # noqa: PLC0415 - an optional dependency

        found = _load(file)
        tensors = _weights(found.graph)
        random = np.random.Generator(np.random.Philox(key=self._seed))
        for name in (name for layer in self.layers[:depth] for name in layer):
            values = onnx.numpy_helper.to_array(tensors[name])
            shuffled = random.permutation(values.ravel()).reshape(values.shape)
            tensors[name].CopyFrom(onnx.numpy_helper.from_array(shuffled, tensors[name].name))
        folder.mkdir()
        onnx.save_model(found, folder / "graph.onnx", save_as_external_data=True, location="weights")
        return folder / "graph.onnx"

    def _require_same_weights(self, graph: Any, file: Path) -> None:
        import onnx  # noqa: PLC0415 - an optional dependency

        ours, theirs = (
            {k: onnx.numpy_helper.to_array(t) for k, t in _weights(g).items()} for g in (graph, _load(file).graph)
        )
        if ours.keys() != theirs.keys() or any(not np.array_equal(ours[name], theirs[name]) for name in ours):
            raise OptionError(
                f"{file} keeps its weights otherwise than the similarity graph, and cannot be shuffled with it: "
                "leave method mask out"
            )


def _load(file: Path) -> Any:
    import onnx  # noqa: PLC0415 - an optional dependency

    return onnx.load(str(file))


def _weights(graph: Any) -> dict[str, Any]:
    """Return the float32 tensors of LEAST_WEIGHTS numbers or more, by name: initialisers, and constants of nodes."""
    import onnx  # noqa: PLC0415 - an optional dependency

    tensors = {tensor.name: tensor for tensor in graph.initializer}
    for node in graph.node:
        if node.op_type == "Constant":
            tensors.update((node.output[0], a.t) for a in node.attribute if a.name == "value")
    return {
        name: t for name, t in tensors.items() if t.data_type == onnx.TensorProto.FLOAT and np.prod(t.dims) >= LEAST_WEIGHTS
    }


def _layers(graph: Any) -> list[tuple[str, ...]]:
    left = set(_weights(graph))
    layers = []
    for node in reversed(graph.node):
        own = tuple(name for name in dict.fromkeys(node.input) if name in left)
        left -= set(own)
        if own:
            layers.append(own)
    return layers
