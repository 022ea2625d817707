"""Predict what an explanation costs on a GPU, from counted work and published figures. No GPU has run this.

    python -m benchmarks.roofline --bundle DIR [--size N]       # a table for one network; or --network NAME
    python -m benchmarks.roofline                               # write the table of docs/gpu.md: the benchmarks' networks

A pass is one masked picture through the network. Its layers are counted from the fp32 graph: multiplications, and the bytes
read from and written to memory, with pointwise layers fused into the layer before. A layer takes the longer of its
arithmetic at the card's peak and its bytes at the card's bandwidth, and at least the launch of a kernel. That is the
roofline, which nothing reaches. Published throughputs of ResNet-50, as shares of its roofline, give the predicted range.
"""

import argparse
import dataclasses
import math
from collections.abc import Sequence
from pathlib import Path

import onnx

from benchmarks.cards import GPUS, LAUNCH, LEAST, LEAST_OF, MOST, STREAMING, Gpu, Published
from benchmarks.resnet50 import resnet50
from engine.bundle import load_bundle
from engine.files import write_whole

PAGE = Path("docs/gpu.md")
BEGIN, END = "<!-- table: python -m benchmarks.roofline -->", "<!-- end of table -->"
NETWORKS = ("resnet18", "vit", "mobilenet", "resnet50")
MASKS = (512, 2000)
"""Masks of a pair: the usual number of an explanation, and the published number."""
BATCH = 256
WHOLE_PICTURES = 2
BYTES = {"fp32": 4, "fp16": 2, "int8": 1}
"""Of a value inside the network. Inputs and embeddings are float32 in every graph."""
SHOWN = ("fp16", "int8")
VIEWS = {"Reshape", "Flatten", "Squeeze", "Unsqueeze", "Identity", "Dropout", "Cast", "Constant", "Expand", "Shape"}
"""Operators that move nothing."""
ACTIVATIONS = {"Relu", "Clip", "LeakyRelu", "Sigmoid", "HardSigmoid", "HardSwish", "Tanh", "Erf", "Gelu"}
FUSED = ACTIVATIONS | {"Add", "Sub", "Mul", "Div", "Sqrt", "Pow", "BatchNormalization"}
"""Operators fused into the kernel before them. They cost what they read beside its result."""


@dataclasses.dataclass(frozen=True)
class Layer:
    """The work of one layer for one picture. multiplications: each with its addition

    moved: values of activations read and written; whole: further ones, which are float32 at every precision
    weights: values, read once per batch; launches: of kernels
    """

    name: str
    multiplications: int
    moved: int
    whole: int
    weights: int
    launches: int = 1


@dataclasses.dataclass(frozen=True)
class Network:
    """A counted network. pixels: values of one prepared picture; embedding: D"""

    layers: tuple[Layer, ...]
    pixels: int
    embedding: int

    @property
    def multiplications(self) -> int:
        return sum(layer.multiplications for layer in self.layers)

    def bytes(self, precision: str, batch: int) -> int:
        """Return the bytes read from and written to memory in one run."""
        return sum(_bytes(layer, precision, batch) for layer in self.layers)

    def seconds(self, gpu: Gpu, precision: str, batch: int) -> float:
        """Return the seconds of one run at the roofline."""
        return sum(
            max(
                2 * layer.multiplications * batch / gpu.flops[precision],
                _bytes(layer, precision, batch) / gpu.bandwidth,
                layer.launches * LAUNCH,
            )
            for layer in self.layers
        )


@dataclasses.dataclass(frozen=True)
class Stage:
    """One part of an explanation. bytes: read, written or copied between memories"""

    name: str
    flops: int
    bytes: int
    seconds: float


def _bytes(layer: Layer, precision: str, batch: int) -> int:
    return BYTES[precision] * (layer.moved * batch + layer.weights) + 4 * layer.whole * batch


def counted(model: onnx.ModelProto, size: int | None = None) -> Network:
    """Count the layers of a fp32 similarity graph whose first input is pictures (batch, ...).

    size: side of the pictures, if not the graph's own
    Raises ValueError if shapes cannot be inferred.
    """
    shapes, floats = _shapes(model, size)
    graph = model.graph
    constants = {t.name for t in graph.initializer} | {i.name for i in graph.input[1:]}
    ends = {graph.input[0].name, *(o.name for o in graph.output)}
    layers = []
    for node in graph.node:
        if node.op_type in VIEWS or not any(name in floats for name in node.output):
            continue
        read = [name for name in node.input if name in floats and name not in constants]
        weights = sum(math.prod(shapes[name]) for name in node.input if name in constants and name in floats)
        if node.op_type in FUSED:
            read = sorted(read, key=lambda name: math.prod(shapes[name]))[:-1]  # the largest was just computed
            moved = sum(math.prod(shapes[name]) for name in read)
            if moved:
                layers.append(Layer(node.name, 0, moved, 0, 0, launches=0))
            continue
        tensors = [*read, *(name for name in node.output if name in floats)]
        whole = sum(math.prod(shapes[name]) for name in tensors if name in ends)
        moved = sum(math.prod(shapes[name]) for name in tensors) - whole
        layers.append(Layer(node.name, _multiplications(node, shapes), moved, whole, weights))
    pixels, embedding = math.prod(shapes[graph.input[0].name]), math.prod(shapes[graph.output[0].name])
    return Network(tuple(layers), pixels, embedding)


