"""Fill docs/rivals.md with the table of the committed rows of `python -m benchmarks.rivals`.

python -m tools.rivals
"""

import json
from pathlib import Path
from typing import Any

from engine.files import write_whole

PAGE = Path(__file__).parent.parent / "docs" / "rivals.md"
ROWS = Path(__file__).parent.parent / "benchmarks" / "results" / "rivals" / "rivals.json"
BEGIN, END = "<!-- table: python -m tools.rivals -->", "<!-- end of table -->"
MEASURES = {
    # in the rows -> what the page calls it, its format, and which is better: 1 the larger, -1 the smaller, 0 neither
    "pointing": ("pointing", ".2f", 1),
    "mass_over_area": ("mass over area", ".2f", 1),
    "auroc": ("AUROC of the object", ".3f", 1),
    "insertion": ("insertion", ".3f", 1),
    "deletion": ("deletion", ".3f", -1),
    "seed_to_seed": ("seed to seed", ".3f", 1),
    "right_object": ("right one of two objects", ".2f", 1),
    "sticker": ("pointing at a sticker", ".2f", 1),
    "cpu_s": ("CPU seconds", ".1f", -1),
    "growth_mb": ("growth of memory, MB", ".0f", -1),
    "passes": ("passes", ".0f", 0),
}
NAMES = {"ours": "the default", "published": "published estimator", "distance-explainer": "distance-explainer"}
Row = dict[str, Any]


def main() -> None:
    text = PAGE.read_text(encoding="utf-8")
    rows = json.loads(ROWS.read_text(encoding="utf-8"))
    before, rest = text.split(BEGIN)
    write_whole(PAGE, f"{before}{BEGIN}\n\n{table(rows)}\n{END}{rest.split(END)[1]}".encode())


def table(rows: list[Row]) -> str:
    """The measures of every method, the paired differences, and what they say. rows: the default's first"""
    others = rows[1:]
    heads = ["measure", "better", *(NAMES[row["method"]] for row in rows)]
    heads += [f"default - {NAMES[row['method']]}" for row in others]
    lines = [f"| {' | '.join(heads)} |", "|" + " --- |" * len(heads)]
    for measure, (name, form, better) in MEASURES.items():
        cells = [name, {1: "high", -1: "low", 0: ""}[better]]
        cells += [_interval(row["measures"][measure], form) for row in rows]
        cells += [_interval(row["ours_less"][measure], f"+{form}") for row in others]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join([*lines, "", *(verdict(row) for row in others), "", _told(rows)])


def verdict(row: Row) -> str:
    """In which measures the default is better than a method, in which worse: its interval of differences leaves out 0."""
    found: dict[str, list[str]] = {"better": [], "worse": [], "no difference shown": []}
    for measure, (name, _, better) in MEASURES.items():
        ends = sorted(better * row["ours_less"][measure][end] for end in ("low", "high"))
        if better:
            found["better" if ends[0] > 0 else "worse" if ends[1] < 0 else "no difference shown"].append(name)
    said = "; ".join(f"{how}: {', '.join(names) or 'nothing'}" for how, names in found.items())
    return f"- The default against {NAMES[row['method']]}: {said}."


def _interval(found: dict[str, float], form: str) -> str:
    mean, low, high = (f"{found[key]:{form}}" for key in ("mean", "low", "high"))
    return f"{mean} ({low} to {high})"


def _told(rows: list[Row]) -> str:
    row, commits = rows[-1], ", ".join(dict.fromkeys(row["commit"] for row in rows))
    return (
        f"{row['pairs']} pairs, seeds from {row['first_seed']}; {row['network']}, {row['precision']}, threads: "
        f"{row['threads']}; {row['masks']} masks for both others; distance-explainer {row['distance-explainer']}, "
        f"dianna {row['dianna']}, onnxruntime {row['onnxruntime']}; {row['machine']}, commit {commits}."
    )


if __name__ == "__main__":
    main()
