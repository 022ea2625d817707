"""Fill docs/sanity.md with the tables of the committed rows of `python -m benchmarks.sanity`.

python -m tools.sanity
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.record import COMMITTED, read
from engine.evaluate.sanity_figures import FLAT_MAPS, WEIGHTS_CHECK
from engine.evaluate.sanity_page import figure_text
from engine.evaluate.sanity_verdicts import FAILS, SANITY_CHECKS
from engine.files import write_whole

PAGE = Path(__file__).parent.parent / "docs" / "sanity.md"
ROWS = COMMITTED / "sanity.json"
BEGIN, END = "<!-- sanity: python -m tools.sanity -->", "<!-- end of sanity -->"
NETWORKS = {
    "demo": "the embedded demo, on held-out emoji",
    "mobilenet": "MobileNetV2, on crops of photos",
    "vit": "a small vision transformer, on held-out emoji",
}

DEPTHS = ("the last layer shuffled", "the last third", "the last two thirds", "all layers")
"""Networks differ in their number of layers; `Cascade.depths` are these."""


def main() -> None:
    before, rest = PAGE.read_text(encoding="utf-8").split(BEGIN)
    write_whole(PAGE, f"{before}{BEGIN}\n\n{tables(read(ROWS))}\n{END}{rest.split(END)[1]}".encode())


def tables(rows: Sequence[dict[str, Any]]) -> str:
    """Return the verdicts of every row, then the figures check by check."""
    parts = ["## Which method passes", _verdicts(rows), _failures(rows)]
    for check in SANITY_CHECKS:
        parts += [f"## {check.title}", f"{check.asks} It passes {check.bounds()}.", _figures(check.name, rows)]
    return "\n\n".join([*parts, _told(rows)])


def _verdicts(rows: Sequence[dict[str, Any]]) -> str:
    columns = ["network", "method", "pairs", *(check.title.rstrip("?") for check in SANITY_CHECKS)]
    lines = [f"| {' | '.join(columns)} |", "|" + " --- |" * len(columns)]
    for row in rows:
        verdicts = [row["checks"][check.name]["verdict"] for check in SANITY_CHECKS]
        cells = [row["network"], row["method"], str(row["pairs"]), *(f"**{v}**" if v == FAILS else v for v in verdicts)]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def _failures(rows: Sequence[dict[str, Any]]) -> str:
    """Return a line for each verdict but passes: where we fail."""
    lines = []
    for row in rows:
        for check in SANITY_CHECKS:
            judged = row["checks"][check.name]
            if judged["verdict"] == FAILS:
                lines.append(f"- {row['network']}, `{row['method']}`, {check.title.lower()} {' '.join(judged['says'])}")
    return "\n".join(["Where they do not pass:", "", *lines]) if lines else "Every method passes every check here."


def _figures(name: str, rows: Sequence[dict[str, Any]]) -> str:
    labels = [FLAT_MAPS, *DEPTHS] if name == WEIGHTS_CHECK else list(rows[0]["checks"][name]["figures"])
    columns = ["network", "method", "pairs", *labels]
    lines = [f"| {' | '.join(columns)} |", "|" + " --- |" * len(columns)]
    for row in rows:
        judged = row["checks"][name]
        cells = [row["network"], row["method"], str(judged["pairs"]), *map(figure_text, judged["figures"].values())]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def _told(rows: Sequence[dict[str, Any]]) -> str:
    where = sorted(
        {f"{r['machine']}, onnxruntime {r['onnxruntime']}, numpy {r['numpy']}, commit {r['commit'][:7]}" for r in rows}
    )
    networks = "; ".join(f"`{name}` is {text}" for name, text in NETWORKS.items() if any(r["network"] == name for r in rows))
    first = rows[0]
    return f"{networks}. fp32, seed {first['seed']}, {first['masks']} masks, samples or steps. {'; '.join(where)}."


if __name__ == "__main__":
    main()
