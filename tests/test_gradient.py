"""Gradient graphs: every rule against differences in float64, whole networks against torch, and clear refusals."""

import re
import shutil
import subprocess
import sys
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
import torch
from export_models import SIZE, ConvNet, LastNet, constant, conv_node, conv_weights, write_onnx
from onnx import NodeProto, TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator
from torch import nn
from torch.nn import functional as F

from engine.bundle import checksums, load_bundle
from engine.errors import BundleError, OptionError
from engine.pictures.preprocessing import Preprocessing
from engine.runtime.gradient_session import GRADIENT_OUTPUT, SIMILARITY_OUTPUT, TARGET_INPUT, WEIGHTS_INPUT
from engine.runtime.opening import open_gradient
from engine.saliency.similarity import METRICS
from export import ExportError, OnnxSource, TorchSource, check, export_similarity, graphs
from export.architectures import SimilarityNet
from export.gradient import verify, with_gradient
from export.rules import RULES, Step

SHAPE = (4, 5, 6)
"""Of one picture in the tests of single rules."""
node = helper.make_node
random = np.random.default_rng(0)


def floats(*shape: int, low: float | None = None) -> np.ndarray:
    values = random.normal(size=shape) if low is None else random.uniform(low, low + 1, shape)
    return values.astype(np.float32)


def model_of(
    nodes: Sequence[NodeProto], constants: dict[str, np.ndarray], shape: tuple[int, ...] = SHAPE, opset: int = 20
) -> onnx.ModelProto:
    """x (batch, *shape) -> nodes -> y, flattened to (batch, D)."""
    flat = node("Reshape", ["y", "any_batch"], ["flat"])
    initializers = [numpy_helper.from_array(v, k) for k, v in {**constants, "any_batch": np.array([0, -1])}.items()]
    given = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", *shape])
    graph = helper.make_graph([*nodes, flat], "test", [given], [], initializers)
    probe = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=9)
    width = doubled(probe, np.zeros((1, *shape)) + 0.5).shape[1]
    graph.output.append(helper.make_tensor_value_info("flat", TensorProto.FLOAT, ["batch", width]))
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=9)
    onnx.checker.check_model(model)
    return model


def doubled(model: onnx.ModelProto, x: np.ndarray) -> np.ndarray:
    """What onnx's own evaluator gives in float64."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    copy.graph.input[0].type.tensor_type.elem_type = TensorProto.DOUBLE
    for tensor in copy.graph.initializer:
        array = numpy_helper.to_array(tensor)
        if array.dtype == np.float32:
            tensor.CopyFrom(numpy_helper.from_array(array.astype(np.float64), tensor.name))
    del copy.graph.output[:]
    copy.graph.output.append(helper.make_tensor_value_info("flat", TensorProto.DOUBLE, None))
    (result,) = ReferenceEvaluator(copy).run(None, {"x": x.astype(np.float64)})
    return np.asarray(result)


def run(model: onnx.ModelProto, x: np.ndarray, target: np.ndarray, weights: np.ndarray | None = None) -> list[np.ndarray]:
    """Similarity and gradient."""
    session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    ones = np.ones_like(target) if weights is None else weights
    feeds = {session.get_inputs()[0].name: x, TARGET_INPUT: target, WEIGHTS_INPUT: ones}
    return [np.asarray(a) for a in session.run([SIMILARITY_OUTPUT, GRADIENT_OUTPUT], feeds)]


def agree(model: onnx.ModelProto, low: float | None, step: float, tolerance: float) -> None:
    """The gradient of <y, v> by every entry of x, against differences of onnx's own evaluator in float64."""
    shape, batch = SHAPE, 3
    x = floats(batch, *shape, low=low)
    v = floats(batch, model.graph.output[0].type.tensor_type.shape.dim[1].dim_value)
    got = run(with_gradient(model, "dot"), x, v)[1]
    count = int(np.prod(shape))
    moves = step * np.eye(count).reshape(count, *shape)
    for i in range(batch):
        around = doubled(model, np.concatenate([x[i] + moves, x[i] - moves]))
        expected = ((around[:count] - around[count:]) @ v[i] / (2 * step)).reshape(shape)
        np.testing.assert_allclose(got[i], expected, atol=tolerance * max(np.abs(expected).max(), 1), rtol=0)


