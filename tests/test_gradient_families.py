"""Gradients of the kinds of networks that people have, in small, against PyTorch's in float64; and what making one takes."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from export_models import write_onnx
from gradient_graphs import Vit, checked, floats, node, run
from helpers import ROOT
from torch import nn
from torch.nn import functional as F

from engine.pictures.preprocessing import Preprocessing
from export import TorchSource, gradient_check, graphs
from export.errors import ExportError
from export.float64_graph import Float64Graph
from export.gradient import with_gradient
from export.light_graph import LightGraph

SIZE = 32


class ConvNext(nn.Module):
    """As timm's: channels last inside, and a pooling that PyTorch exports as a gather at computed places."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.deep = nn.Conv2d(3, 16, 4, 4), nn.Conv2d(16, 16, 7, 1, 3, groups=16)
        self.norm, self.up, self.down = nn.LayerNorm(16), nn.Linear(16, 64), nn.Linear(64, 16)
        self.scale = nn.Parameter(torch.rand(16))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.stem(x)
        y = self.down(F.gelu(self.up(self.norm(self.deep(x).permute(0, 2, 3, 1)))))
        x = x + (y * self.scale).permute(0, 3, 1, 2)
        return self.norm(F.adaptive_avg_pool2d(x, 1).permute(0, 2, 3, 1)).flatten(1)


class Bottlenecks(nn.Module):
    """As a ResNet: a max pool, a bottleneck, ReLUs."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.bn = nn.Conv2d(3, 16, 7, 2, 3, bias=False), nn.BatchNorm2d(16)
        self.one, self.two = nn.Conv2d(16, 8, 1), nn.Conv2d(8, 8, 3, 2, 1)
        self.three, self.side = nn.Conv2d(8, 32, 1), nn.Conv2d(16, 32, 1, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = F.max_pool2d(F.relu(self.bn(self.stem(x))), 3, 2, 1)
        y = self.three(F.relu(self.two(F.relu(self.one(x)))))
        return F.relu(y + self.side(x)).mean((2, 3))


class Mixed(nn.Module):
    """Normalisations over groups and pixels, a pyramid that is resized, an einsum, maxima over space."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.group = nn.Conv2d(3, 16, 3, 2, 1), nn.GroupNorm(4, 16)
        self.instance = nn.InstanceNorm2d(16, affine=True)
        self.next, self.mix = nn.Conv2d(16, 16, 3, 2, 1), nn.Parameter(torch.randn(16, 12))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        fine = F.silu(self.group(self.stem(x)))
        coarse = F.mish(self.instance(self.next(fine)))
        smooth = F.interpolate(coarse, scale_factor=2, mode="bilinear")
        pyramid = fine + smooth + F.interpolate(coarse, size=fine.shape[2:], mode="nearest")
        mixed = torch.einsum("bchw,co->bohw", pyramid, self.mix)
        return F.normalize(torch.cat([F.adaptive_max_pool2d(mixed, 1).flatten(1), mixed.mean((2, 3))], 1))


NETWORKS: dict[str, Callable[[], nn.Module]] = {"ViT": Vit, "ConvNeXt": ConvNext, "ResNet": Bottlenecks, "mixed": Mixed}


@pytest.mark.parametrize("name", NETWORKS)
def test_networks_give_pytorchs_gradients_and_pass_the_check(name: str) -> None:
    torch.manual_seed(0)
    network = NETWORKS[name]().eval()
    made = graphs.make(TorchSource(network), Preprocessing(SIZE, SIZE), "embedding", (None,))
    added = with_gradient(LightGraph.of(made.model), "cosine")
    random = np.random.default_rng(0)
    x, target = floats(random, 5, 3, SIZE, SIZE), floats(random, 5, *made.shape)
    assert "float64" in checked(added, made.model, "cosine", x)
    leaf = torch.from_numpy(x).double().requires_grad_(True)
    F.cosine_similarity(network.double()(leaf), torch.from_numpy(target).double()).sum().backward()
    assert leaf.grad is not None
    exact = leaf.grad.numpy()
    off = np.abs(run(added, x, target)[1] - exact).max((1, 2, 3)) / np.abs(exact).max((1, 2, 3))
    assert np.median(off) <= 1e-4  # one picture may lie at a kink


