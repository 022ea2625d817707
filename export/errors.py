"""What goes wrong between a trained model and its bundle; errors that inference shares are in engine.errors."""

from engine.errors import EngineError


class ExportError(EngineError):
    """A model, checkpoint or ONNX file that cannot be exported as it was asked for."""


def root_cause(error: BaseException) -> str:
    """The first line of the error at the root of `error`, with its type: exporters wrap it in pages of advice."""
    while error.__cause__ is not None:
        error = error.__cause__
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__
