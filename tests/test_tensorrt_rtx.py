"""Every graph that is exported for GPUs is parsed and built by TensorRT-RTX, which needs no GPU for it.

It is TensorRT's parser and compiler for RTX cards, not the TensorRT 10 that ONNX Runtime loads: what it refuses is likely to
be refused there, what it builds is not thereby proven to run. It knows compute capabilities 7.5, 8.0, 8.6, 8.9, 12.0 and
12.1, not 9.0 (H100) and 10.0. For 7.5 (T4) it compiles no fp32 matrix product, so only the fp16 graphs are built for that.
"""

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from export_models import LastNet, MapNet
from helpers import write_blurred
from onnx import TensorProto, helper
from torch import Tensor, nn

from benchmarks.networks import VisionTransformer
from engine.attributes.table import AttributeTable
from engine.bundle import load_bundle
from engine.bundle.manifest import Graph
from engine.pictures.preprocessing import Preprocessing
from export import TorchSource, export_attributes, export_quantized, export_similarity
from export.architectures import SimilarityNet
from export.quantize import FP16, INT8_CPU, INT8_GPU

trt = pytest.importorskip("tensorrt_rtx_bindings", reason="needs tensorrt-rtx-cu13-bindings and -libs, see pyproject.toml")

SIZE = 32
CARDS = ("SM80", "SM86", "SM89", "SM120", "SM121")
"""Every compute capability it knows but Turing's."""
BATCHES = (1, 64, 256)
"""Least, usual and largest: the engine's ladder and its small profile."""
KEPT = 3
"""Tokens of a row: of the prefix and of half of the patches."""


class Inverted(nn.Module):
    """An inverted residual block of MobileNetV2: (N, 3, H, W) -> (N, 16)."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = _block(3, 16, 3, 2)
        self.expand, self.depthwise = _block(16, 64, 1), _block(64, 64, 3, groups=64)
        self.project = nn.Sequential(nn.Conv2d(64, 16, 1, bias=False), nn.BatchNorm2d(16))

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        embedding: Tensor = (x + self.project(self.depthwise(self.expand(x)))).mean((2, 3))
        return embedding


def _block(inputs: int, outputs: int, kernel: int, stride: int = 1, groups: int = 1) -> nn.Sequential:
    conv = nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, groups=groups, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(outputs), nn.ReLU6())


def resnet() -> nn.Module:
    return SimilarityNet(width=8, embedding=16, normalise=True)


def vit() -> nn.Module:
    return VisionTransformer(size=SIZE, width=64, blocks=1)


NETWORKS = {"resnet": resnet, "vit": vit, "mobile": Inverted, "nhwc": LastNet}
KNOWN = {("resnet", "gradient.fp32.onnx"): "1 outputs for MaxPool"}
"""What is refused, and why: the gradient of a max pool reads where its maxima were, the second output of that node, which
TensorRT does not have. ONNX Runtime gives such nodes to its CUDA provider (see docs/gpu.md)."""


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A bundle of each network with all its graphs."""
    images = write_blurred(tmp_path_factory.mktemp("images"), 8, SIZE)
    made = {}
    for name, network in NETWORKS.items():
        torch.manual_seed(0)
        layout = "nhwc" if name == "nhwc" else "nchw"
        preprocessing = Preprocessing(SIZE, SIZE, mean=(0.5,) * 3, std=(0.25,) * 3, layout=layout)
        source = TorchSource(network().eval())
        made[name] = export_similarity(source, preprocessing, tmp_path_factory.mktemp("b") / name, gradient=True)
        with pytest.MonkeyPatch.context() as patch:  # no measured time decides whether there is an int8 graph
            patch.setattr("export.graph_trials.speed", lambda *_: 2.0)
            export_quantized(made[name], images, ("cpu", "gpu") if name == "resnet" else ("gpu",))
    table = AttributeTable(("a", "b", "c", "d"), "sigmoid", np.zeros(4, np.float32))
    export_attributes(TorchSource(MapNet().eval()), table, made["resnet"])
    return made