def test_attention_of_a_newer_opset(tmp_path: Path) -> None:
    """From opset 23 on PyTorch exports attention as one operator."""
    torch.manual_seed(0)
    network, file = Vit().eval(), tmp_path / "vit.onnx"
    dynamic = ({0: torch.export.Dim("batch")},)
    program = torch.onnx.export(
        network, (torch.randn(2, 3, SIZE, SIZE),), opset_version=23, dynamo=True, dynamic_shapes=dynamic, verbose=False
    )
    assert program is not None
    program.save(str(file))
    model = onnx.load(file)
    assert "Attention" in {n.op_type for n in model.graph.node}
    x = floats(np.random.default_rng(0), 3, 3, SIZE, SIZE)
    assert "float64" in checked(with_gradient(LightGraph.of(model), "cosine"), model, "cosine", x)


def test_operators_that_float64_lacks_are_checked_in_float32(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    weights = onnx.numpy_helper.from_array(floats(np.random.default_rng(0), 4, 3, 8, 8), "w")
    nodes = [
        node("Conv", ["picture", "w"], ["f"], strides=[8, 8]),
        node("Tanh", ["f"], ["t"]),
        node("Flatten", ["t"], ["y"]),
    ]
    model = onnx.load(write_onnx(tmp_path / "net.onnx", nodes, {"y": ("batch", 64)}, [weights], ("batch", 3, SIZE, SIZE)))
    x = floats(np.random.default_rng(1), 3, 3, SIZE, SIZE) / 20

    def missing(self: Float64Graph, pictures: np.ndarray) -> np.ndarray:
        raise ExportError("no such operator")

    monkeypatch.setattr(Float64Graph, "run", missing)
    added = with_gradient(LightGraph.of(model), "cosine")
    assert "float32" in checked(added, model, "cosine", x)
    last = added.model.graph.node[-1]
    added.model.graph.node.insert(len(added.model.graph.node) - 1, node("Abs", [last.input[0]], ["wrong"]))
    last.input[0] = "wrong"
    with pytest.raises(ExportError, match=r"does not change as its gradient says.*float32"):
        checked(added, model, "cosine", x)


def test_a_similarity_that_jumps_everywhere_cannot_be_verified(monkeypatch: pytest.MonkeyPatch) -> None:
    """A kinked network must not be called wrong: what is said is that differences do not tell."""
    random = np.random.default_rng(0)
    monkeypatch.setattr(gradient_check, "_embedder", lambda *_: ("float64", lambda x: random.normal(size=(len(x), 4))))

    def gradient(pictures: np.ndarray, targets: np.ndarray, weights: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        return np.ones(len(pictures), np.float32), np.ones_like(pictures)

    with pytest.raises(ExportError, match=r"cannot be verified: differences in float64 .* do not agree"):
        gradient_check.verify(gradient, LightGraph(onnx.ModelProto(), {}), "dot", floats(random, 3, 3, 8, 8))


MEMORY = """
import resource, sys, numpy as np, onnx
from onnx import TensorProto, helper, numpy_helper
from export.gradient import with_gradient
from export.gradient_check import runner_gradient, verify
from export.light_graph import LightGraph
width = 4096
random = np.random.default_rng(0)
draw = lambda *shape: (random.standard_normal(shape, np.float32) / np.float32(shape[0]) ** 0.5)
nodes = [helper.make_node("Flatten", ["x"], ["a"]), helper.make_node("MatMul", ["a", "v"], ["b"])]
nodes += [helper.make_node("MatMul", ["b", "w"], ["c"]), helper.make_node("Tanh", ["c"], ["y"])]
inputs = [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 3, 8, 8])]
outputs = [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", width])]
weights = [numpy_helper.from_array(draw(192, width), "v"), numpy_helper.from_array(draw(width, width), "w")]
graph = helper.make_graph(nodes, "g", inputs, outputs, weights)
model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
del weights, graph
size = model.ByteSize()
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
light = LightGraph.of(model)
added = with_gradient(light, "cosine")
print(verify(runner_gradient(added), light, "cosine", random.standard_normal((3, 3, 8, 8), np.float32)))
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 - before) / size)
"""


def test_making_a_gradient_takes_the_memory_of_few_copies_of_the_weights() -> None:
    done = subprocess.run([sys.executable, "-c", MEMORY], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    said, copies = done.stdout.splitlines()
    assert said.startswith("agrees")
    assert float(copies) < 5  # it was 6.3 when the graph was changed with its weights inside
