"""The gradient of a similarity as an ONNX graph, for any ONNX model: reverse-mode differentiation of the graph itself.

First the similarity of the embedding to a `target` embedding is added to the graph. Then the graph is walked backwards, and
each operator is differentiated by its rule (`export.rules`). One run of the result gives the embedding, the similarity and
the similarity's gradient with respect to every pixel.
"""

import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
from onnx import TensorProto, helper, numpy_helper

from engine.runtime.gradient_session import GRADIENT_OUTPUT, SIMILARITY_OUTPUT, TARGET_INPUT, WEIGHTS_INPUT
from engine.saliency.similarity import EPSILON
from export import onnx_files
from export.errors import ExportError, root_cause
from export.rules import RULES, Step
from export.runtime import ModelRunner, silence
from export.tape import Tape, Value

GRADIENT_OPSET = 18
"""The lowest opset in which all rules can be written: reductions take their axes as inputs."""
BATCHES = (2, 3)
LARGEST_KNOWN = 64
"""Most entries of a whole-number tensor whose value is recorded: these are shapes and indices."""
BATCH_TOLERANCE = 5e-2
"""Largest difference between the gradients of a batch and of its pictures alone, relative to the largest gradient: near the
kink of a ReLU, rounding decides."""
STEP = 2e-4
"""Length of the step along the gradient that verifies it, relative to the length of the picture."""
LARGEST_MISMATCH = 0.2
"""Largest difference between the measured and the predicted change of the similarity on that step, relative to the predicted
one: the step crosses kinks of ReLUs, of which a random network has many."""


def with_gradient(model: onnx.ModelProto, metric: str) -> onnx.ModelProto:
    """Return `model`, a similarity graph (batch, ...) float32 -> (batch, D), with similarity and gradient added.

    Added inputs (see `engine.runtime.gradient_session`), both (batch, D) float32: TARGET_INPUT, the embedding to compare
    with, and WEIGHTS_INPUT, the weights that multiply both embeddings first (a condition's weights after relu, or ones).
    Added outputs, float32: SIMILARITY_OUTPUT (batch,) by `metric`, and GRADIENT_OUTPUT, shaped like the input.

    Raises ExportError, which names the operator, if an operator has no rule.
    """
    simple = _simplify(model)
    graph = simple.graph
    image, embedding = graph.input[0], graph.output[0]
    taken = {name for node in graph.node for name in (*node.input, *node.output)}
    ours = (TARGET_INPUT, WEIGHTS_INPUT, SIMILARITY_OUTPUT, GRADIENT_OUTPUT)
    if taken & set(ours):
        raise ExportError(f"the graph already uses one of the names {', '.join(ours)}: rename it, or leave out --gradient")
    size = [d.dim_value for d in image.type.tensor_type.shape.dim[1:]]
    width = embedding.type.tensor_type.shape.dim[1].dim_value
    shapes, known = _probe(simple)
    for name in (TARGET_INPUT, WEIGHTS_INPUT):
        graph.input.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", width]))
        shapes[name] = (None, width)
    forward = Tape(graph, "similarity", shapes, known)
    similarity = _similarity(
        forward.value(embedding.name), forward.value(TARGET_INPUT), forward.value(WEIGHTS_INPUT), metric
    )
    shapes, known = _probe(simple)
    backward = Tape(graph, "gradient", shapes, known)
    gradient = _backpropagate(backward, graph, similarity.name, image.name)
    graph.node.append(helper.make_node("Squeeze", [similarity.name, backward.constant([1]).name], [SIMILARITY_OUTPUT]))
    graph.node.append(helper.make_node("Identity", [gradient.name], [GRADIENT_OUTPUT]))
    graph.output.append(helper.make_tensor_value_info(SIMILARITY_OUTPUT, TensorProto.FLOAT, ["batch"]))
    graph.output.append(helper.make_tensor_value_info(GRADIENT_OUTPUT, TensorProto.FLOAT, ["batch", *size]))
    del graph.value_info[:]
    onnx_files.strip(simple)
    return simple


def verify(model: onnx.ModelProto, pictures: np.ndarray) -> None:
    """Raise ExportError unless the gradient of a graph of `with_gradient` is right on pictures (n, ...) float32, n > 1.

    The target of each picture is its own embedding with the entries shifted by one place. The picture is moved a small
    step along its gradient, and a step against it: the similarity must change as the gradient predicts. And a batch must
    give the gradients that its pictures give alone.
    """
    runner = ModelRunner(onnx_files.serialised(model))
    image = model.graph.input[0].name

    def run(x: np.ndarray, targets: np.ndarray) -> list[np.ndarray]:
        return runner.run_all({image: x, TARGET_INPUT: targets, WEIGHTS_INPUT: np.ones_like(targets)})

    width = model.graph.output[0].type.tensor_type.shape.dim[1].dim_value
    embeddings = run(pictures, np.ones((len(pictures), width), np.float32))[0]
    targets = np.roll(embeddings, 1, axis=1)
    gradients = run(pictures, targets)[2]
    alone = [run(p[None], t[None])[2][0] for p, t in zip(pictures, targets, strict=True)]
    largest = float(np.abs(gradients).max())
    if not np.isfinite(gradients).all() or np.abs(gradients - alone).max() > BATCH_TOLERANCE * largest:
        raise ExportError(
            "the gradient of a batch differs from the gradients of its pictures alone; export the model without --gradient"
        )
    axes = tuple(range(1, pictures.ndim))
    lengths = np.sqrt(np.square(gradients).sum(axes, keepdims=True))
    sizes = np.sqrt(np.square(pictures).sum(axes, keepdims=True))
    steps = STEP * sizes * gradients / np.maximum(lengths, np.finfo(np.float32).tiny)
    change = run(pictures + steps, targets)[1] - run(pictures - steps, targets)[1]
    predicted = 2 * STEP * (sizes * lengths).ravel()
    off = np.abs(change - predicted).sum() / max(float(predicted.sum()), np.finfo(np.float32).tiny)
    if not off <= LARGEST_MISMATCH:
        raise ExportError(
            f"the similarity does not change as its gradient says: off by {100 * off:.0f}% on the demo pictures; "
            "export the model without --gradient"
        )