def entrywise(
    kind: str, low: float | None = None, **attributes: Any
) -> tuple[str, Callable[[], onnx.ModelProto], float | None]:
    return kind, lambda: model_of([node(kind, ["x"], ["y"], **attributes)], {}), low


def with_constants(
    kind: str, *values: np.ndarray | None, low: float | None = None, outputs: int = 1, first: bool = False, **attributes: Any
) -> tuple[str, Callable[[], onnx.ModelProto], float | None]:
    """x and constants; first: x comes after the first constant. None: an input left out."""
    names = ["" if v is None else f"c{i}" for i, v in enumerate(values)]
    inputs = [*names[:1], "x", *names[1:]] if first else ["x", *names]
    constants = {n: v for n, v in zip(names, values, strict=True) if v is not None}
    return kind, lambda: model_of([node(kind, inputs, ["y"], **attributes)], constants), low


def several(
    kind: str, nodes: Sequence[NodeProto], low: float | None = None, **constants: np.ndarray
) -> tuple[str, Callable[[], onnx.ModelProto], float | None]:
    return kind, lambda: model_of(nodes, constants), low


def integers(*values: int) -> np.ndarray:
    return np.array(values, np.int64)


HALVES = node("Split", ["x"], ["a", "b"], axis=1, num_outputs=2)
CASES = [
    *(entrywise(k) for k in ("Identity", "Neg", "Abs", "Exp", "Erf", "Tanh", "Sigmoid", "Softplus", "Relu", "HardSwish")),
    *(entrywise(k, low=0.5) for k in ("Log", "Sqrt", "Reciprocal")),
    entrywise("Dropout"),
    entrywise("LeakyRelu", alpha=0.3),
    entrywise("LeakyRelu"),
    entrywise("Elu", alpha=0.7),
    entrywise("HardSigmoid", alpha=0.5, beta=0.4),
    entrywise("Gelu"),
    entrywise("Gelu", approximate="tanh"),
    with_constants("PRelu", floats(4, 1, 1)),
    with_constants("Clip", np.float32(-0.4), np.float32(0.6)),
    with_constants("Clip", None, np.float32(0.6)),
    with_constants("Clip", np.float32(0.1)),
    with_constants("Pow", np.float32(2)),
    with_constants("Pow", np.float32(0.4), low=0.5),
    with_constants("Add", floats(4, 1, 6)),
    with_constants("Sub", floats(5, 1)),
    with_constants("Sub", floats(5, 1), first=True),
    with_constants("Mul", floats(6)),
    with_constants("Div", floats(4, 1, 1, low=1)),
    with_constants("Div", floats(2, 4, 5, 6)[0], first=True, low=1),
    several("Mul", [HALVES, node("Mul", ["a", "b"], ["y"])]),
    several("Mul", [node("ReduceMean", ["x", "axes"], ["m"]), node("Mul", ["x", "m"], ["y"])], axes=integers(2, 3)),
    several("Div", [HALVES, node("Div", ["a", "b"], ["y"])], low=1),
    several("Sum", [HALVES, node("Sum", ["a", "b", "c"], ["y"])], c=floats(2, 5, 6)),
    several("Max", [HALVES, node("Max", ["a", "b"], ["y"])]),
    several("Min", [HALVES, node("Min", ["a", "b", "c"], ["y"])], c=floats(1, 6)),
    several("Where", [HALVES, node("Greater", ["a", "b"], ["c"]), node("Where", ["c", "a", "b"], ["y"])]),
    with_constants("Reshape", integers(0, 2, -1)),
    entrywise("Flatten"),
    several("Squeeze", [node("Unsqueeze", ["x", "axes"], ["u"]), node("Squeeze", ["u", "axes"], ["y"])], axes=integers(2)),
    several("Unsqueeze", [node("Unsqueeze", ["x", "axes"], ["y"])], axes=integers(1, 4)),
    several(
        "Expand",
        [node("ReduceSum", ["x", "axes"], ["s"]), node("Expand", ["s", "shape"], ["y"])],
        axes=integers(1),
        shape=integers(1, 3, 5, 6),
    ),
    entrywise("Transpose", perm=[0, 2, 3, 1]),
    several("Concat", [HALVES, node("Concat", ["b", "x", "a"], ["y"], axis=-3)]),
    several("Split", [node("Split", ["x", "sizes"], ["a", "y", "b"], axis=3)], sizes=integers(1, 3, 2)),
    with_constants("Slice", integers(1, -4), integers(3, 100), integers(1, 3)),
    with_constants("Slice", integers(0, 5), integers(5, -100), integers(2, 3), integers(2, -2)),
    with_constants("Gather", integers(2, 0, 0, -1), axis=2),
    with_constants("Gather", np.array(-1), axis=1),
    with_constants("Pad", integers(0, 0, 1, 0, 0, 2, 0, 3)),
    with_constants("Pad", integers(1, 2, 2, 1), None, integers(2, 3), mode="reflect"),
    with_constants("Pad", integers(0, 2, 1, 0), None, integers(2, 3), mode="edge"),
    with_constants("ReduceSum", integers(1, 2), keepdims=0),
    with_constants("ReduceMean", integers(-1), keepdims=1),
    with_constants("ReduceL2", integers(1), keepdims=0),
    with_constants("ReduceMax", integers(2, 3)),
    with_constants("ReduceSumSquare", integers(2), keepdims=0),
    several("Cast", [node("Cast", ["x"], ["d"], to=TensorProto.DOUBLE), node("Cast", ["d"], ["y"], to=TensorProto.FLOAT)]),
    several(
        "Slice", [node("Slice", ["x", "s", "e", "a"], ["y"])], s=integers(0, 1), e=integers(2**31 - 1, 3), a=integers(0, 1)
    ),
    entrywise("GlobalAveragePool"),
    entrywise("Softmax", axis=1),
    entrywise("Softmax"),
    with_constants("LayerNormalization", floats(5, 6), floats(5, 6), axis=2),
    with_constants("LayerNormalization", floats(6), epsilon=0.1),
    with_constants("BatchNormalization", floats(4), floats(4), floats(4), floats(4, low=0.5), epsilon=0.01),
    with_constants("MatMul", floats(6, 3)),
    with_constants("MatMul", floats(1, 4, 3, 5), first=True),
    several("MatMul", [node("Transpose", ["x"], ["t"], perm=[0, 1, 3, 2]), node("MatMul", ["x", "t"], ["y"])]),
    several(
        "MatMul",
        [node("ReduceMean", ["x", "axes"], ["m"]), node("MatMul", ["m", "c"], ["y"])],
        axes=integers(1),
        c=floats(1, 3, 6, 2),
    ),
    several(
        "Gemm",
        [node("Flatten", ["x"], ["f"]), node("Gemm", ["f", "c", "d"], ["y"], alpha=0.5)],
        c=floats(120, 3),
        d=floats(3),
    ),
    several("Gemm", [node("Flatten", ["x"], ["f"]), node("Gemm", ["f", "c"], ["y"], transB=1)], c=floats(3, 120)),
    with_constants("Conv", floats(6, 4, 3, 3), floats(6), pads=[1, 1, 1, 1]),
    with_constants("Conv", floats(6, 4, 3, 3), strides=[2, 2]),
    with_constants("Conv", floats(6, 4, 2, 3), strides=[3, 1], pads=[0, 2, 1, 0]),
    with_constants("Conv", floats(8, 2, 3, 3), group=2, pads=[1, 1, 1, 1]),
    with_constants("Conv", floats(4, 1, 3, 3), group=4, dilations=[2, 2], pads=[2, 2, 2, 2]),
    with_constants("Conv", floats(4, 1, 3, 3), group=4, strides=[2, 2], pads=[1, 1, 1, 1]),
    with_constants("Conv", floats(3, 4, 1, 1), strides=[2, 2]),
    with_constants("Conv", floats(3, 4, 3, 3), pads=[4, 3, 4, 3]),
    with_constants("Conv", floats(3, 4, 2, 2), strides=[2, 2], auto_pad="SAME_UPPER"),
    with_constants("Conv", floats(3, 4, 3, 3), auto_pad="SAME_LOWER"),
    with_constants("ConvTranspose", floats(4, 3, 3, 3), strides=[2, 2], pads=[1, 1, 1, 1], output_padding=[1, 0]),
    with_constants("ConvTranspose", floats(4, 2, 2, 2), dilations=[2, 1]),
    entrywise("AveragePool", kernel_shape=[2, 3], strides=[2, 1], pads=[1, 0, 0, 1]),
    entrywise("AveragePool", kernel_shape=[3, 3], pads=[1, 1, 1, 1], count_include_pad=1),
    entrywise("AveragePool", kernel_shape=[5, 6]),
    entrywise("MaxPool", kernel_shape=[3, 3], strides=[2, 2], pads=[1, 1, 1, 1]),
    entrywise("MaxPool", kernel_shape=[2, 2], strides=[2, 2], ceil_mode=1),
]


