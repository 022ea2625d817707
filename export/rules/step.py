"""The input of a rule: one node of a graph and the gradients of its outputs."""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from onnx import NodeProto, helper

from export.errors import ExportError
from export.tape import Tape, Value


@dataclasses.dataclass(frozen=True, eq=False)
class Step:
    """One node of the backward pass.

    gs: dL/dy for each output, None if L does not depend on it; wanted: for each input, whether it depends on the picture
    """

    tape: Tape
    node: NodeProto
    gs: Sequence[Value | None]
    wanted: Sequence[bool]

    @property
    def xs(self) -> list[Value]:
        """All inputs."""
        return [self.tape.value(name) for name in self.node.input]

    @property
    def x(self) -> Value:
        """The first input."""
        return self.tape.value(self.node.input[0])

    @property
    def y(self) -> Value:
        """The first output."""
        return self.tape.value(self.node.output[0])

    @property
    def g(self) -> Value:
        """The gradient of the first output."""
        first = self.gs[0]
        if first is None:
            raise self.fault("only its second output, or a later one, is used")
        return first

    def attribute(self, name: str, default: Any = None) -> Any:
        """Return an ONNX attribute of the node."""
        found = [helper.get_attribute_value(a) for a in self.node.attribute if a.name == name]
        value = found[0] if found else default
        return value.decode() if isinstance(value, bytes) else value

    def constant(self, index: int) -> np.ndarray | None:
        """Return an optional input that must not depend on the picture; None if it is left out. Raises ExportError."""
        if index >= len(self.node.input) or not self.node.input[index]:
            return None
        array = self.xs[index].array
        if array is None:
            raise self.fault(f"input {index} is computed from the picture")
        return array

    def needed(self, index: int) -> np.ndarray:
        """Return an input that must be there and must not depend on the picture. Raises ExportError."""
        array = self.constant(index)
        if array is None:
            raise self.fault(f"input {index} is missing")
        return array

    def axes(self) -> list[int]:
        """Return the axes of a reduction; all axes if none are given."""
        given, rank = self.constant(1), len(self.x.shape)
        return list(range(rank)) if given is None or not given.size else sorted(int(a) % rank for a in given)

    def kept(self, value: Value) -> Value:
        """Return `value`, shaped like a reduction's output, with the reduced axes restored with size 1."""
        return value if self.attribute("keepdims", 1) else value.op("Unsqueeze", self.axes())

    def sizes(self, value: Value, axes: Sequence[int]) -> list[int]:
        """Return the sizes of these axes. Raises ExportError if one of them is the batch."""
        found = [value.shape[a] for a in axes]
        if any(size is None for size in found):
            raise self.fault("it works along the batch")
        return [int(size) for size in found if size is not None]

    def require_fixed(self, *indices: int) -> None:
        """Raise ExportError if one of these inputs depends on the picture: the rule has no derivative for it."""
        for index in indices:
            if index < len(self.wanted) and self.wanted[index]:
                raise self.fault(f"input {index} is computed from the picture")

    def fault(self, why: str) -> ExportError:
        """Return an error that names the node and says why it has no gradient."""
        return ExportError(
            f"the gradient of node {self.node.name!r} ({self.node.op_type}) is not known, because {why}: "
            "replace this operator in the model"
        )


InputGradients = Sequence[Value | None]
Rule = Callable[[Step], InputGradients]
RULES: dict[str, Rule] = {}


def rule(*operators: str) -> Callable[[Rule], Rule]:
    """Register the decorated function as the rule of these operators."""

    def register(function: Rule) -> Rule:
        RULES.update(dict.fromkeys(operators, function))
        return function

    return register