def _similarity(embedding: Value, target: Value, weights: Value, metric: str) -> Value:
    """Return the similarity (batch, 1), computed as in `engine.saliency.similarity`."""
    a, b = embedding * weights, target * weights
    if metric == "euclidean":
        return -((a - b) * (a - b)).sum([1])
    product = (a * b).sum([1])
    return product if metric == "dot" else product / (_norm(a) * _norm(b))


def _norm(vectors: Value) -> Value:
    return vectors.op("ReduceL2", [1], keepdims=1).op("Max", EPSILON)


def _backpropagate(tape: Tape, graph: onnx.GraphProto, output: str, image: str) -> Value:
    """Return dL/d image, with L the sum of `output` over the batch."""
    nodes = list(graph.node)
    active = {image}  # tensors that depend on the picture
    for node in nodes:
        if node.op_type not in ("Shape", "Size") and active & set(node.input):
            active |= set(node.output)
    gradients: dict[str, list[Value]] = {output: [tape.constant(1.0).expanded(tape.value(output))]}
    for node in reversed(nodes):
        gs = [_sum_of(gradients.get(name, [])) for name in node.output]
        wanted = [name in active for name in node.input]
        if not any(wanted) or all(g is None for g in gs):
            continue
        for name, g in zip(node.input, _derivative(Step(tape, node, gs, wanted)), strict=False):
            if g is not None and name in active:
                gradients.setdefault(name, []).append(g)
    found = _sum_of(gradients.get(image, []))
    if found is None:
        raise ExportError("the similarity has no gradient with respect to the picture; export the model without --gradient")
    return found


def _derivative(step: Step) -> Sequence[Value | None]:
    node = step.node
    if node.op_type not in RULES or node.domain not in ("", "ai.onnx"):
        raise ExportError(
            f"node {node.name!r} is a {node.op_type}, whose derivative is not known; known are {', '.join(sorted(RULES))}: "
            "export the model at opset 18, or replace the operator by those, or leave out --gradient"
        )
    return RULES[node.op_type](step)


def _sum_of(parts: Sequence[Value]) -> Value | None:
    if len(parts) < 2:
        return parts[0] if parts else None
    return parts[0].tape.op("Sum", *parts)


def _simplify(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return a copy at opset 18 or more with constants folded: the rules read shapes and indices from constants."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    del copy.graph.value_info[:]
    try:
        if onnx_files.opset(copy) < GRADIENT_OPSET:
            copy = onnx.version_converter.convert_version(copy, GRADIENT_OPSET)
        with tempfile.TemporaryDirectory() as folder, silence():
            path = Path(folder) / "simple.onnx"
            options = ort.SessionOptions()
            options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_BASIC  # standard operators alone
            options.optimized_model_filepath = str(path)
            options.log_severity_level = 4
            ort.InferenceSession(onnx_files.serialised(copy), options, providers=["CPUExecutionProvider"])
            simple = onnx.load(path)
    except Exception as error:  # neither library has an error of its own
        raise ExportError(f"the graph cannot be prepared for its gradient: {root_cause(error)}") from error
    for node in [n for n in simple.graph.node if n.op_type == "Constant"]:
        (attribute,) = node.attribute
        value = helper.get_attribute_value(attribute)
        array = numpy_helper.to_array(value) if attribute.name == "value" else np.asarray(value)
        simple.graph.initializer.append(numpy_helper.from_array(array, node.output[0]))
        simple.graph.node.remove(node)
    return simple


def _probe(model: onnx.ModelProto) -> tuple[dict[str, tuple[int | None, ...]], dict[str, np.ndarray]]:
    """Return the shapes of all tensors, None for a size that follows the batch, and the values of small constant ones.

    The graph is run on batches of two sizes: the shapes that an exporter recorded may be symbolic, or wrong.
    """
    graph = model.graph
    probe = onnx.ModelProto()
    probe.CopyFrom(model)
    del probe.graph.output[:]
    names = list(dict.fromkeys(name for node in graph.node for name in node.output if name))
    probe.graph.output.extend(onnx.ValueInfoProto(name=name) for name in names)
    runner = ModelRunner(onnx_files.serialised(probe), optimised=False)
    found = []
    for batch in BATCHES:
        random = np.random.default_rng(0)
        sizes = {i.name: [d.dim_value or batch for d in i.type.tensor_type.shape.dim] for i in graph.input}
        feeds = {name: random.normal(size=size).astype(np.float32) for name, size in sizes.items()}
        found.append([*feeds.values(), *runner.run_all(feeds)])
    known = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
    shapes: dict[str, tuple[int | None, ...]] = {name: array.shape for name, array in known.items()}
    for name, few, many in zip([*(i.name for i in graph.input), *names], *found, strict=True):
        shapes[name] = tuple(a if a == b else None for a, b in zip(few.shape, many.shape, strict=True))
        if few.dtype == np.int64 and few.size <= LARGEST_KNOWN and np.array_equal(few, many):
            known[name] = few
    return shapes, known
