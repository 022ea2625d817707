"""Derivatives of operators that work entry by entry, on one input or on several that broadcast."""

import math
from collections.abc import Callable

import numpy as np
from onnx import TensorProto

from export.rules.step import RULES, InputGradients, Rule, Step, rule
from export.tape import Value

FLOAT_TYPES = (TensorProto.FLOAT, TensorProto.DOUBLE, TensorProto.FLOAT16, TensorProto.BFLOAT16)


def _gelu(n: Step) -> Value:
    """y = x Phi(x): g (Phi(x) + x phi(x)); tanh form: y = x (1 + t) / 2, t = tanh(k (x + .044715 x^3))."""
    x = n.x
    if n.attribute("approximate", "none") == "none":
        cdf = 0.5 + 0.5 * (x * math.sqrt(0.5)).op("Erf")
        return n.g * (cdf + x * (-0.5 * x * x).op("Exp") * (1 / math.sqrt(2 * math.pi)))
    k = math.sqrt(2 / math.pi)
    t = (k * x * (1.0 + 0.044715 * x * x)).op("Tanh")
    return n.g * (0.5 * (1.0 + t) + 0.5 * x * (1.0 - t * t) * k * (1.0 + 0.134145 * x * x))


def _hard_swish(n: Step) -> Value:
    """y = x clip(x / 6 + 1/2, 0, 1): g (x / 3 + 1/2) within (-3, 3), g above, 0 below."""
    inside = (n.g * (n.x * (1 / 3) + 0.5)).where(n.x > -3.0)
    return n.g.where(n.x > 3.0, inside)


def _selu(n: Step) -> Value:
    """y = s x above 0, s a (exp x - 1) below: s g above, g (y + s a) below."""
    scale, alpha = n.attribute("gamma", 1.0507009873554805), n.attribute("alpha", 1.6732632423543772)
    return (n.g * scale).where(n.x > 0.0, n.g * (n.y + scale * alpha))


def _clip(n: Step) -> Value:
    """y = min(max(x, low), high): g where low < y < high."""
    g = n.g
    for index, inside in ((1, Value.__gt__), (2, Value.__lt__)):
        if n.constant(index) is not None:
            g = g.where(inside(n.y, n.xs[index]))
    return g


def _pow(n: Step) -> Value:
    """y = x^p: g p x^(p - 1)."""
    p = n.needed(1).astype(np.float32)
    return (n.g * n.tape.constant(p) * n.x.op("Pow", p - 1)).summed_to(n.x, n.y)


def _hard_sigmoid(n: Step) -> Value:
    """y = clip(a x + b, 0, 1): a g where 0 < y < 1."""
    return (n.g * n.attribute("alpha", 0.2)).where(n.y > 0.0).where(n.y < 1.0)


OF_ONE_INPUT: dict[str, Callable[[Step], Value]] = {
    "Identity": lambda n: n.g,
    "Dropout": lambda n: n.g,  # does nothing at inference
    "Neg": lambda n: -n.g,
    "Abs": lambda n: n.g * n.x.op("Sign"),
    "Exp": lambda n: n.g * n.y,
    "Log": lambda n: n.g / n.x,
    "Sqrt": lambda n: n.g * 0.5 / n.y,
    "Reciprocal": lambda n: -n.g * n.y * n.y,
    "Pow": _pow,
    "Erf": lambda n: n.g * (2 / math.sqrt(math.pi)) * (-n.x * n.x).op("Exp"),
    "Sin": lambda n: n.g * n.x.op("Cos"),
    "Cos": lambda n: -n.g * n.x.op("Sin"),
    "Tanh": lambda n: n.g * (1.0 - n.y * n.y),
    "Sigmoid": lambda n: n.g * n.y * (1.0 - n.y),
    "Softplus": lambda n: n.g * n.x.op("Sigmoid"),
    "Softsign": lambda n: n.g * (1.0 + n.x.op("Abs")).op("Pow", -2.0),
    "Relu": lambda n: n.g.where(n.y > 0.0),
    "LeakyRelu": lambda n: n.g.where(n.x > 0.0, n.g * n.attribute("alpha", 0.01)),
    "PRelu": lambda n: n.g.where(n.x > 0.0, n.g * n.xs[1]),
    "Elu": lambda n: n.g.where(n.x > 0.0, n.g * (n.y + n.attribute("alpha", 1.0))),
    "Celu": lambda n: n.g.where(n.x > 0.0, n.g * (n.x * (1 / n.attribute("alpha", 1.0))).op("Exp")),
    "Selu": _selu,
    "Clip": _clip,
    "HardSigmoid": _hard_sigmoid,
    "HardSwish": _hard_swish,
    "Gelu": _gelu,
}


def _rule_of_one_input(derivative: Callable[[Step], Value]) -> Rule:
    return lambda n: [derivative(n)]


RULES.update({name: _rule_of_one_input(derivative) for name, derivative in OF_ONE_INPUT.items()})


@rule("Cast")
def _cast(n: Step) -> InputGradients:
    """The same number in another type: g in the type of x; a cast to whole numbers has no gradient"""
    return [n.g.op("CastLike", n.x) if n.attribute("to") in FLOAT_TYPES else None]


def _broadcast(*gradients: Callable[[Step], Value]) -> Rule:
    """Return a rule for inputs that broadcast: the gradient of each is summed over the axes along which it was repeated."""

    def apply(n: Step) -> InputGradients:
        found = zip(gradients, n.xs, n.wanted, strict=True)
        return [f(n).summed_to(x, n.y) if wanted else None for f, x, wanted in found]

    return apply


RULES["Sub"] = _broadcast(lambda n: n.g, lambda n: -n.g)
RULES["Mul"] = _broadcast(lambda n: n.g * n.xs[1], lambda n: n.g * n.xs[0])
RULES["Div"] = _broadcast(lambda n: n.g / n.xs[1], lambda n: -n.g * n.y / n.xs[1])


@rule("Add", "Sum")
def _add(n: Step) -> InputGradients:
    """y = x_0 + x_1 + ...: g to each"""
    return [n.g.summed_to(x, n.y) if wanted else None for x, wanted in zip(n.xs, n.wanted, strict=True)]


@rule("Mean")
def _mean(n: Step) -> InputGradients:
    """y = (x_0 + x_1 + ...) / count: g / count to each"""
    g = n.g * (1 / len(n.xs))
    return [g.summed_to(x, n.y) if wanted else None for x, wanted in zip(n.xs, n.wanted, strict=True)]


@rule("Max", "Min")
def _extreme(n: Step) -> InputGradients:
    """y = max(x_0, x_1, ...): g to each that equals y"""
    found = zip(n.xs, n.wanted, strict=True)
    return [n.g.where(x.equals(n.y)).summed_to(x, n.y) if wanted else None for x, wanted in found]


@rule("Where")
def _where(n: Step) -> InputGradients:
    """y = c ? a : b: g where c to a, elsewhere to b"""
    condition, a, b = n.xs
    return [
        None,
        n.g.where(condition).summed_to(a, n.y) if n.wanted[1] else None,
        n.g.where(condition.op("Not")).summed_to(b, n.y) if n.wanted[2] else None,
    ]
