"""Derivatives of the operators that only transformers have."""

import math

from export.rules.products import flipped
from export.rules.step import InputGradients, Step, rule
from export.tape import Value


@rule("Attention")
def _attention(n: Step) -> InputGradients:
    """y = P v, P = softmax(s q k^T + mask); dP = g v^T, dS = P (dP - sum(dP P)): s dS k, s dS^T q, P^T g

    P is what the operator itself gives for v = 1: so the masks are its own.
    """
    n.require_fixed(3)
    if any(n.node.input[4:]) or any(g is not None for g in n.gs[1:]):
        raise n.fault("it has a cache, or its second output or a later one is used")
    heads, groups = (n.attribute(name, n.x.shape[1]) for name in ("q_num_heads", "kv_num_heads"))
    if len(n.x.shape) == 4:
        groups = n.xs[1].shape[1]
    flat, group = len(n.x.shape) == 3, heads // groups
    q, g = _by_head(n.x, heads, flat), _by_head(n.g, heads, flat)
    k, v = (_repeated(_by_head(x, groups, flat), groups, group) for x in n.xs[1:3])
    width = n.sizes(n.x, [-1])[0] // (heads if flat else 1)
    scale, length = n.attribute("scale", 1 / math.sqrt(width)), n.sizes(n.xs[1], [-2])[0]
    p = _probabilities(n, q, k, length)
    dp = g.op("MatMul", flipped(v, 4))
    ds = p * (dp - (dp * p).sum([-1])) * scale
    cap = n.attribute("softcap", 0.0)
    if cap:  # S is cap tanh(s q k^T / cap)
        t = (q.op("MatMul", flipped(k, 4)) * (scale / cap)).op("Tanh")
        ds = ds * (1.0 - t * t)
    by_head = [ds.op("MatMul", k), flipped(ds, 4).op("MatMul", q), flipped(p, 4).op("MatMul", g)]
    found = [by_head[0], *(_summed(x, groups, group) for x in by_head[1:])]
    return [x.op("Transpose", perm=[0, 2, 1, 3]).like(given) if flat else x for x, given in zip(found, n.xs, strict=False)]


def _probabilities(n: Step, q: Value, k: Value, length: int) -> Value:
    """Return P (batch, heads, queries, keys)."""
    kept = ("is_causal", "scale", "softcap", "softmax_precision", "left_window_size", "right_window_size")
    options = {name: n.attribute(name) for name in kept if n.attribute(name) is not None}
    every = n.tape.op("EyeLike", n.tape.op("ConstantOfShape", [length, length]))
    # the shape of q k^T, whose last two axes are those of v for v = 1
    batch_and_heads = k.op("Shape", end=2)
    ones = every.op("Expand", batch_and_heads.op("Concat", [length, length], axis=0))
    return n.tape.op("Attention", q, k, ones, *n.xs[3:4], **options)


def _by_head(x: Value, heads: int, flat: bool) -> Value:
    """Turn (batch, length, heads * width) into (batch, heads, length, width)."""
    return x.op("Reshape", [0, 0, heads, -1]).op("Transpose", perm=[0, 2, 1, 3]) if flat else x


def _repeated(x: Value, groups: int, group: int) -> Value:
    """Repeat each head of keys or values for the `group` heads of queries that share it."""
    if group == 1:
        return x
    whole = x.op("Shape", start=2).op("Identity")
    wide = x.op("Unsqueeze", [2]).op("Expand", x.tape.op("Concat", [1, 1, group], whole, axis=0))
    return wide.op("Reshape", x.tape.op("Concat", [0, groups * group], whole, axis=0))


def _summed(x: Value, groups: int, group: int) -> Value:
    """Undo `_repeated` for a gradient: the sum over the heads that shared one."""
    if group == 1:
        return x
    whole = x.op("Shape", start=2)
    return x.op("Reshape", x.tape.op("Concat", [0, groups, group], whole, axis=0)).op("ReduceSum", [2], keepdims=0)


@rule("RotaryEmbedding")
def _rotary(n: Step) -> InputGradients:
    """Pairs of entries turned by angles: g turned back, by the same cosines and the negative sines"""
    n.require_fixed(1, 2)
    cos, sin, *places = n.xs[1:]
    options = {a: n.attribute(a) for a in ("interleaved", "num_heads", "rotary_embedding_dim") if n.attribute(a) is not None}
    return [n.g.op("RotaryEmbedding", cos, -sin, *places, **options)]
