"""Gradient graphs of whole networks against torch, and in bundles."""

import re
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from export_models import SIZE, ConvNet, LastNet, constant, conv_node, conv_weights, write_onnx
from gradient_graphs import Vit, compared, floats, node, run
from helpers import ROOT, copy_bundle, python, seal
from onnx import numpy_helper
from torch import nn
from torch.nn import functional as F

from engine.bundle import load_bundle
from engine.errors import BundleError, OptionError
from engine.pictures.preprocessing import Preprocessing
from engine.runtime.gradient_session import GRADIENT_OUTPUT
from engine.runtime.opening import open_gradient
from engine.saliency.similarity import METRICS
from export import OnnxSource, TorchSource, check, export_similarity, graphs
from export.architectures import SimilarityNet
from export.commands import main
from export.gradient import with_gradient
from export.light_graph import LightGraph
from export.rules import RULES, Step


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
    graph = with_gradient(LightGraph.of(made.model), metric)
    network.double()
    random = np.random.default_rng(0)
    for batch in (1, 7):
        x, target = floats(random, batch, 3, size, size), floats(random, batch, *made.shape)
        weights = floats(random, batch, *made.shape, low=0.5)
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
    random = np.random.default_rng(0)
    x, target = floats(random, 3, 3, 32, 32), floats(random, 3, 24)
    leaf = torch.from_numpy(x).double().requires_grad_(True)
    F.cosine_similarity(network.double()(leaf), torch.from_numpy(target).double()).sum().backward()
    assert leaf.grad is not None
    compared(session.run(x, target, np.ones_like(target))[1], leaf.grad.numpy())


def test_a_wrong_gradient_costs_the_gradient_not_the_bundle(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    def wrong(n: Step) -> list[Any]:
        return [n.g * 2.0]

    monkeypatch.setitem(RULES, "Relu", wrong)
    arguments = ["similarity", "--module", "tests.export_models:build", "--size", str(SIZE), "--gradient"]
    monkeypatch.chdir(ROOT)
    assert main([*arguments, "--out", str(tmp_path / "b")]) == 0
    told = capfd.readouterr()
    assert "wrote" in told.out
    (line,) = told.err.splitlines()
    assert re.match(
        "warning: the bundle is written without its gradient.*does not change as its gradient says: off by", line
    )
    assert "gradient" not in check(tmp_path / "b")
    assert not list((tmp_path / "b").glob("gradient*"))


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
    random = np.random.default_rng(0)
    pictures, target = floats(random, 2, SIZE, 40, 3), floats(random, 2, 5)
    similarity, gradient = session.run(pictures, target, np.ones_like(target))
    leaf = torch.from_numpy(pictures).requires_grad_(True)
    expected = -(LastNet().eval()(leaf) - torch.from_numpy(target)).square().sum(1)
    expected.sum().backward()
    assert leaf.grad is not None
    np.testing.assert_allclose(similarity, expected.detach().numpy(), rtol=1e-5)
    np.testing.assert_allclose(gradient, leaf.grad.numpy(), atol=1e-4 * float(leaf.grad.abs().max()))


def test_a_gradient_graph_of_another_model_is_refused(exported: Path, tmp_path: Path) -> None:
    copy = copy_bundle(exported, tmp_path / "copy")
    model = onnx.load(copy / "gradient.fp32.onnx")
    weights = next(t for t in model.graph.initializer if len(t.dims) == 4)
    weights.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(weights)[::-1].copy(), weights.name))
    onnx.save(model, copy / "gradient.fp32.onnx")
    seal(copy)
    with pytest.raises(BundleError, match="canonical"):
        check(copy)


@pytest.mark.parametrize("factor", [0.0, -1.0])
def test_a_wrong_gradient_beside_a_right_similarity_is_refused(exported: Path, tmp_path: Path, factor: float) -> None:
    copy = copy_bundle(exported, tmp_path / "copy")
    model = onnx.load(copy / "gradient.fp32.onnx")
    last = next(n for n in model.graph.node if n.output[0] == GRADIENT_OUTPUT)
    model.graph.initializer.append(numpy_helper.from_array(np.float32(factor), "factor"))
    model.graph.node.append(node("Mul", [last.input[0], "factor"], [GRADIENT_OUTPUT]))
    model.graph.node.remove(last)
    onnx.save(model, copy / "gradient.fp32.onnx")
    seal(copy)
    with pytest.raises(BundleError, match="canonical"):
        check(copy)


def test_the_command_adds_it(tmp_path: Path) -> None:
    given = ["--module", "tests.export_models:build", "--size", "32", "--gradient", "--out", tmp_path / "b"]
    done = python("-m", "export", "similarity", *given, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    assert re.search("gradient.fp32.onnx", check(tmp_path / "b"))


def test_an_unknown_metric_is_refused(tmp_path: Path) -> None:
    with pytest.raises(OptionError):
        export_similarity(TorchSource(ConvNet()), Preprocessing(SIZE, SIZE), tmp_path / "b", metric="angle", gradient=True)
