"""Small models for the tests of the export. `python -m export --module tests.export_models:build` finds them too."""

import numpy as np
import onnx
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import Tensor, nn

SIZE = 32


class ConvNet(nn.Module):
    """Two convolutions, the first with a batch normalisation whose statistics are not trivial: (N, 3, H, W) -> (N, 5)."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.conv = nn.Conv2d(3, 8, 5, 4, 2, bias=False)
        self.bn = nn.BatchNorm2d(8)
        self.second = nn.Conv2d(8, 6, 3, 2, 1)
        self.fc = nn.Linear(6, 5)
        with torch.no_grad():
            self.bn.weight.uniform_(0.5, 2)
            self.bn.bias.uniform_(-1, 1)
            self.bn.running_mean.uniform_(-1, 1)
            self.bn.running_var.uniform_(0.5, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(torch.relu(self.second(torch.relu(self.bn(self.conv(x))))).mean((2, 3)))


class LastNet(ConvNet):
    """The same for (N, H, W, 3)."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.permute(0, 3, 1, 2))


class MapNet(nn.Module):
    """Activation maps of 4 attributes: (N, 3, H, W) -> (N, 4, H / 8, W / 8)."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.conv = nn.Conv2d(3, 8, 5, 4, 2)
        self.head = nn.Conv2d(8, 4, 3, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.relu(self.conv(x)))


class TracedOtherwise(ConvNet):
    """Gives something else when it is traced than when it runs."""

    def forward(self, x: Tensor) -> Tensor:
        y = super().forward(x)
        return y * 1.01 if torch.compiler.is_exporting() else y


class AcrossBatch(ConvNet):
    """Its embedding of a picture depends on the other pictures."""

    def forward(self, x: Tensor) -> Tensor:
        y = super().forward(x)
        return y - y.mean(0, keepdim=True) / 2


class Endless(ConvNet):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) / 0


class Undecided(ConvNet):
    """Cannot be exported: the numbers decide which way it goes."""

    def forward(self, x: Tensor) -> Tensor:
        y = super().forward(x)
        return y if y.sum() > 0 else -y


def undecided() -> nn.Module:
    return Undecided()


def build() -> nn.Module:
    return ConvNet()


def maps() -> nn.Module:
    return MapNet()


def broken() -> nn.Module:
    raise RuntimeError("no such network\nin these parts")


def not_a_module() -> str:
    return "ConvNet"


def constant(name: str, values: object) -> onnx.TensorProto:
    array = np.asarray(values)
    return numpy_helper.from_array(array.astype(np.int64 if array.dtype.kind == "i" else np.float32), name)


def write_onnx(path, nodes, outputs, initializers, input_shape=(1, 3, SIZE, SIZE), inputs=("picture",), opset=17):
    """nodes: onnx nodes; outputs: name -> shape; saved at `path`, which is returned."""
    graph = helper.make_graph(
        nodes,
        "test",
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, input_shape) for name in inputs],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in outputs.items()],
        initializers,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)
    onnx.checker.check_model(model)
    onnx.save(model, path)
    return path


def conv_weights(outputs=4, inputs=3, seed=0):
    return np.random.default_rng(seed).normal(size=(outputs, inputs, 8, 8)).astype(np.float32) / 10


def conv_node(name="conv", source="picture", target="features", weights="w"):
    """(n, 3, 32, 32) -> (n, 4, 4, 4)"""
    return helper.make_node("Conv", [source, weights], [target], name=name, strides=[8, 8], kernel_shape=[8, 8])
