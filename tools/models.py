"""Fill docs/models.md with the table of the committed rows of `python -m benchmarks.models`.

python -m tools.models
"""

import json
from pathlib import Path
from typing import Any

from engine.files import write_whole

PAGE = Path(__file__).parent.parent / "docs" / "models.md"
ROWS = Path(__file__).parent.parent / "benchmarks" / "results" / "models.json"
QUANTIZED = Path(__file__).parent.parent / "benchmarks" / "results" / "quantize.json"
BEGIN, END = "<!-- {}: python -m tools.models -->", "<!-- end of {} -->"
COLUMNS = (
    *("model", "D", "weights, MB", "least cosine", "neighbours", "explain, CPU s", "passes", "explain, MB"),
    *("export, MB", "gradient", "with it, MB"),
)
BASE_MB, ROOM_MB = 1500, 500
"""What exports and explanations may take beside three times, and once, the weights."""


def main() -> None:
    text = PAGE.read_text(encoding="utf-8")
    for name, table in (("matrix", matrix(_rows(ROWS))), ("quantize", quantize(_rows(QUANTIZED)))):
        before, rest = text.split(BEGIN.format(name))
        text = f"{before}{BEGIN.format(name)}\n\n{table}\n{END.format(name)}{rest.split(END.format(name))[1]}"
    write_whole(PAGE, text.encode())


def matrix(rows: list[dict[str, Any]]) -> str:
    """The table of families; what misses a limit has a star."""
    lines = [
        f"| {' | '.join(COLUMNS)} |",
        "|" + " --- |" * len(COLUMNS),
    ]
    for row in rows:
        if "error" in row and "least_cosine" not in row:
            lines.append(f"| {row['model']} | {row['error']} |" + " |" * (len(COLUMNS) - 2))
            continue
        weights = row["weights_mb"]
        cells = [
            row["model"],
            str(row["embedding"]),
            f"{weights:.0f}",
            _starred(f"{row['least_cosine']:.6f}", row["least_cosine"] >= 0.9999),
            _starred(f"{row['neighbours']} of {row['pictures']}", row["neighbours"] == row["pictures"]),
            f"{row['explain_cpu_s']:.1f}",
            str(row["passes"]),
            _starred(str(row["explain_peak_mb"]), row["explain_peak_mb"] <= weights + ROOM_MB),
            _starred(str(row["export_peak_mb"]), row["export_peak_mb"] <= 3 * weights + BASE_MB),
            row.get("gradient", row.get("error", "")),
            _starred(str(row.get("gradient_peak_mb", "")), row.get("gradient_peak_mb", 0) <= 3 * weights + BASE_MB),
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join([*lines, "", _told(rows)])


def quantize(rows: list[dict[str, Any]]) -> str:
    """What `export quantize` said of some of them."""
    lines = ["| model | seconds | auto takes | what it said |", "| --- | --- | --- | --- |"]
    for row in rows:
        said = "; ".join(row.get("quantize_said", [])) or row.get("error", "")
        lines.append(
            f"| {row['model']} | {row.get('quantize_s', '')} | {row.get('quantize', '')} | {said.replace('|', '/')} |"
        )
    return "\n".join([*lines, "", _told(rows)])


def _starred(text: str, good: bool) -> str:
    return text if good else f"{text} *"


def _told(rows: list[dict[str, Any]]) -> str:
    """The circumstances of the rows, which may have several commits."""
    commits = ", ".join(dict.fromkeys(row["commit"] for row in rows))
    row = rows[0]
    libraries = ", ".join(f"{name} {row[name]}" for name in ("onnxruntime", "torch", "transformers", "timm") if name in row)
    return f"{row['machine']}; {libraries}; commits {commits}."


def _rows(path: Path) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(path.read_text(encoding="utf-8"))
    return found


if __name__ == "__main__":
    main()
