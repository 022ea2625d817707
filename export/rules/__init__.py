"""The derivative of every operator that a gradient graph may contain. Each rule has its mathematics in one line.

A rule gets a `Step` n: a node y = f(x_0, x_1, ...) with g = dL/dy. It returns dL/dx_i for each input, or None if there is no
derivative; inputs at the end that have none may be left out. `n.x` is the first input, `n.y` the first output.
"""

# importing them registers their rules
from export.rules import attention, entrywise, normalisations, products, resize, shapes, sums, windows
from export.rules.step import RULES, Step

__all__ = [
    "RULES",
    "Step",
    "attention",
    "entrywise",
    "normalisations",
    "products",
    "resize",
    "shapes",
    "sums",
    "windows",
]
