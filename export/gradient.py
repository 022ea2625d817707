"""The gradient of a similarity as an ONNX graph, for any ONNX model: reverse-mode differentiation of the graph itself.

First the similarity of the embedding to a `target` embedding is added to the graph. Then the graph is walked backwards, and
each operator is differentiated by its rule (`export.rules`). One run of the result gives the embedding, the similarity and
the similarity's gradient with respect to every pixel.
"""

from collections.abc import Sequence

import onnx
from onnx import TensorProto, helper

from engine.runtime.gradient_session import GRADIENT_OUTPUT, SIMILARITY_OUTPUT, TARGET_INPUT, WEIGHTS_INPUT
from engine.saliency.similarity import EPSILON
from export import onnx_files
from export.errors import ExportError, root_cause
from export.light_graph import LightGraph
from export.rules import RULES, Step
from export.tape import Tape, Value

GRADIENT_OPSET = 18
"""The lowest opset in which all rules can be written: reductions take their axes as inputs."""


def with_gradient(similarity_graph: LightGraph, metric: str) -> LightGraph:
    """Return a similarity graph (batch, ...) float32 -> (batch, D), which stays the same, with its gradient added.

    Added inputs (see `engine.runtime.gradient_session`), both (batch, D) float32: TARGET_INPUT, the embedding to compare
    with, and WEIGHTS_INPUT, the weights that multiply both embeddings first (a condition's weights after relu, or ones).
    Added outputs, float32: SIMILARITY_OUTPUT (batch,) by `metric`, and GRADIENT_OUTPUT, shaped like the input.

    Raises ExportError, which names the operator, if an operator has no rule.
    """
    light = _prepared(similarity_graph)
    graph = light.model.graph
    image, embedding = graph.input[0], graph.output[0]
    taken = {name for node in graph.node for name in (*node.input, *node.output)}
    ours = (TARGET_INPUT, WEIGHTS_INPUT, SIMILARITY_OUTPUT, GRADIENT_OUTPUT)
    if taken & set(ours):
        raise ExportError(f"the graph already uses one of the names {', '.join(ours)}: rename it")
    size = [d.dim_value for d in image.type.tensor_type.shape.dim[1:]]
    width = embedding.type.tensor_type.shape.dim[1].dim_value
    for name in (TARGET_INPUT, WEIGHTS_INPUT):
        graph.input.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", width]))
    forward = Tape(graph, "similarity", {}, {})  # nothing that is added here asks for a shape
    similarity = _similarity(
        forward.value(embedding.name), forward.value(TARGET_INPUT), forward.value(WEIGHTS_INPUT), metric
    )
    backward = Tape(graph, "gradient", *light.probed())
    gradient = _backpropagate(backward, light, similarity.name)
    graph.node.append(helper.make_node("Squeeze", [similarity.name, backward.constant([1]).name], [SIMILARITY_OUTPUT]))
    graph.node.append(helper.make_node("Identity", [gradient.name], [GRADIENT_OUTPUT]))
    graph.output.append(helper.make_tensor_value_info(SIMILARITY_OUTPUT, TensorProto.FLOAT, ["batch"]))
    graph.output.append(helper.make_tensor_value_info(GRADIENT_OUTPUT, TensorProto.FLOAT, ["batch", *size]))
    onnx_files.strip(light.model)
    return light


def _similarity(embedding: Value, target: Value, weights: Value, metric: str) -> Value:
    """Return the similarity (batch, 1), computed as in `engine.saliency.similarity`."""
    a, b = embedding * weights, target * weights
    if metric == "euclidean":
        return -((a - b) * (a - b)).sum([1])
    product = (a * b).sum([1])
    return product if metric == "dot" else product / (_norm(a) * _norm(b))


def _norm(vectors: Value) -> Value:
    return vectors.op("ReduceL2", [1], keepdims=1).op("Max", EPSILON)


def _backpropagate(tape: Tape, light: LightGraph, output: str) -> Value:
    """Return dL/d image, with L the sum of `output` over the batch."""
    nodes, active, image = list(light.model.graph.node), light.active(), light.model.graph.input[0].name
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
        raise ExportError("the similarity has no gradient with respect to the picture")
    return found


def _derivative(step: Step) -> Sequence[Value | None]:
    node = step.node
    if not _has_rule(node):
        raise ExportError(
            f"node {node.name!r} is a {node.op_type}, whose derivative is not known; known are {', '.join(sorted(RULES))}: "
            "replace the operator by those"
        )
    try:
        return RULES[node.op_type](step)
    except ExportError:
        raise
    except Exception as error:  # a form of the operator that its rule does not expect
        raise step.fault(f"its rule does not fit it ({root_cause(error)})") from error


def _has_rule(node: onnx.NodeProto) -> bool:
    return node.op_type in RULES and node.domain in ("", "ai.onnx")


def _sum_of(parts: Sequence[Value]) -> Value | None:
    if len(parts) < 2:
        return parts[0] if parts else None
    return parts[0].tape.op("Sum", *parts)


def _prepared(light: LightGraph) -> LightGraph:
    """Return a copy at opset 18 or more. Operators without a rule are replaced by simpler ones, if the runtime knows how."""
    try:
        light = light.at_opset(max(onnx_files.opset(light.model), GRADIENT_OPSET))
        active = light.active()
        if any(active & set(node.output) and not _has_rule(node) for node in light.model.graph.node):
            light = light.simplified()
    except ExportError as error:
        raise ExportError(f"the graph cannot be prepared for its gradient: {error}") from error
    return light