def refusal(model: bytes, cards: tuple[str, ...]) -> str:
    """Why this graph is not built for these cards, in TensorRT's words; empty where it is."""
    recorder = _Recorder()
    builder = trt.Builder(recorder)
    network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    parser = trt.OnnxParser(network, recorder)
    if not parser.parse(model):
        return "; ".join(parser.get_error(i).desc() for i in range(parser.num_errors)) or "not parsed"
    config, profile = builder.create_builder_config(), builder.create_optimization_profile()
    for i in range(network.num_inputs):
        tensor = network.get_input(i)
        profile.set_shape(tensor.name, *(_sizes(tuple(tensor.shape), batch) for batch in BATCHES))
    config.add_optimization_profile(profile)
    config.num_compute_capabilities = len(cards)
    for i, card in enumerate(cards):
        config.set_compute_capability(getattr(trt.ComputeCapability, card), i)
    engine = builder.build_serialized_network(network, config)
    return "" if engine is not None and engine.nbytes else "; ".join(recorder.errors) or "not built"


def _sizes(shape: tuple[int, ...], batch: int) -> tuple[int, ...]:
    """An input's shape at this batch: only its first size, and how many tokens are kept, are open."""
    if shape[0] >= 0:  # one picture's tokens, for all rows
        return shape
    return (batch, *(KEPT if size < 0 else size for size in shape[1:]))


class _Recorder(trt.ILogger):  # type: ignore[misc]  # the bindings have no types
    """Keeps errors instead of printing them."""

    def __init__(self) -> None:
        trt.ILogger.__init__(self)
        self.errors: list[str] = []

    def log(self, severity: Any, message: str) -> None:
        if severity in (trt.ILogger.Severity.ERROR, trt.ILogger.Severity.INTERNAL_ERROR):
            self.errors.append(message)


def graphs(folder: Path) -> list[Graph]:
    """Those that a GPU may run."""
    return [g for g in load_bundle(folder).manifest.graphs if g.target != "cpu"]


@pytest.mark.parametrize("name", NETWORKS)
def test_every_graph_for_gpus_is_built(folders: dict[str, Path], name: str) -> None:
    folder = folders[name]
    found = graphs(folder)
    wanted = {("similarity", p) for p in ("fp32", "fp16", "int8")} | {("gradient", "fp32")}
    more = {"resnet": {("attributes", "fp32")}, "vit": {("stem", "fp32"), ("tokens", "fp32")}}
    assert {(g.role, g.precision) for g in found} == wanted | more.get(name, set())
    refused = {
        g.file: refusal(onnx.load(folder / g.file).SerializeToString(), CARDS) for g in found
    }  # whole: weights may lie beside
    for file, why in refused.items():
        known = KNOWN.get((name, file))
        assert known in why if known else not why, f"{file}: {why or 'is built now: take it out of KNOWN'}"


@pytest.mark.parametrize("name", NETWORKS)
def test_fp16_is_built_for_turing_too(folders: dict[str, Path], name: str) -> None:
    assert not refusal((folders[name] / FP16).read_bytes(), ("SM75",))


def test_what_is_not_for_gpus_is_refused(folders: dict[str, Path]) -> None:
    """The gate closes: int8 as CPUs take it has zero points, and an operator may be unknown."""
    assert "zero point" in refusal((folders["resnet"] / INT8_CPU).read_bytes(), CARDS)
    model = onnx.load(folders["resnet"] / INT8_GPU)
    stranger = helper.make_node("NoSuchOperator", [model.graph.input[0].name], ["y"], domain="my.domain")
    value = helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", 3, SIZE, SIZE])
    graph = helper.make_graph([stranger], "g", model.graph.input, [value])
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("my.domain", 1)]
    assert refusal(helper.make_model(graph, opset_imports=opsets, ir_version=9).SerializeToString(), CARDS)
