"""Find the files in which an ONNX graph keeps tensors, and its operators, from its protobuf bytes, without the onnx package.

They are checked before ONNX Runtime opens the graph: a name could lead outside the bundle, a loop could never end.
"""

from collections.abc import Container, Iterator

from engine.errors import BundleError

# message -> field number -> what is in that field, for every path from a model to a tensor or a node (onnx.proto)
MESSAGE_FIELDS = {
    "model": {7: "graph", 20: "training", 25: "function"},
    "training": {1: "graph", 2: "graph"},
    "function": {7: "node", 11: "attribute"},
    "graph": {1: "node", 5: "tensor", 15: "sparse"},
    "node": {4: "operator", 5: "attribute"},
    "attribute": {5: "tensor", 6: "graph", 10: "tensor", 11: "graph", 22: "sparse", 23: "sparse"},
    "sparse": {1: "tensor", 2: "tensor"},
    "tensor": {13: "entry"},
}
LENGTH_DELIMITED = 2
FIXED_SIZES = {1: 8, 5: 4}
LONGEST_VARINT = 70
"""Bits, seven in a byte."""


def files_and_operators(model: bytes) -> tuple[set[str], set[str]]:
    """Return the locations of external data in a serialised ModelProto, and the types of its nodes, at every depth.

    Raises BundleError if it is not one.
    """
    files, operators = set(), set()
    try:
        for kind, value in messages_of(memoryview(model), ("entry", "operator")):
            if kind == "operator":
                operators.add(bytes(value).decode())
                continue
            entry = {key: bytes(text).decode() for key, text in fields_of(value)}
            if entry.get(1) == "location":
                files.add(entry.get(2, ""))
    except (IndexError, UnicodeDecodeError, RecursionError) as error:
        raise BundleError(f"a graph of the bundle is not an ONNX file ({error}); export the bundle again") from error
    return files, operators


def messages_of(data: memoryview, wanted: Container[str], message: str = "model") -> Iterator[tuple[str, memoryview]]:
    """Yield every part of these kinds, of MESSAGE_FIELDS, at any depth. Raises IndexError where the bytes are no message."""
    inner = MESSAGE_FIELDS[message]
    for number, value in fields_of(data):
        kind = inner.get(number, "")
        if kind in wanted:
            yield kind, value
        if kind in MESSAGE_FIELDS:
            yield from messages_of(value, wanted, kind)


def whole_numbers(packed: memoryview) -> Iterator[int]:
    """Yield the numbers of a packed field of int64. Raises IndexError where it is none."""
    at = 0
    while at < len(packed):
        value, at = _varint(packed, at)
        yield value - 2**64 if value >= 2**63 else value


def fields_of(data: memoryview) -> Iterator[tuple[int, memoryview]]:
    """Yield (field number, bytes) of every field of a message but numbers of a fixed size. Raises IndexError."""
    at = 0
    while at < len(data):
        key, at = _varint(data, at)
        if key >= 2**32:  # protobuf's C++ reader drops the upper bits, so it would see another field
            raise IndexError(f"field key {key}")
        kind = key & 7
        if kind == LENGTH_DELIMITED:
            size, at = _varint(data, at)
            if at + size > len(data):
                raise IndexError("a field reaches past its end")
            yield key >> 3, data[at : at + size]
            at += size
        elif kind in FIXED_SIZES:
            at += FIXED_SIZES[kind]
        elif kind == 0:
            start, (_, at) = at, _varint(data, at)
            yield key >> 3, data[start:at]
        else:
            raise IndexError(f"wire type {kind}")


def _varint(data: memoryview, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = data[at]
        value |= (byte & 0x7F) << shift
        at, shift = at + 1, shift + 7
        if byte < 0x80:
            return value, at
        if shift >= LONGEST_VARINT:
            raise IndexError("a number is longer than protobuf allows")
