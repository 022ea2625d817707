"""python -m tests.gradient_mutants: break each rule of a gradient in one place; the check of the export must refuse it.

Each rule has at least one mutant: a wrong sign or factor, an operand that is not transposed, a term or a condition left out.
The rule is used in a small network, which maps pictures to the operator (tests/gradient_cases.py) and on to an embedding.
First the networks must pass as they are. The exit status is 1 if one does not, or if a mutant passes with every network.
"""

import contextlib
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx
import torch
from onnx import helper, numpy_helper

sys.path.insert(0, str(Path(__file__).parent))  # the tests import each other by bare names
from gradient_cases import CASES, Case
from gradient_graphs import SHAPE, checked, floats

from export import rules
from export.errors import ExportError
from export.gradient import with_gradient
from export.light_graph import LightGraph
from export.rules import RULES

FILES = sorted(Path(str(rules.__file__)).parent.glob("*.py"))
WIDTH = 6
"""Of the embeddings."""
MUTANTS = (
    # operator, code of its rule, what replaces it
    ("Identity", '"Identity": lambda n: n.g', '"Identity": lambda n: -n.g'),
    ("Dropout", '"Dropout": lambda n: n.g', '"Dropout": lambda n: n.g * 2.0'),
    ("Neg", "lambda n: -n.g,", "lambda n: n.g,"),
    ("Abs", '"Abs": lambda n: n.g * n.x.op("Sign")', '"Abs": lambda n: n.g'),
    ("Exp", '"Exp": lambda n: n.g * n.y', '"Exp": lambda n: n.g'),
    ("Log", "n.g / n.x,", "n.g / n.y,"),
    ("Sqrt", "n.g * 0.5 / n.y", "n.g / n.y"),
    ("Reciprocal", "-n.g * n.y * n.y", "-n.g * n.y"),
    ("Pow", 'n.x.op("Pow", p - 1)', 'n.x.op("Pow", p)'),
    ("Pow", "n.g * n.tape.constant(p)", "n.g"),
    ("Erf", "(2 / math.sqrt(math.pi)) * (-n.x * n.x)", "(2 / math.sqrt(math.pi)) * (-n.x)"),
    ("Sin", '"Sin": lambda n: n.g', '"Sin": lambda n: -n.g'),
    ("Cos", '-n.g * n.x.op("Sin")', 'n.g * n.x.op("Sin")'),
    ("Tanh", '"Tanh": lambda n: n.g * (1.0 - n.y * n.y)', '"Tanh": lambda n: n.g * (1.0 - n.y)'),
    ("Sigmoid", "n.g * n.y * (1.0 - n.y)", "n.g * n.y"),
    ("Softplus", 'n.x.op("Sigmoid")', 'n.x.op("Tanh")'),
    ("Softsign", '"Pow", -2.0', '"Pow", -1.0'),
    ("Relu", '"Relu": lambda n: n.g.where(n.y > 0.0)', '"Relu": lambda n: n.g'),
    ("LeakyRelu", 'n.g * n.attribute("alpha", 0.01)', "n.g * 0.1"),
    ("PRelu", "n.g * n.xs[1]),", "n.g),"),
    ("Elu", '(n.y + n.attribute("alpha", 1.0))', "(n.y + 1.0)"),
    ("Celu", '1 / n.attribute("alpha", 1.0)', '1 * n.attribute("alpha", 1.0)'),
    ("Selu", "n.y + scale * alpha", "n.y + alpha"),
    ("Selu", "(n.g * scale).where", "n.g.where"),
    ("Clip", "(1, Value.__gt__), (2, Value.__lt__)", "(1, Value.__gt__),"),
    ("Clip", "(1, Value.__gt__), (2, Value.__lt__)", "(2, Value.__lt__),"),
    ("HardSigmoid", '(n.g * n.attribute("alpha", 0.2)).where(n.y > 0.0)', '(n.g * n.attribute("alpha", 0.2))'),
    ("HardSigmoid", '(n.g * n.attribute("alpha", 0.2))', "(n.g * 0.2)"),
    ("HardSwish", "n.x * (1 / 3) + 0.5", "n.x * (1 / 6) + 0.5"),
    ("Gelu", "cdf + x *", "cdf - x *"),
    ("Gelu", "0.134145", "0.044715"),
    ("Cast", 'n.g.op("CastLike", n.x)', '(n.g + n.g).op("CastLike", n.x)'),
    ("Sub", "lambda n: -n.g)", "lambda n: n.g)"),
    ("Mul", "lambda n: n.g * n.xs[1], lambda n: n.g * n.xs[0]", "lambda n: n.g * n.xs[0], lambda n: n.g * n.xs[1]"),
    ("Div", "-n.g * n.y / n.xs[1]", "n.g * n.y / n.xs[1]"),
    ("Add", "[n.g.summed_to(x, n.y) if wanted else None for", "[(n.g * 0.5).summed_to(x, n.y) if wanted else None for"),
    ("Sum", "[n.g.summed_to(x, n.y) if wanted else None for", "[(n.g * 0.5).summed_to(x, n.y) if wanted else None for"),
    ("Mean", "n.g * (1 / len(n.xs))", "n.g"),
    ("Max", "n.g.where(x.equals(n.y))", "n.g"),
    ("Min", "n.g.where(x.equals(n.y))", "n.g"),
    ("Where", 'condition.op("Not")', "condition"),
    ("Reshape", "n.g.like(n.x)", "n.g.like(n.x) * 2.0"),
    ("Flatten", "n.g.like(n.x)", "-n.g.like(n.x)"),
    ("Squeeze", "n.g.like(n.x)", "n.g.like(n.x) * 2.0"),
    ("Unsqueeze", "n.g.like(n.x)", "-n.g.like(n.x)"),
    ("Expand", "n.g.summed_to(n.x, n.y)", "n.g.summed_to(n.x, n.y) * 0.5"),
    ("Transpose", '[n.g.op("Transpose", perm=np.argsort(order)', '[n.g.op("Transpose", perm=np.array(order)'),
    ("Concat", "for part, wanted in zip(parts,", "for part, wanted in zip(parts[::-1],"),
    ("Split", 'n.tape.op("Concat", *gs,', 'n.tape.op("Concat", *gs[::-1],'),
    ("Slice", "before[axis], after[axis] = taken.start, size - taken.stop", "after[axis] = size - len(taken)"),
    ("Slice", "list(taken), size, rank", "list(taken)[::-1], size, rank"),
    ("Gather", "np.atleast_1d(known % size).tolist()", "np.atleast_1d(known % size).tolist()[::-1]"),
    ("Gather", 'rows, reduction="add"', 'rows * 2.0, reduction="add"'),
    ("GatherND", 'n.g, reduction="add"', "n.g"),
    ("GatherElements", 'n.attribute("axis", 0), reduction="add"', 'n.attribute("axis", 0)'),
    ("Tile", 'n.g.op("Reshape", [i for pair', '(n.g * 0.5).op("Reshape", [i for pair'),
    ("DepthToSpace", "[0, 3, 5, 1, 2, 4] if", "[0, 5, 3, 1, 2, 4] if"),
    ("DepthToSpace", "else [0, 1, 3, 5, 2, 4]", "else [0, 3, 5, 1, 2, 4]"),
    ("SpaceToDepth", 'mode="DCR"', 'mode="CRD"'),
    ("Pad", "n.g.padded([-b for b in before]", "(n.g * 2.0).padded([-b for b in before]"),
    ("Pad", "g = _put_back(g, axis, came_from, size, rank)", "g = _put_back(g, axis, came_from[::-1], size, rank)"),
    ("ReduceSum", "[n.kept(n.g).expanded(n.x)]", "[-n.kept(n.g).expanded(n.x)]"),
    ("ReduceMean", "n.kept(n.g) * (1 / math.prod(n.sizes(n.x, n.axes())))", "n.kept(n.g)"),
    ("ReduceL1", 'n.x.op("Sign") *', "n.x *"),
    ("ReduceL2", "n.x * (n.kept(n.g) / n.kept(n.y)", "n.x * n.kept(n.y) * (n.kept(n.g) / n.kept(n.y)"),
    ("ReduceSumSquare", "2.0 * n.x", "n.x"),
    ("ReduceLogSumExp", "(n.x - n.kept(n.y))", "n.x"),
    ("ReduceMax", "1.0).where(x.equals(y))", "1.0).expanded(x)"),
    ("ReduceMin", "1.0).where(x.equals(y))", "1.0).expanded(x)"),
    ("GlobalMaxPool", "1.0).where(x.equals(y))", "1.0).expanded(x)"),
    ("GlobalAveragePool", "n.g * (1 / math.prod(space))", "n.g"),
    ("Softmax", "weighted - n.y * weighted.sum", "weighted + n.y * weighted.sum"),
    ("Softmax", '[weighted - n.y * weighted.sum([n.attribute("axis", -1)])]', "[weighted]"),
    ("LogSoftmax", 'n.y.op("Exp") * n.g.sum', "n.y * n.g.sum"),
    ("LayerNormalization", "(v - v.mean(axes) - z * (v * z).mean(axes))", "(v - v.mean(axes))"),
    ("LayerNormalization", "(v - v.mean(axes) - z * (v * z).mean(axes))", "(v - z * (v * z).mean(axes))"),
    ("LayerNormalization", "n.g * n.xs[1], axes,", "n.g, axes,"),
    ("InstanceNormalization", "n.g * _by_channel(n.xs[1], rank), range(2, rank)", "n.g, range(2, rank)"),
    ("GroupNormalization", "(n.g * _by_channel(scale, rank))", "n.g"),
    ("RMSNormalization", "(v - z * (v * z).mean(axes)) / root", "v / root"),
    ("BatchNormalization", "n.xs[1] / deviation", "n.xs[1] / (deviation * deviation)"),
    ("LpNormalization", '"ReduceL2", [axis]), n.y', '"ReduceL2", [axis]), n.x'),
    ("LpNormalization", '"ReduceL1", [axis]), n.x.op("Sign")', '"ReduceL1", [axis]), n.y'),
    ("MatMul", 'n.g.op("MatMul", flipped(b, len(b.shape)))', 'n.g.op("MatMul", flipped(b, len(b.shape)) * 0.5)'),
    ("MatMul", 'flipped(a, len(a.shape)).op("MatMul", n.g)', 'a.op("MatMul", n.g)'),
    ("Gemm", "product(n.g, b, 0, 1 - flip_b)", "product(n.g * 2.0, b, 0, 1 - flip_b)"),
    ("Gemm", "alpha=alpha, transA=flip_left", "transA=flip_left"),
    ("Einsum", "n.xs[i] for i in others), equation", "-n.xs[i] for i in others), equation"),
    ("Einsum", 'g.op("Unsqueeze", alone)', '(g * 0.5).op("Unsqueeze", alone)'),
    ("Attention", "(dp - (dp * p).sum([-1])) * scale", "dp * scale"),
    ("Attention", "flipped(ds, 4)", "ds"),
    ("Attention", "flipped(p, 4)", "p"),
    ("Attention", "ds * (1.0 - t * t)", "ds"),
    ("Attention", "*n.xs[3:4], **options", "**options"),
    ("RotaryEmbedding", "cos, -sin", "cos, sin"),
    ("Resize", "g.along(axis, matrix.T, rank)", "g.along(axis, matrix.T[::-1], rank)"),
    ("Conv", '[_spread(n, n.g, n.xs[1], n.sizes(n.xs[1]', '[_spread(n, -n.g, n.xs[1], n.sizes(n.xs[1]'),
    ("Conv", 'perm=[0, 2, 1, *range(3, 3 + space)]', 'perm=[0, 2, 1, *range(3, 3 + space)][:3] + [4, 3]'),
    ("ConvTranspose", 'op("Conv", n.xs[1], pads=[*windows.before', 'op("Conv", n.xs[1] * 0.5, pads=[*windows.before'),
    ("AveragePool", "n.g / n.tape.constant(counts)", "n.g / float(np.prod(kernel))"),
    ("MaxPool", 'n.g.op("Reshape", [-1]), axis=0, reduction="add"', 'n.g.op("Reshape", [-1]), axis=0'),
)  # fmt: skip


