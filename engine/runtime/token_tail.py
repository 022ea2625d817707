"""The graph behind a vision transformer's tokens, on ONNX Runtime; `export.token_graph` makes it."""

from pathlib import Path

import numpy as np

from engine.errors import BundleError, first_line
from engine.runtime.session import open_session

TOKENS_INPUT, KEPT_INPUT = "sane_tokens", "sane_kept"
"""Inputs: all tokens of one picture, (T, D) float32; and the indices of those that each row keeps, (N, K) int64."""
WITHOUT_COPIES = {"session.disable_prepacking": "1"}
"""In fp32 the weights are those of the similarity graph, mapped from one file: packed for matrix products they would be
copies, and would not be faster here."""


class TokenTail:
    """Gives the embeddings of a picture of which only some tokens are kept; threads may share it.

    precision: fp32 or int8; threads: of the CPU, None for all cores; output: the embedding's name
    Raises BundleError if the graph is not what `export.token_graph` makes.
    """

    def __init__(self, path: Path, precision: str, threads: int | None, output: str) -> None:
        self._path, self._output = path, output
        self._session = open_session(path, "cpu", threads, config=WITHOUT_COPIES if precision == "fp32" else {})
        require_token_inputs(path, {n.name: n.type for n in self._session.get_inputs()})

    def run(self, tokens: np.ndarray, kept: np.ndarray) -> np.ndarray:
        """Return the embeddings (N, E) float32. tokens: (T, D) float32; kept: (N, K) int64. Raises BundleError."""
        try:
            (found,) = self._session.run([self._output], {TOKENS_INPUT: tokens, KEPT_INPUT: kept})
        except Exception as error:  # ONNX Runtime raises its own classes, which share no base with a name
            raise BundleError(f"ONNX Runtime cannot run {self._path}: {first_line(error)}") from error
        return np.asarray(found)


def require_token_inputs(path: Path, types: dict[str, str]) -> None:
    """Raise BundleError unless a graph has these inputs. types: by name, in ONNX Runtime's words"""
    if types != {TOKENS_INPUT: "tensor(float)", KEPT_INPUT: "tensor(int64)"}:
        got = ", ".join(f"{name} {kind}" for name, kind in types.items())
        raise BundleError(
            f"{path} must take {TOKENS_INPUT} float32 and {KEPT_INPUT} int64, but takes {got}; export the bundle again"
        )
