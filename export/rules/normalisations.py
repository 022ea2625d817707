"""Derivatives of normalisations."""

from collections.abc import Sequence

import numpy as np

from export.rules.step import InputGradients, Step, rule
from export.rules.sums import TINY
from export.tape import Value


@rule("LayerNormalization")
def _layer_norm(n: Step) -> InputGradients:
    """y = w z + b, z = (x - mean) / d, d^2 = var + e; v = g w: (v - mean v - z mean(v z)) / d"""
    n.require_fixed(1, 2)
    rank = len(n.x.shape)
    axes = range(n.attribute("axis", -1) % rank, rank)
    return [_standardised(n.x, n.g * n.xs[1], axes, n.attribute("epsilon", 1e-5))]


@rule("InstanceNormalization")
def _instance_norm(n: Step) -> InputGradients:
    """As LayerNormalization, over the pixels of each channel"""
    n.require_fixed(1, 2)
    rank = len(n.x.shape)
    return [_standardised(n.x, n.g * _by_channel(n.xs[1], rank), range(2, rank), n.attribute("epsilon", 1e-5))]


@rule("GroupNormalization")
def _group_norm(n: Step) -> InputGradients:
    """As LayerNormalization, over the pixels of each group of channels"""
    n.require_fixed(1, 2)
    groups, scale, rank = n.attribute("num_groups"), n.xs[1], len(n.x.shape)
    if scale.shape != n.x.shape[1:2]:
        raise n.fault("it is of an opset before 21, and scales groups instead of channels")
    grouped = [0, groups, -1]
    v = (n.g * _by_channel(scale, rank)).op("Reshape", grouped)
    return [_standardised(n.x.op("Reshape", grouped), v, [2], n.attribute("epsilon", 1e-5)).like(n.x)]


@rule("RMSNormalization")
def _rms_norm(n: Step) -> InputGradients:
    """y = w z, z = x / d, d^2 = mean(x^2) + e; v = g w: (v - z mean(v z)) / d"""
    n.require_fixed(1)
    rank = len(n.x.shape)
    axes = range(n.attribute("axis", -1) % rank, rank)
    root = ((n.x * n.x).mean(axes) + n.attribute("epsilon", 1e-5)).op("Sqrt")
    z, v = n.x / root, n.g * n.xs[1]
    return [(v - z * (v * z).mean(axes)) / root]


@rule("BatchNormalization")
def _batch_norm(n: Step) -> InputGradients:
    """y = w (x - mean) / sqrt(var + e) + b with constant statistics: g w / sqrt(var + e)"""
    n.require_fixed(1, 2, 3, 4)
    deviation = (n.xs[4] + n.attribute("epsilon", 1e-5)).op("Sqrt")
    return [n.g * _by_channel(n.xs[1] / deviation, len(n.x.shape))]


@rule("LpNormalization")
def _lp_norm(n: Step) -> InputGradients:
    """y = x / |x|: (g - s sum(g y)) / |x|, where s, the derivative of |x|, is y for the 2-norm and sign x for the 1-norm"""
    axis = n.attribute("axis", -1)
    if n.attribute("p", 2) == 2:
        norm, slope = n.x.op("ReduceL2", [axis]), n.y
    else:
        norm, slope = n.x.op("ReduceL1", [axis]), n.x.op("Sign")
    return [(n.g - slope * (n.g * n.y).sum([axis])) / norm.op("Max", TINY)]


def _standardised(x: Value, v: Value, axes: Sequence[int], epsilon: float) -> Value:
    """Return the gradient by x of z = (x - mean) / d, if v is the gradient by z: (v - mean v - z mean(v z)) / d."""
    centred = x - x.mean(axes)
    deviation = ((centred * centred).mean(axes) + epsilon).op("Sqrt")
    z = centred / deviation
    return (v - v.mean(axes) - z * (v * z).mean(axes)) / deviation


def _by_channel(vector: Value, rank: int) -> Value:
    """Reshape a number for each channel so that it broadcasts over a value with `rank` axes."""
    return vector.op("Reshape", np.array([-1, *[1] * (rank - 2)]))
