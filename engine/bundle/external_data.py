"""Find the files in which an ONNX graph keeps tensors, from its protobuf bytes and without the onnx package.

They are checked before ONNX Runtime opens them, because a name could lead outside the bundle.
"""

from collections.abc import Iterator

from engine.errors import BundleError

# message -> field number -> message in that field, for every path from a model to a tensor (onnx.proto)
MESSAGE_FIELDS = {
    "model": {7: "graph", 20: "training", 25: "function"},
    "training": {1: "graph", 2: "graph"},
    "function": {7: "node", 11: "attribute"},
    "graph": {1: "node", 5: "tensor", 15: "sparse"},
    "node": {5: "attribute"},
    "attribute": {5: "tensor", 6: "graph", 10: "tensor", 11: "graph", 22: "sparse", 23: "sparse"},
    "sparse": {1: "tensor", 2: "tensor"},
    "tensor": {13: "entry"},
}
LENGTH_DELIMITED = 2
FIXED_SIZES = {1: 8, 5: 4}
LONGEST_VARINT = 70
"""Bits, seven in a byte."""


def external_files(model: bytes) -> set[str]:
    """Return the locations of external data in a serialised ModelProto. Raises BundleError if it is not one."""
    try:
        return set(_locations(memoryview(model), "model"))
    except (IndexError, UnicodeDecodeError, RecursionError) as error:
        raise BundleError(f"a graph of the bundle is not an ONNX file ({error}); export the bundle again") from error


def _locations(data: memoryview, message: str) -> Iterator[str]:
    inner = MESSAGE_FIELDS[message]
    for number, value in _fields(data):
        kind = inner.get(number)
        if kind == "entry":
            entry = {key: bytes(text).decode() for key, text in _fields(value)}
            if entry.get(1) == "location":
                yield entry.get(2, "")
        elif kind is not None:
            yield from _locations(value, kind)


def _fields(data: memoryview) -> Iterator[tuple[int, memoryview]]:
    """Yield (field number, bytes) of every length-delimited field; skip numbers."""
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
            _, at = _varint(data, at)
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
