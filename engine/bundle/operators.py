"""What a graph of a bundle must not do, found in its bytes before ONNX Runtime opens it: never end, or draw random numbers.

Without Loop, and with functions that do not double without end, every node runs once, or once for each slice of a tensor
that is there, so that every run ends.
"""

import graphlib
import itertools
import math
from collections.abc import Iterator, Set
from pathlib import Path

import numpy as np

from engine.bundle.external_data import MESSAGE_FIELDS, fields_of, messages_of, whole_numbers
from engine.errors import BundleError

ENDLESS = {"Loop"}
RANDOM_NUMBERS = {"RandomNormal", "RandomNormalLike", "RandomUniform", "RandomUniformLike", "Multinomial", "Bernoulli"}
SHAPED = {"ConstantOfShape": 0, "Expand": 1}
"""Operators that make a tensor of any shape from one number, and which of their inputs is the shape."""
SHAPED_OR_CONSTANT = tuple(kind.encode() for kind in (*SHAPED, "Constant"))
MOST_DIMENSIONS = 16
"""Of a tensor that a graph may make from one number."""
MOST_NODES = 2**14
"""That a function of a model may stand for, with those that it calls."""
LARGEST_TENSOR = 2**28
"""Numbers of a tensor that a graph may make from one number: a gigabyte in float32."""
NODE_INPUT, NODE_OUTPUT, NODE_OPERATOR, NODE_ATTRIBUTE = 1, 2, 4, 5
TENSOR_INTEGERS, TENSOR_NAME, TENSOR_BYTES, TENSOR_ELSEWHERE = 7, 8, 9, 13
ATTRIBUTE_TENSOR, ATTRIBUTE_INTEGERS = 5, 8
FUNCTION_NAME, CALLED_NAME = (1, 10, 13), (4, 7, 8)
"""Field numbers of onnx.proto."""
Fields = list[tuple[int, memoryview]]
"""Of one message: number and bytes of each."""


def check_operators(model: bytes, operators: Set[str], path: Path) -> None:
    """Raise BundleError if a serialised ModelProto has, at any depth, an operator that no bundle may have.

    operators: of it, from `files_and_operators`; path: of its file, for messages
    """
    if endless := sorted(operators & ENDLESS):
        raise BundleError(f"{path} has a {endless[0]}, which may never end: export the model with it unrolled")
    if drawing := sorted(operators & RANDOM_NUMBERS):
        raise BundleError(f"{path} draws random numbers ({drawing[0]}): export the model for inference")
    try:
        kinds = MESSAGE_FIELDS["model"]
        parts = [(kinds[number], part) for number, part in fields_of(memoryview(model)) if number in kinds]
        functions = [part for kind, part in parts if kind == "function"]
        _check_functions(functions, path)
        if operators & SHAPED.keys():
            _check_shapes(_whole([part for kind, part in parts if kind == "graph"]), "graph", path)
            for function in functions:  # a name means something in one of them
                _check_shapes(function, "function", path)
    except (IndexError, UnicodeDecodeError) as error:
        raise BundleError(f"{path} is not an ONNX file ({error}); export the bundle again") from error


def _check_functions(functions: list[memoryview], path: Path) -> None:
    """Raise BundleError if functions of the model's own call each other so often that a runtime would not end inlining."""

    def key(message: memoryview, numbers: tuple[int, int, int]) -> tuple[str, ...]:
        fields = list(fields_of(message))
        return tuple(_text(fields, number) for number in numbers)

    calls: dict[tuple[str, ...], list[tuple[str, ...]]] = {}
    for function in functions:
        nodes = messages_of(function, ("node",), "function")
        calls[key(function, FUNCTION_NAME)] = [key(node, CALLED_NAME) for _, node in nodes]
    sizes: dict[tuple[str, ...], int] = {}
    try:
        order = list(
            graphlib.TopologicalSorter({f: [c for c in called if c in calls] for f, called in calls.items()}).static_order()
        )
    except graphlib.CycleError as error:
        raise BundleError(f"{path} has a function that calls itself: export the model with its functions inlined") from error
    for name in order:
        sizes[name] = sum(sizes.get(called, 1) for called in calls[name])
        if sizes[name] > MOST_NODES:
            raise BundleError(
                f"{path} has a function that stands for {sizes[name]:,} nodes, and {MOST_NODES:,} are allowed: export the "
                "model with its functions inlined"
            )