@contextlib.contextmanager
def broken(operator: str, code: str, instead: str) -> Iterator[None]:
    """Replace the rule of an operator by one in whose module `code`, which is there once, is replaced."""
    found = {path: text for path in FILES if code in (text := path.read_text())}
    if sum(text.count(code) for text in found.values()) != 1:
        raise SystemExit(f"{operator}: the rules must have this code once: {code}")
    ((path, text),) = found.items()
    right = dict(RULES)
    try:
        exec(compile(text.replace(code, instead), "mutant", "exec"), {"__name__": f"export.rules.{path.stem}"})
        RULES.update({name: rule for name, rule in right.items() if name != operator})
        yield
    finally:
        RULES.update(right)


def network(case: Case) -> onnx.ModelProto:
    """Return a case's graph with a dense layer and a tanh after it."""
    model = case[1]()
    flat, graph = model.graph.output[0], model.graph
    size = flat.type.tensor_type.shape.dim[1].dim_value
    weights = np.random.default_rng(7).normal(size=(size, WIDTH)) / np.sqrt(size)
    graph.initializer.append(numpy_helper.from_array(weights.astype(np.float32), "dense"))
    graph.node.append(helper.make_node("MatMul", [flat.name, "dense"], ["product"]))
    graph.node.append(helper.make_node("Tanh", ["product"], ["embedding"]))
    flat.CopyFrom(helper.make_tensor_value_info("embedding", onnx.TensorProto.FLOAT, ["batch", WIDTH]))
    return model