def _multiplications(node: onnx.NodeProto, shapes: dict[str, tuple[int, ...]]) -> int:
    """Count the multiplications of one node, for the batch in its shapes."""
    if node.op_type in {"Conv", "ConvTranspose"}:
        positions = node.output[0] if node.op_type == "Conv" else node.input[0]
        return math.prod(shapes[positions]) * math.prod(shapes[node.input[1]][1:])
    if node.op_type == "MatMul":
        return math.prod(shapes[node.output[0]]) * shapes[node.input[0]][-1]
    if node.op_type == "Gemm":
        transposed = any(a.name == "transA" and a.i for a in node.attribute)
        return math.prod(shapes[node.output[0]]) * shapes[node.input[0]][0 if transposed else 1]
    return 0


def _shapes(model: onnx.ModelProto, size: int | None) -> tuple[dict[str, tuple[int, ...]], set[str]]:
    """Return each tensor's shape for a batch of one, and the names of the floating-point tensors."""
    fixed = onnx.ModelProto()
    fixed.CopyFrom(model)
    del fixed.graph.value_info[:]
    picture = fixed.graph.input[0].type.tensor_type.shape.dim
    picture[0].dim_value = 1
    if size is not None:
        last = picture[3].dim_value == 3 and picture[1].dim_value != 3
        for axis in (1, 2) if last else (2, 3):
            picture[axis].dim_value = size
    for output in fixed.graph.output:
        output.type.tensor_type.ClearField("shape")
    try:
        inferred = onnx.shape_inference.infer_shapes(fixed, strict_mode=True, data_prop=True).graph
    except onnx.shape_inference.InferenceError as error:
        raise ValueError(f"the graph takes no pictures of this size: {str(error).splitlines()[0]}") from error
    shapes = {t.name: tuple(t.dims) for t in inferred.initializer}
    floats = {t.name for t in inferred.initializer if t.data_type in _FLOATS}
    for value in (*inferred.input, *inferred.value_info, *inferred.output):
        kind = value.type.tensor_type
        if kind.elem_type in _FLOATS:
            floats.add(value.name)
            shapes[value.name] = tuple(d.dim_value for d in kind.shape.dim)
            if not all(d.HasField("dim_value") for d in kind.shape.dim):
                raise ValueError(f"the shape of {value.name} cannot be inferred")
    return shapes, floats


_FLOATS = {onnx.TensorProto.FLOAT, onnx.TensorProto.FLOAT16, onnx.TensorProto.BFLOAT16}


def stages(network: Network, gpu: Gpu, precision: str, masks: int) -> list[Stage]:
    """Return the stages of one pair, the network at its roofline. Plans (kilobytes) and algebra on the host are left out."""
    runs = math.ceil(masks / BATCH)
    rows = runs * BATCH  # the last batch is padded
    drawn = 4 * rows * network.pixels
    copied = 4 * (masks + WHOLE_PICTURES) * network.embedding
    passed = runs * network.bytes(precision, BATCH) + network.bytes(precision, WHOLE_PICTURES)
    seconds = runs * network.seconds(gpu, precision, BATCH) + network.seconds(gpu, precision, WHOLE_PICTURES)
    flops = 2 * network.multiplications * (rows + WHOLE_PICTURES)
    return [
        Stage("masks", 2 * rows * network.pixels, drawn, drawn / (STREAMING * gpu.bandwidth) + runs * LAUNCH),
        Stage("network", flops, passed, seconds),
        Stage("embeddings", 0, copied, copied / gpu.link),
    ]


def reached(published: Published, reference: Network) -> float:
    """Return a published throughput as a share of its roofline. reference: ResNet-50 at 224 x 224"""
    (gpu,) = (g for g in GPUS if g.name == published.gpu)
    most = published.batch / reference.seconds(gpu, published.precision, published.batch)
    return published.images_per_second / most