def _check_shapes(scope: memoryview, kind_of: str, path: Path) -> None:
    """Raise BundleError if a constant says that a tensor has more numbers than are allowed, or hides what it says.

    kind_of: of MESSAGE_FIELDS
    """
    wanted: dict[str, str] = {}  # names of shapes, and the operator that reads each
    constants = []
    for _, node in messages_of(scope, ("node",), kind_of):
        content = bytes(node)
        if any(kind in content for kind in SHAPED_OR_CONSTANT):  # few of many are looked into
            fields = list(fields_of(node))
            kind = _text(fields, NODE_OPERATOR)
            inputs = [bytes(value).decode() for number, value in fields if number == NODE_INPUT]
            if SHAPED.get(kind, len(inputs)) < len(inputs):
                wanted[inputs[SHAPED[kind]]] = kind
            elif kind == "Constant":
                constants.append(fields)
    for name, shape in _constants(scope, kind_of, constants, wanted.keys()):
        if shape is None or len(shape) > MOST_DIMENSIONS:
            raise BundleError(
                f"{path} has the shape of a tensor ({wanted[name]}) in another file, or of more than {MOST_DIMENSIONS} "
                "dimensions: export the model with its small tensors inside"
            )
        if math.prod(shape) > LARGEST_TENSOR:
            raise BundleError(
                f"{path} makes a tensor of {math.prod(shape):,} numbers ({wanted[name]}), and {LARGEST_TENSOR:,} are "
                "allowed: export the model for smaller pictures"
            )


def _constants(
    scope: memoryview, kind_of: str, nodes: list[Fields], wanted: Set[str]
) -> Iterator[tuple[str, list[int] | None]]:
    """What `_integers` finds in the wanted tensors, by name: initializers, and results of nodes named Constant."""
    for _, tensor in messages_of(scope, ("tensor",), kind_of):
        fields = list(fields_of(tensor))
        if _text(fields, TENSOR_NAME) in wanted:
            yield _text(fields, TENSOR_NAME), _integers(fields)
    for node in nodes:
        for name in wanted & {bytes(value).decode() for number, value in node if number == NODE_OUTPUT}:
            for attribute in (list(fields_of(value)) for number, value in node if number == NODE_ATTRIBUTE):
                yield name, _numbers(attribute, ATTRIBUTE_INTEGERS)
                tensor = _whole([value for number, value in attribute if number == ATTRIBUTE_TENSOR])
                yield name, _integers(list(fields_of(tensor)))


def _integers(tensor: Fields) -> list[int] | None:
    """The first numbers of a tensor of int64, one more than a shape may have; None if they lie in another file."""
    if any(number == TENSOR_ELSEWHERE for number, _ in tensor):
        return None
    packed = [value for number, value in tensor if number == TENSOR_BYTES]
    if not packed:
        return _numbers(tensor, TENSOR_INTEGERS)
    values = packed[-1][: 8 * (MOST_DIMENSIONS + 1)]
    return [] if len(values) % 8 else np.frombuffer(values, "<i8").tolist()


def _numbers(fields: Fields, wanted: int) -> list[int]:
    """As many numbers of a field of int64."""
    found = (one for number, value in fields if number == wanted for one in whole_numbers(value))
    return list(itertools.islice(found, MOST_DIMENSIONS + 1))


def _whole(parts: list[memoryview]) -> memoryview:
    """The message that a protobuf reader sees where a field of one message occurs several times."""
    return parts[0] if len(parts) == 1 else memoryview(b"".join(parts))


def _text(fields: Fields, wanted: int) -> str:
    """The text of a field; of one that occurs several times the last, as protobuf readers have it."""
    return next((bytes(value).decode() for number, value in reversed(fields) if number == wanted), "")
