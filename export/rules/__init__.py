"""The derivative of every operator that a gradient graph may contain: one rule each, its mathematics in a line.

A rule gets a `Step`, a node y = f(x_0, x_1, ...) with g = dL/dy, and gives dL/dx_i for its inputs: None where there is none,
and nothing for inputs at the end that have none. `n.x` is the first input, `n.y` the first output.
"""

from export.rules import entrywise, shapes, sums, windows  # each adds its rules
from export.rules.step import RULES, Step

__all__ = ["RULES", "Step", "entrywise", "shapes", "sums", "windows"]