def refusal(case: Case) -> str:
    """Return why the export refuses the gradient of the network of a case; empty if it does not."""
    model = network(case)
    pictures = floats(np.random.default_rng(3), 3, *SHAPE, low=case[2])
    try:
        checked(with_gradient(LightGraph.of(model), "cosine"), model, "cosine", pictures)
    except ExportError as error:
        return str(error)
    return ""


def main() -> int:
    """Print a line for each mutant; return the exit status."""
    torch.set_num_threads(1)
    missing = set(RULES) - {operator for operator, _, _ in MUTANTS}
    if missing:
        print(f"no mutant of {', '.join(sorted(missing))}")
        return 1
    refused = [f"{case[0]}: {why}" for case in CASES if (why := refusal(case))]
    if refused:
        print("refused without any mutant:", *refused, sep="\n")
        return 1
    alive = 0
    for operator, code, instead in MUTANTS:
        with broken(operator, code, instead):
            why = next(filter(None, (refusal(case) for case in CASES if case[0] == operator)), "")
        alive += not why
        print(f"{f'caught ({why[:40]}...)' if why else 'SURVIVES'}  {operator}: {code} -> {instead}", flush=True)
    print(f"{len(MUTANTS)} mutants, {alive} survive")
    return 1 if alive else 0


if __name__ == "__main__":
    sys.exit(main())