@pytest.mark.parametrize(("kind", "build", "low"), CASES, ids=[f"{k}-{i}" for i, (k, _, _) in enumerate(CASES)])
def test_a_rule(kind: str, build: Callable[[], onnx.ModelProto], low: float | None) -> None:
    model = build()
    assert kind in {n.op_type for n in model.graph.node}
    # onnx's evaluator computes these in float32
    agree(model, low, *((1e-2, 3e-4) if kind in ("Cast", "Erf", "Gelu") else (1e-6, 2e-5)))


def test_every_rule_has_a_case() -> None:
    assert set(RULES) == {kind for kind, _, _ in CASES}


def test_of_equal_pixels_max_pooling_takes_the_first_as_torch_does() -> None:
    x = np.round(np.random.default_rng(1).normal(size=(2, *SHAPE))).astype(np.float32)  # many are equal
    model = model_of([node("MaxPool", ["x"], ["y"], kernel_shape=[3, 3], strides=[2, 2], pads=[1, 1, 1, 1])], {})
    v = floats(2, model.graph.output[0].type.tensor_type.shape.dim[1].dim_value)
    leaf = torch.from_numpy(x).requires_grad_(True)
    (F.max_pool2d(leaf, 3, 2, 1).flatten(1) * torch.from_numpy(v)).sum().backward()
    assert leaf.grad is not None
    np.testing.assert_allclose(run(with_gradient(model, "dot"), x, v)[1], leaf.grad.numpy(), atol=1e-6)