def predicted(network: Network, gpu: Gpu, precision: str, masks: int, reference: Network) -> tuple[float, float]:
    """Return the least and most seconds of a pair: the network at the shares of its roofline published for ResNet-50."""
    drawing, passing, copying = (stage.seconds for stage in stages(network, gpu, precision, masks))
    most, least = reached(MOST, reference), reached(LEAST_OF[gpu.name], reference)
    return drawing + passing / most + copying, drawing + passing / least + copying


def table(networks: Sequence[tuple[str, Network]]) -> str:
    """Return the Markdown table of (name, network) pairs."""
    reference = counted(resnet50())
    lines = [
        "| network | card | precision | GFLOP a pass | MB a pass | roofline, passes/s | predicted, passes/s | "
        + " | ".join(f"predicted, ms a pair of {masks} masks" for masks in MASKS)
        + " |",
        "| --- |" + " --- |" * (6 + len(MASKS)),
    ]
    for name, network in networks:
        for gpu in GPUS:
            for precision in SHOWN:
                drawing = stages(network, gpu, precision, BATCH)[0]
                roofline = BATCH / network.seconds(gpu, precision, BATCH)
                parts = (reached(LEAST_OF[gpu.name], reference), reached(MOST, reference))
                rates = [1 / (1 / (part * roofline) + drawing.seconds / BATCH) for part in parts]
                pairs = [predicted(network, gpu, precision, masks, reference) for masks in MASKS]
                moved = (network.bytes(precision, BATCH) + drawing.bytes) / BATCH
                cells = [
                    *(name, gpu.name, precision, f"{2 * network.multiplications / 1e9:.2f}", f"{moved / 1e6:.1f}"),
                    _round(roofline),
                    " to ".join(map(_round, rates)),
                    *(" to ".join(_round(1e3 * seconds) for seconds in pair) for pair in pairs),
                ]
                lines.append(f"| {' | '.join(cells)} |")
    return "\n".join([*lines, "", _sources(reference)])


def _sources(reference: Network) -> str:
    """Return the lines on where the figures come from."""
    peaks = [
        f"{g.name} {g.flops['fp16'] / 1e12:g} TFLOP/s fp16, {g.flops['int8'] / 1e12:g} TOP/s int8, {g.bandwidth / 1e9:g} "
        f"GB/s ({g.source})"
        for g in GPUS
    ]
    parts = [
        f"{p.gpu} {p.precision} {p.images_per_second:,.0f} images/s in batches of {p.batch}, {reached(p, reference):.0%} of "
        f"its roofline ({p.source})"
        for p in (*LEAST, MOST)
    ]
    return f"Peaks: {'; '.join(peaks)}.\n\nResNet-50 at 224 x 224: {'; '.join(parts)}.\n\nBatches of {BATCH}."


def _round(value: float) -> str:
    """Round to two digits, as these are predictions."""
    rounded = float(f"{value:.2g}")
    return f"{rounded:,.0f}" if rounded >= 10 else f"{rounded:g}"


def similarity_graph(folder: Path) -> onnx.ModelProto:
    """Load a bundle's fp32 similarity graph."""
    graph = load_bundle(folder).manifest.graph("similarity", "fp32", "cpu")
    return onnx.load(folder / graph.file, load_external_data=False)


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.roofline", description=__doc__.splitlines()[0])
    source = parser.add_mutually_exclusive_group()
    source.add_argument("--bundle", type=Path, help="a bundle's folder")
    source.add_argument("--network", help=f"a network of the benchmarks, such as {', '.join(NETWORKS)}")
    parser.add_argument("--size", type=int, help="side of the pictures, if it is not the network's own")
    options = parser.parse_args(arguments)
    if options.bundle is None and options.network is None:
        if options.size is not None:
            parser.error("--size goes with --bundle or --network")
        _write_page()
        return
    folder = options.bundle or made_bundle(options.network)
    try:
        network = counted(similarity_graph(folder), options.size)
    except ValueError as error:
        raise SystemExit(f"{folder}: {error}") from error
    print(table([(options.network or folder.name, network)]))


def made_bundle(name: str) -> Path:
    from benchmarks.networks import SIZES, made  # noqa: PLC0415 - loads PyTorch, which a bundle does not need

    if name not in SIZES:
        raise SystemExit(f"unknown network {name}; known are {', '.join(SIZES)}")
    return made(name).bundle


def _write_page() -> None:
    networks = []
    for name in NETWORKS:
        model = similarity_graph(made_bundle(name))
        side = model.graph.input[0].type.tensor_type.shape.dim[2].dim_value
        networks.append((f"{name}, {side} px", counted(model)))
    before, rest = PAGE.read_text().split(BEGIN)
    write_whole(PAGE, f"{before}{BEGIN}\n\n{table(networks)}\n{END}{rest.split(END)[1]}".encode())
    print(PAGE)


if __name__ == "__main__":
    main()
