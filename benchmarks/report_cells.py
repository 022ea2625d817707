"""Tables and cells of docs/benchmarks.md."""

from collections.abc import Callable, Iterable
from typing import Any

Row = dict[str, Any]
Column = tuple[str, Callable[[Row], str]]


def table(columns: Iterable[Column], rows: Iterable[Any]) -> str:
    """Return a Markdown table, a line for each row. columns: head, and what it says of a row"""
    chosen = list(columns)
    lines = ["| " + " | ".join(name for name, _ in chosen) + " |", "| " + " | ".join("---" for _ in chosen) + " |"]
    lines += ["| " + " | ".join(cell(row) for _, cell in chosen) + " |" for row in rows]
    return "\n".join(lines) + "\n"


def network(row: Row) -> str:
    """Name a row's network and the size of its pictures."""
    return f"{row['network']}, {row['size']} px"


def met(got: float, wanted: float) -> str:
    """Say whether a target was met."""
    return "met" if got >= wanted else "**not met**"


def spread(values: list[float]) -> str:
    """Write the lowest and the highest of several measurements."""
    return f"({short(values[0])} to {short(values[1])})"


def short(value: float) -> str:
    """Write a number with three digits and separated thousands."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"