class Vit(nn.Module):
    """A small vision transformer with a class token: (N, 3, 32, 32) -> (N, 24)."""

    def __init__(self) -> None:
        super().__init__()
        self.patches, self.token = nn.Conv2d(3, 32, 8, 8), nn.Parameter(torch.randn(1, 1, 32))
        self.place, self.norm = nn.Parameter(torch.randn(1, 17, 32)), nn.LayerNorm(32)
        self.qkv, self.out = nn.Linear(32, 96), nn.Linear(32, 32)
        self.up, self.down, self.head = nn.Linear(32, 64), nn.Linear(64, 32), nn.Linear(32, 24)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        n = x.shape[0]
        t = torch.cat([self.token.expand(n, -1, -1), self.patches(x).flatten(2).transpose(1, 2)], 1) + self.place
        q, k, v = self.qkv(self.norm(t)).view(n, 17, 3, 2, 16).permute(2, 0, 3, 1, 4)
        t = t + self.out(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(n, 17, 32))
        return self.head((t + self.down(F.gelu(self.up(self.norm(t)))))[:, 0])


class Inverted(nn.Module):
    """What MobileNetV2 and EfficientNet are made of: inverted residual, squeeze and excite: (N, 3, 32, 32) -> (N, 10)."""

    def __init__(self, act: Callable[[torch.Tensor], torch.Tensor]) -> None:
        super().__init__()
        self.act = act
        self.stem, self.expand = nn.Conv2d(3, 8, 3, 2, 1), nn.Conv2d(8, 24, 1)
        self.deep, self.bn = nn.Conv2d(24, 24, 3, 1, 1, groups=24, bias=False), nn.BatchNorm2d(24)
        self.squeeze, self.excite, self.project = nn.Conv2d(24, 4, 1), nn.Conv2d(4, 24, 1), nn.Conv2d(24, 8, 1)
        self.deep2, self.head = nn.Conv2d(8, 8, 5, 2, 2, groups=8), nn.Linear(8, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.act(self.stem(x))
        y = self.act(self.bn(self.deep(self.act(self.expand(x)))))
        y = y * torch.sigmoid(self.excite(self.act(self.squeeze(F.adaptive_avg_pool2d(y, 1)))))
        x = self.deep2(x + self.project(y))
        return F.normalize(self.head(F.adaptive_avg_pool2d(x, 1).flatten(1)))


TORCH: dict[str, Callable[[torch.Tensor, torch.Tensor], torch.Tensor]] = {
    "cosine": F.cosine_similarity,
    "dot": lambda a, b: (a * b).sum(1),
    "euclidean": lambda a, b: -(a - b).square().sum(1),
}
NETWORKS: dict[str, tuple[Callable[[], nn.Module], int]] = {
    "ResNet-18 to layer3": (lambda: SimilarityNet(16, 24), 64),
    "MobileNetV2": (lambda: Inverted(F.relu6), 32),
    "EfficientNet": (lambda: Inverted(F.silu), 32),
    "ViT": (Vit, 32),
}


def compared(got: np.ndarray, exact: np.ndarray) -> None:
    """float64 tells which of two float32 gradients is off; where a ReLU's input rounds to either side of 0, neither is."""
    off = np.abs(got - exact).max((1, 2, 3)) / np.abs(exact).max((1, 2, 3))
    assert np.median(off) <= 1e-5
    assert (off <= 1e-5).mean() >= 0.8, off
    assert off.max() <= 5e-2, off


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("name", NETWORKS)
def test_networks_give_torchs_gradients(name: str, metric: str) -> None:
    torch.manual_seed(0)
    build, size = NETWORKS[name]
    network = build()
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.1)
            module.running_var.uniform_(0.5, 2)
    network.eval()
    made = graphs.make(TorchSource(network), Preprocessing(size, size), "embedding", (None,))
    graph = with_gradient(onnx.load_from_string(made.content), metric)
    network.double()
    for batch in (1, 7):
        x, target = floats(batch, 3, size, size), floats(batch, *made.shape)
        weights = floats(batch, *made.shape, low=0.5)
        leaf = torch.from_numpy(x).double().requires_grad_(True)
        a, b = network(leaf) * torch.from_numpy(weights), torch.from_numpy(target * weights).double()
        similarity = TORCH[metric](a, b)
        (exact,) = torch.autograd.grad(similarity.sum(), leaf)
        got_similarity, got = run(graph, x, target, weights)
        np.testing.assert_allclose(got_similarity, similarity.detach().numpy(), rtol=1e-4, atol=1e-4)
        compared(got, exact.numpy())


