"""Data that was read is what a dataclass says of its fields, or refused: their annotations are the contract."""

import dataclasses
import functools
import sys
import types
import typing
from typing import Any, TypeVar

import numpy as np

from engine.errors import OptionError, shortened

T = TypeVar("T")
LARGEST_WHOLE = 2**64 - 1
"""Whole numbers that are read lie within this on both sides."""


def typed(kind: type[T], fields: object) -> T:
    """Return a dataclass of what was read for its fields: JSON's lists become tuples, its objects dataclasses.

    Raises OptionError if a field is missing, unknown or of another type; numbers must be finite, and arrays arrays.
    """
    if not isinstance(fields, dict):
        raise OptionError(f"fields are wanted, got {_short(fields)}")
    wanted = _annotations(typing.cast(Any, kind))
    required = {f.name for f in dataclasses.fields(typing.cast(Any, kind)) if _has_no_default(f)}
    missing, unknown = sorted(required - set(fields)), sorted(map(str, set(fields) - set(wanted)))
    if missing or unknown:
        odd = f"lacks {', '.join(missing)}" if missing else f"has unknown {', '.join(unknown)}"
        raise OptionError(f"it {shortened(odd)}")
    return kind(**{name: _value(name, value, wanted[name]) for name, value in fields.items()})


@functools.cache
def _annotations(kind: type) -> dict[str, Any]:
    hints = typing.get_type_hints(kind)
    return {field.name: hints[field.name] for field in dataclasses.fields(kind)}


def _has_no_default(field: "dataclasses.Field[Any]") -> bool:
    return field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING


def _value(name: str, value: object, kind: Any) -> Any:
    """Return a value as the annotation `kind` wants it."""
    if isinstance(kind, types.UnionType):
        kinds = typing.get_args(kind)
        if value is None and types.NoneType in kinds:
            return None
        (kind,) = (k for k in kinds if k is not types.NoneType)
    if dataclasses.is_dataclass(kind):
        return typed(typing.cast(type, kind), value)
    origin, inner = typing.get_origin(kind), typing.get_args(kind)
    if origin is tuple:
        return _tuple(name, value, inner)
    if origin is dict and isinstance(value, dict) and all(isinstance(key, str) for key in value):
        return {key: _value(f"{name}, {key}", one, inner[1]) for key, one in value.items()}
    if kind is Any or (origin is None and _is(value, kind)):
        return value
    raise OptionError(f"{name} must be {WORDS.get(origin or kind, kind)}, got {_short(value)}")


def _tuple(name: str, value: object, inner: tuple[Any, ...]) -> tuple[Any, ...]:
    many = len(inner) == 2 and inner[1] is Ellipsis
    if not isinstance(value, (list, tuple)) or not (many or len(value) == len(inner)):
        raise OptionError(f"{name} must be a list{'' if many else f' of {len(inner)}'}, got {_short(value)}")
    kinds = inner[:1] * len(value) if many else inner
    return tuple(_value(name, one, kind) for one, kind in zip(value, kinds, strict=True))


def _is(value: object, kind: Any) -> bool:
    if kind is float:
        return isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) <= sys.float_info.max
    if kind is int:
        return isinstance(value, int) and not isinstance(value, bool) and abs(value) <= LARGEST_WHOLE
    return isinstance(value, kind)


WORDS = {float: "a finite number", int: "a whole number", str: "text", bool: "true or false", np.ndarray: "an array"}
WORDS |= {dict: "an object of named values"}


def _short(value: object) -> str:
    """The value, or its type where it is long or is itself no text."""
    if isinstance(value, (str, float, bool, types.NoneType)):
        return shortened(repr(value))
    return type(value).__name__
