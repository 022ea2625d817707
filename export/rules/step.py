"""What a rule gets: one node of a graph on the way back, and what others may ask of it."""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from onnx import NodeProto, helper

from export.errors import ExportError
from export.tape import Tape, Value


@dataclasses.dataclass(frozen=True, eq=False)
class Step:
    """One node on the way back. gs: dL/dy per output, None where nothing depends on it; wanted: inputs that depend on the
    picture
    """

    tape: Tape
    node: NodeProto
    gs: Sequence[Value | None]
    wanted: Sequence[bool]

    @property
    def xs(self) -> list[Value]:
        return [self.tape.value(name) for name in self.node.input]

    @property
    def x(self) -> Value:
        return self.tape.value(self.node.input[0])

    @property
    def y(self) -> Value:
        return self.tape.value(self.node.output[0])

    @property
    def g(self) -> Value:
        first = self.gs[0]
        if first is None:
            raise self.fault("only its further outputs are used")
        return first

    def attribute(self, name: str, default: Any = None) -> Any:
        found = [helper.get_attribute_value(a) for a in self.node.attribute if a.name == name]
        value = found[0] if found else default
        return value.decode() if isinstance(value, bytes) else value

    def constant(self, index: int) -> np.ndarray | None:
        """An optional input that must not depend on the picture; None where it is left out."""
        if index >= len(self.node.input) or not self.node.input[index]:
            return None
        array = self.xs[index].array
        if array is None:
            raise self.fault(f"input {index} is computed from the picture")
        return array

    def needed(self, index: int) -> np.ndarray:
        """An input that must be there, and not depend on the picture."""
        array = self.constant(index)
        if array is None:
            raise self.fault(f"input {index} is missing")
        return array

    def axes(self, index: int = 1) -> list[int]:
        """Of a reduction, all where none are given."""
        given, rank = self.constant(index), len(self.x.shape)
        return list(range(rank)) if given is None or not given.size else sorted(int(a) % rank for a in given)

    def kept(self, value: Value) -> Value:
        """`value`, shaped like a reduction's output, with the reduced axes back as size 1."""
        return value if self.attribute("keepdims", 1) else value.op("Unsqueeze", self.axes())

    def sizes(self, value: Value, axes: Sequence[int]) -> list[int]:
        """Fixed sizes of these axes."""
        found = [value.shape[a] for a in axes]
        if any(size is None for size in found):
            raise self.fault("it works along the batch")
        return [int(size) for size in found if size is not None]

    def fault(self, why: str) -> ExportError:
        return ExportError(
            f"the gradient of node {self.node.name!r} ({self.node.op_type}) is not known where {why}; "
            "export the model without --gradient, or write this operator otherwise in the model"
        )


InputGradients = Sequence[Value | None]
Rule = Callable[[Step], InputGradients]
RULES: dict[str, Rule] = {}


def rule(*operators: str) -> Callable[[Rule], Rule]:
    def register(function: Rule) -> Rule:
        RULES.update(dict.fromkeys(operators, function))
        return function

    return register