def test_a_graph_of_an_older_opset_serves_too(tmp_path: Path) -> None:
    half = node("Constant", [], ["half"], value=numpy_helper.from_array(np.float32(0.5)))
    mean = node("ReduceMean", ["features"], ["m"], axes=[2, 3], keepdims=0)
    nodes = [conv_node(), mean, half, node("Mul", ["m", "half"], ["y"])]
    path = write_onnx(tmp_path / "old.onnx", nodes, {"y": (1, 4)}, [constant("w", conv_weights())], opset=11)
    out = export_similarity(OnnxSource(path), Preprocessing(SIZE, SIZE), tmp_path / "bundle", gradient=True)
    assert "gradient, fp32" in check(out)


def test_transformers_of_the_older_exporter_serve_too(tmp_path: Path) -> None:
    """Their attention takes its scale from the shape of a tensor: numbers that no picture changes."""
    torch.manual_seed(0)
    network = Vit().eval()
    file = tmp_path / "vit.onnx"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        options: dict[str, Any] = {"input_names": ["image"], "output_names": ["embedding"]}
        options |= {"dynamic_axes": {"image": {0: "n"}}, "dynamo": False, "opset_version": 14}
        torch.onnx.export(network, (torch.randn(2, 3, 32, 32),), file, **options)
    out = export_similarity(OnnxSource(file), Preprocessing(32, 32), tmp_path / "bundle", gradient=True)
    loaded = load_bundle(out)
    session = open_gradient(loaded, next(g for g in loaded.manifest.graphs if g.role == "gradient"), "cpu", 1)
    x, target = floats(3, 3, 32, 32), floats(3, 24)
    leaf = torch.from_numpy(x).double().requires_grad_(True)
    F.cosine_similarity(network.double()(leaf), torch.from_numpy(target).double()).sum().backward()
    assert leaf.grad is not None
    compared(session.run(x, target, np.ones_like(target))[1], leaf.grad.numpy())


