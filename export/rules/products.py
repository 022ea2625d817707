"""Derivatives of matrix products."""

from collections import Counter

from export.rules.step import InputGradients, Step, rule
from export.tape import Value


@rule("MatMul")
def _matmul(n: Step) -> InputGradients:
    """y = a b: g b^T and a^T g, summed over the axes that were broadcast"""
    a, b = n.xs
    if min(len(a.shape), len(b.shape)) < 2:
        raise n.fault("one factor is a vector")
    return [
        _unstacked(n.g.op("MatMul", flipped(b, len(b.shape))), a, n.y) if n.wanted[0] else None,
        _unstacked(flipped(a, len(a.shape)).op("MatMul", n.g), b, n.y) if n.wanted[1] else None,
    ]


def flipped(matrix: Value, rank: int) -> Value:
    """Exchange the last two axes of a value with `rank` axes.

    For a weight the runtime does it when it loads the graph: stored numbers would double the file.
    """
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


@rule("Einsum")
def _einsum(n: Step) -> InputGradients:
    """y = sum of the products of the x_i along the equation: g times the other x_j, summed to the letters of x_i"""
    equation = n.attribute("equation").replace(" ", "")
    left, arrow, out = equation.partition("->")
    terms = left.split(",")
    if "." in equation or any(len(set(term)) < len(term) for term in terms):
        raise n.fault(f"its equation {equation} has dots, or a letter twice in one term")
    if not arrow:
        out = "".join(letter for letter, count in sorted(Counter("".join(terms)).items()) if count == 1)
    return [_einsum_term(n, terms, out, i) if wanted else None for i, wanted in enumerate(n.wanted)]


def _einsum_term(n: Step, terms: list[str], out: str, index: int) -> Value:
    """Return the gradient by one term. Letters that it alone has were summed over: the gradient is repeated along them."""
    mine = terms[index]
    others = [i for i in range(len(terms)) if i != index]
    found = {*out, *(letter for i in others for letter in terms[i])}
    shared = "".join(letter for letter in mine if letter in found)
    equation = f"{','.join([out, *(terms[i] for i in others)])}->{shared}"
    g = n.tape.op("Einsum", n.g, *(n.xs[i] for i in others), equation=equation)
    alone = [axis for axis, letter in enumerate(mine) if letter not in found]
    return g.op("Unsqueeze", alone).expanded(n.xs[index]) if alone else g
