"""Derivatives of reductions."""

import math
from collections.abc import Sequence

from export.rules.step import InputGradients, Step, rule
from export.tape import Value

TINY = 1e-12
"""Smallest norm to divide by, so that the gradient of a norm at 0 is 0."""


@rule("ReduceSum")
def _reduce_sum(n: Step) -> InputGradients:
    """y = sum x: g to every entry"""
    return [n.kept(n.g).expanded(n.x)]


@rule("ReduceMean")
def _reduce_mean(n: Step) -> InputGradients:
    """y = mean x: g / count to every entry"""
    return [(n.kept(n.g) * (1 / math.prod(n.sizes(n.x, n.axes())))).expanded(n.x)]


@rule("ReduceL1")
def _reduce_l1(n: Step) -> InputGradients:
    """y = sum |x|: g sign x"""
    return [n.x.op("Sign") * n.kept(n.g)]


@rule("ReduceL2")
def _reduce_l2(n: Step) -> InputGradients:
    """y = |x|: g x / y"""
    return [n.x * (n.kept(n.g) / n.kept(n.y).op("Max", TINY))]


@rule("ReduceSumSquare")
def _reduce_sum_square(n: Step) -> InputGradients:
    """y = sum x^2: 2 g x"""
    return [2.0 * n.x * n.kept(n.g)]


@rule("ReduceLogSumExp")
def _reduce_log_sum_exp(n: Step) -> InputGradients:
    """y = log sum exp x: g exp(x - y)"""
    return [n.kept(n.g) * (n.x - n.kept(n.y)).op("Exp")]


@rule("ReduceMax", "ReduceMin")
def _reduce_extreme(n: Step) -> InputGradients:
    """y = max x or min x: g, divided equally among the entries that equal y, as in PyTorch's amax"""
    return [_to_extremes(n.x, n.kept(n.y), n.kept(n.g), n.axes())]


@rule("GlobalMaxPool")
def _global_max(n: Step) -> InputGradients:
    """The maximum over space: g, divided equally among the pixels that equal y"""
    return [_to_extremes(n.x, n.y, n.g, range(2, len(n.x.shape)))]


def _to_extremes(x: Value, y: Value, g: Value, axes: Sequence[int]) -> Value:
    """Share g among the entries of x that equal y, which is a maximum or minimum over the axes."""
    extreme = x.tape.constant(1.0).where(x.equals(y))
    return extreme * (g / extreme.sum(axes))


@rule("GlobalAveragePool")
def _global_average(n: Step) -> InputGradients:
    """The mean over space: g / count to every pixel"""
    space = n.sizes(n.x, range(2, len(n.x.shape)))
    return [(n.g * (1 / math.prod(space))).expanded(n.x)]


@rule("Softmax")
def _softmax(n: Step) -> InputGradients:
    """y = softmax x: y (g - sum(g y))"""
    weighted = n.g * n.y
    return [weighted - n.y * weighted.sum([n.attribute("axis", -1)])]


@rule("LogSoftmax")
def _log_softmax(n: Step) -> InputGradients:
    """y = log softmax x: g - exp(y) sum g"""
    return [n.g - n.y.op("Exp") * n.g.sum([n.attribute("axis", -1)])]