def test_max_pooling_that_numbers_by_columns_is_refused() -> None:
    model = model_of([node("MaxPool", ["x"], ["y"], kernel_shape=[2, 2], storage_order=1)], {})
    with pytest.raises(ExportError, match="by columns"):
        with_gradient(model, "dot")


def test_an_operator_without_a_rule_is_named() -> None:
    model = model_of([node("Sin", ["x"], ["y"], name="wave")], {})
    with pytest.raises(ExportError, match=r"'wave' is a Sin, whose derivative is not known.*--gradient"):
        with_gradient(model, "dot")
    model = model_of([node("Gather", ["x", "rows"], ["y"], name="pick", axis=1)], {"rows": np.zeros((2, 2), np.int64)})
    with pytest.raises(ExportError, match=r"'pick' \(Gather\).*more than one dimension"):
        with_gradient(model, "dot")
    model = model_of([node("Relu", ["x"], [TARGET_INPUT]), node("Neg", [TARGET_INPUT], ["y"])], {})
    with pytest.raises(ExportError, match="already uses"):
        with_gradient(model, "dot")


def test_a_wrong_gradient_does_not_pass(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def wrong(n: Step) -> list[Any]:
        return [n.g * 2.0]

    monkeypatch.setitem(RULES, "Relu", wrong)
    with pytest.raises(ExportError, match="does not change as its gradient says"):
        export_similarity(TorchSource(ConvNet().eval()), Preprocessing(SIZE, SIZE), tmp_path / "b", gradient=True)
    assert not list(tmp_path.iterdir())


def test_a_gradient_that_mixes_pictures_does_not_pass() -> None:
    graph = with_gradient(model_of([node("Sigmoid", ["x"], ["y"])], {}), "dot")
    x = floats(3, *SHAPE)
    verify(graph, x)
    last = graph.graph.node[-1]
    mean = node("ReduceMean", [last.input[0], "gradient/first"], ["mixed"], keepdims=1)
    spread = node("Add", [last.input[0], "mixed"], ["spread"])
    graph.graph.initializer.append(numpy_helper.from_array(integers(0), "gradient/first"))
    last.input[0] = "spread"
    del graph.graph.node[-1]
    graph.graph.node.extend([mean, spread, node("Identity", ["spread"], [GRADIENT_OUTPUT])])
    with pytest.raises(ExportError, match="batch"):
        verify(graph, x)


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The last axis holds the channels. Not to be changed."""
    out = tmp_path_factory.mktemp("gradient") / "last"
    return export_similarity(
        TorchSource(LastNet().eval()), Preprocessing(SIZE, 40, layout="nhwc"), out, metric="euclidean", gradient=True
    )


def test_the_bundle_says_so_and_the_model_stays_the_same(exported: Path, tmp_path: Path) -> None:
    loaded = load_bundle(exported)
    (graph,) = (g for g in loaded.manifest.graphs if g.role == "gradient")
    assert (graph.file, graph.input, graph.output) == ("gradient.fp32.onnx", "image", "embedding")
    assert "gradient.fp32.onnx: gradient, fp32, opset 18; gives its canonical result on cpu" in check(exported)
    plain = Preprocessing(SIZE, 40, layout="nhwc")
    bare = export_similarity(TorchSource(LastNet().eval()), plain, tmp_path / "bare", metric="euclidean")
    assert load_bundle(bare).identity == loaded.identity
    session = open_gradient(loaded, graph, "cpu", 1)
    pictures, target = floats(2, SIZE, 40, 3), floats(2, 5)
    similarity, gradient = session.run(pictures, target, np.ones_like(target))
    leaf = torch.from_numpy(pictures).requires_grad_(True)
    expected = -(LastNet().eval()(leaf) - torch.from_numpy(target)).square().sum(1)
    expected.sum().backward()
    assert leaf.grad is not None
    np.testing.assert_allclose(similarity, expected.detach().numpy(), rtol=1e-5)
    np.testing.assert_allclose(gradient, leaf.grad.numpy(), atol=1e-4 * float(leaf.grad.abs().max()))


def test_a_gradient_graph_of_another_model_is_refused(exported: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(exported, tmp_path / "copy"))
    model = onnx.load(copy / "gradient.fp32.onnx")
    weights = next(t for t in model.graph.initializer if len(t.dims) == 4)
    weights.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(weights)[::-1].copy(), weights.name))
    onnx.save(model, copy / "gradient.fp32.onnx")
    (copy / "SHA256SUMS").write_text(checksums(copy))
    with pytest.raises(BundleError, match="canonical"):
        check(copy)


@pytest.mark.parametrize("factor", [0.0, -1.0])
def test_a_wrong_gradient_beside_a_right_similarity_is_refused(exported: Path, tmp_path: Path, factor: float) -> None:
    copy = Path(shutil.copytree(exported, tmp_path / "copy"))
    model = onnx.load(copy / "gradient.fp32.onnx")
    last = next(n for n in model.graph.node if n.output[0] == GRADIENT_OUTPUT)
    model.graph.initializer.append(numpy_helper.from_array(np.float32(factor), "factor"))
    model.graph.node.append(node("Mul", [last.input[0], "factor"], [GRADIENT_OUTPUT]))
    model.graph.node.remove(last)
    onnx.save(model, copy / "gradient.fp32.onnx")
    (copy / "SHA256SUMS").write_text(checksums(copy))
    with pytest.raises(BundleError, match="canonical"):
        check(copy)


def test_the_command_adds_it(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "export", "similarity", "--module", "tests.export_models:build", "--size", "32"]
    command += ["--gradient", "--out", str(tmp_path / "b")]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=Path(__file__).parent.parent)
    assert done.returncode == 0, done.stderr
    assert re.search("gradient.fp32.onnx", check(tmp_path / "b"))


def test_an_unknown_metric_is_refused(tmp_path: Path) -> None:
    with pytest.raises(OptionError):
        export_similarity(TorchSource(ConvNet()), Preprocessing(SIZE, SIZE), tmp_path / "b", metric="angle", gradient=True)
