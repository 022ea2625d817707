"""The rooms keep to themselves: who may import whom (CONTRIBUTING.md)."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
FORBIDDEN = {
    "engine": {"torch", "export", "training", "benchmarks", "onnx"},
    "kernels": {"torch", "engine", "export", "training", "benchmarks", "onnxruntime"},
    "export": {"training", "benchmarks"},
    "training": {"benchmarks"},
}


def imported(file: Path) -> set[str]:
    """Top-level packages that a file imports anywhere in it."""
    names = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names.add(node.module.split(".")[0])
    return names


@pytest.mark.parametrize("room", FORBIDDEN)
def test_a_room_imports_only_what_it_may(room: str) -> None:
    files = sorted((ROOT / room).rglob("*.py"))
    assert files
    for file in files:
        assert not imported(file) & FORBIDDEN[room], file
