"""The error of an export that fails; errors that inference raises too are in engine.errors."""

from engine.errors import EngineError


class ExportError(EngineError):
    """A model, checkpoint or ONNX file that cannot be exported as requested."""


def root_cause(error: BaseException) -> str:
    """Return the type and first line of the error at the root of `error`: exporters wrap it in pages of advice."""
    while error.__cause__ is not None:
        error = error.__cause__
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__
