"""The model of the cost: the work is counted correctly, and the predictions follow from it."""

from pathlib import Path

import numpy as np
import onnx
import pytest
from export_models import ConvNet, constant, conv_node, conv_weights, write_onnx
from onnx import helper

from benchmarks import roofline
from benchmarks.cards import GPUS, LAUNCH, LEAST, MOST
from benchmarks.resnet50 import resnet50
from benchmarks.roofline import BATCH, Layer, counted, predicted, reached, stages
from engine.pictures.preprocessing import Preprocessing
from export import TorchSource, export_similarity

T4, A100, H100 = GPUS


@pytest.fixture(scope="module")
def reference() -> roofline.Network:
    return counted(resnet50())


def convolution(folder: Path) -> onnx.ModelProto:
    """(1, 3, 32, 32) -> relu of a convolution of 8 x 8 with stride 8 -> (1, 4, 4, 4)"""
    nodes = [conv_node(), helper.make_node("Relu", ["features"], ["y"])]
    path = write_onnx(folder / "conv.onnx", nodes, {"y": (1, 4, 4, 4)}, [constant("w", conv_weights())])
    return onnx.load(path)


def test_a_convolution_is_counted(tmp_path: Path) -> None:
    network = counted(convolution(tmp_path))
    (layer,) = network.layers
    # 64 results of 3 * 8 * 8 products; the picture is read as float32, the result written as the precision has it
    assert layer == Layer("conv", 64 * 192, moved=64, whole=3 * 32 * 32, weights=4 * 192)
    assert (network.pixels, network.embedding) == (3072, 64)
    assert network.bytes("fp16", 10) == 2 * (64 * 10 + 768) + 4 * 3072 * 10
    assert network.bytes("fp32", 1) == 4 * (64 + 768 + 3072)


def test_another_size_is_counted(tmp_path: Path) -> None:
    model = convolution(tmp_path)
    assert counted(model, 64).multiplications == 4 * counted(model).multiplications
    assert counted(model).multiplications == 64 * 192  # and the graph stays as it was
    nodes = [helper.make_node("Flatten", ["picture"], ["flat"]), helper.make_node("MatMul", ["flat", "a"], ["y"])]
    weights = [constant("a", np.zeros((3072, 2), np.float32))]
    bound = onnx.load(write_onnx(tmp_path / "bound.onnx", nodes, {"y": (1, 2)}, weights))
    assert counted(bound, 32).embedding == 2
    with pytest.raises(ValueError, match="no pictures of this size"):
        counted(bound, 64)


def test_matrix_products_and_additions_are_counted(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("Flatten", ["picture"], ["flat"]),
        helper.make_node("Gemm", ["flat", "a", "bias"], ["g"], name="gemm", transB=1),
        helper.make_node("MatMul", ["g", "b"], ["m"], name="matmul"),
        helper.make_node("Relu", ["m"], ["r"], name="relu"),
        helper.make_node("Add", ["m", "r"], ["y"], name="add"),
        helper.make_node("Softmax", ["y"], ["z"], name="softmax"),
    ]
    weights = [constant(n, np.zeros(s, np.float32)) for n, s in (("a", (7, 48)), ("bias", (7,)), ("b", (7, 5)))]
    path = write_onnx(tmp_path / "m.onnx", nodes, {"z": (1, 5)}, weights, input_shape=(1, 3, 4, 4))
    layers = {layer.name: layer for layer in counted(onnx.load(path)).layers}
    assert layers.keys() == {"gemm", "matmul", "add", "softmax"}
    assert layers["gemm"] == Layer("gemm", 7 * 48, moved=48 + 7, whole=0, weights=7 * 48 + 7)
    assert layers["matmul"].multiplications == 35
    assert layers["add"] == Layer("add", 0, moved=5, whole=0, weights=0, launches=0)  # one of two was just computed
    assert layers["softmax"] == Layer("softmax", 0, moved=5, whole=5, weights=0)


def test_resnet_50_is_4_1_billion_multiplications(reference: roofline.Network) -> None:
    assert reference.multiplications == pytest.approx(4.1e9, rel=0.03)
    assert sum(layer.weights for layer in reference.layers) == pytest.approx(25.5e6, rel=0.01)
    assert reference.pixels == 3 * 224 * 224


def test_an_exported_network_is_counted(tmp_path: Path) -> None:
    """Whatever nodes the export writes: two convolutions and a linear layer."""
    out = export_similarity(TorchSource(ConvNet().eval()), Preprocessing(32, 32), tmp_path / "bundle")
    network = counted(roofline.similarity_graph(out))
    assert network.multiplications == 64 * 8 * 75 + 16 * 6 * 72 + 30
    assert network.embedding == 5


def test_a_layer_takes_its_arithmetic_or_its_bytes_or_a_launch() -> None:
    def seconds(*layer: int) -> float:
        return roofline.Network((Layer("x", *layer),), 1, 1).seconds(A100, "fp16", 10)

    assert seconds(10**12, 1, 0, 0) == pytest.approx(2e13 / 312e12)
    assert seconds(1, 10**9, 0, 5) == pytest.approx(2 * (10**10 + 5) / 2039e9)
    assert seconds(1, 0, 10**9, 0) == pytest.approx(4e10 / 2039e9)
    assert seconds(1, 1, 0, 0) == LAUNCH


def test_bytes_of_a_pair(reference: roofline.Network) -> None:
    masks, network, embeddings = stages(reference, A100, "fp16", 300)
    assert masks.bytes == 4 * 2 * BATCH * 3 * 224 * 224  # two whole batches
    assert embeddings.bytes == 4 * 302 * 1000
    assert network.bytes == 2 * reference.bytes("fp16", BATCH) + reference.bytes("fp16", 2)


def test_more_masks_or_a_slower_card_cost_more(reference: roofline.Network) -> None:
    for gpu in GPUS:
        for precision in roofline.BYTES:
            costs = [predicted(reference, gpu, precision, masks, reference) for masks in (1, 256, 257, 512, 2000, 8000)]
            assert costs == sorted(costs)
            assert all(0 < least < most for least, most in costs)
    by_card = [predicted(reference, gpu, "fp16", 512, reference) for gpu in GPUS]
    assert by_card == sorted(by_card, reverse=True)
    by_precision = [predicted(reference, H100, p, 512, reference) for p in ("fp32", "fp16", "int8")]
    assert by_precision == sorted(by_precision, reverse=True)


def test_the_range_is_what_was_published(reference: roofline.Network) -> None:
    for published in (*LEAST, MOST):
        assert 0.05 < reached(published, reference) < 1, "a roofline that was exceeded is no roofline"
    assert max(reached(p, reference) for p in LEAST) < reached(MOST, reference)


def test_the_page_holds_the_table(tmp_path: Path) -> None:
    text = roofline.PAGE.read_text()
    assert text.count(roofline.BEGIN) == text.count(roofline.END) == 1
    told = text.split(roofline.BEGIN)[1].split(roofline.END)[0]
    line = roofline.table([]).splitlines()
    assert line[0] in told, "run python -m benchmarks.roofline again"
    assert line[-1] in told
