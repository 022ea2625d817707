"""Derivatives of reductions, normalisations and matrix products."""

import math

import numpy as np

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


@rule("ReduceL2")
def _reduce_l2(n: Step) -> InputGradients:
    """y = |x|: g x / y"""
    return [n.x * (n.kept(n.g) / n.kept(n.y).op("Max", TINY))]


@rule("ReduceSumSquare")
def _reduce_sum_square(n: Step) -> InputGradients:
    """y = sum x^2: 2 g x"""
    return [2.0 * n.x * n.kept(n.g)]


@rule("ReduceMax")
def _reduce_max(n: Step) -> InputGradients:
    """y = max x: g, divided equally among the entries that equal y, as in PyTorch's amax"""
    largest = n.tape.constant(1.0).where(n.x.equals(n.kept(n.y)))
    return [largest * (n.kept(n.g) / largest.sum(n.axes()))]


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


@rule("LayerNormalization")
def _layer_norm(n: Step) -> InputGradients:
    """y = w z + b, z = (x - mean) / d, d^2 = var + e; v = g w: (v - mean v - z mean(v z)) / d"""
    rank = len(n.x.shape)
    axes = range(n.attribute("axis", -1) % rank, rank)
    centred = n.x - n.x.mean(axes)
    deviation = ((centred * centred).mean(axes) + n.attribute("epsilon", 1e-5)).op("Sqrt")
    z, v = centred / deviation, n.g * n.xs[1]
    return [(v - v.mean(axes) - z * (v * z).mean(axes)) / deviation]


@rule("BatchNormalization")
def _batch_norm(n: Step) -> InputGradients:
    """y = w (x - mean) / sqrt(var + e) + b with constant statistics: g w / sqrt(var + e)"""
    scale = n.needed(1) / np.sqrt(n.needed(4) + n.attribute("epsilon", 1e-5))
    return [n.g * n.tape.constant(scale.reshape(-1, *[1] * (len(n.x.shape) - 2)))]


@rule("MatMul")
def _matmul(n: Step) -> InputGradients:
    """y = a b: g b^T and a^T g, summed over the axes that were broadcast"""
    a, b = n.xs
    if min(len(a.shape), len(b.shape)) < 2:
        raise n.fault("one factor is a vector")
    return [
        _unstacked(n.g.op("MatMul", _flipped(b)), a, n.y) if n.wanted[0] else None,
        _unstacked(_flipped(a).op("MatMul", n.g), b, n.y) if n.wanted[1] else None,
    ]


def _flipped(matrix: Value) -> Value:
    """Exchange the last two axes."""
    if matrix.array is not None:
        return matrix.tape.constant(np.swapaxes(matrix.array, -1, -2))
    rank = len(matrix.shape)
    return matrix.op("Transpose", perm=[*range(rank - 2), rank - 1, rank - 2])


def _unstacked(g: Value, factor: Value, y: Value) -> Value:
    """Sum g over the leading axes along which a factor of y was repeated."""
    extra = len(y.shape) - len(factor.shape)
    stacked = [i + extra for i, size in enumerate(factor.shape[:-2]) if size == 1 and y.shape[i + extra] != 1]
    axes = [*range(extra), *stacked]
    g = g.sum(axes) if axes else g
    return g.op("Squeeze", list(range(extra))) if extra else g


@rule("Gemm")
def _gemm(n: Step) -> InputGradients:
    """y = alpha A B + beta C: alpha g B^T, alpha A^T g (A, B are transposed first if the node says so), beta g"""
    alpha, flip_a, flip_b = n.attribute("alpha", 1.0), n.attribute("transA", 0), n.attribute("transB", 0)
    a, b = n.xs[:2]

    def product(left: Value, right: Value, flip_left: int, flip_right: int) -> Value:
        return left.op("Gemm", right, alpha=alpha, transA=flip_left, transB=flip_right)

    found: list[Value | None] = [None] * len(n.xs)
    if n.wanted[0]:
        found[0] = product(b, n.g, flip_b, 1) if flip_a else product(n.g, b, 0, 1 - flip_b)
    if n.wanted[1]:
        found[1] = product(n.g, a, 1, flip_a) if flip_b else product(a, n.g, 1 - flip_a, 0)
    if len(n.xs) > 2 and n.wanted[2]:
        found[2] = (n.g * n.attribute("beta", 1.0)).summed_to(n.xs[2], n.y)
    return found
