"""Fill docs/links.md with the table of the committed rows of `python -m benchmarks.links`.

python -m tools.links
"""

import json
from pathlib import Path
from typing import Any

from engine.files import write_whole

ROOT = Path(__file__).parent.parent
PAGE = ROOT / "docs" / "links.md"
ROWS = ROOT / "benchmarks" / "results" / "links" / "links.json"
BEGIN, END = "<!-- links: python -m tools.links -->", "<!-- end of links -->"
KINDS = {
    "object": "one object at two places",
    "sticker": "one sticker on unrelated pictures",
    "unrelated": "such pictures without it",
    "photos": "photos of different things",
}


def main() -> None:
    text = PAGE.read_text(encoding="utf-8")
    before, rest = text.split(BEGIN)
    rows = json.loads(ROWS.read_text(encoding="utf-8"))
    write_whole(PAGE, f"{before}{BEGIN}\n\n{table(rows)}\n{END}{rest.split(END)[1]}".encode())


def table(rows: list[dict[str, Any]]) -> str:
    columns = (
        "network",
        "pairs",
        "links a pair",
        "pairs with a link",
        "right",
        "the first right",
        "largest 4 entries right",
    )
    lines = [f"| {' | '.join(columns)} |", "|" + " --- |" * len(columns)]
    for row in rows:
        none = row["kind"] in ("unrelated", "photos")
        cells = [
            row["network"],
            f"{KINDS[row['kind']]}, {row['pairs']}",
            _interval(row["links_per_pair"]),
            str(row["linked_pairs"]),
            *("" if none or key not in row else _interval(row[key]) for key in ("right", "first_right", "entries_right")),
        ]
        lines.append(f"| {' | '.join(cells)} |")
    told = "; ".join(
        sorted({f"{r['machine']}, onnxruntime {r['onnxruntime']}, {r['precision']}, commit {r['commit'][:7]}" for r in rows})
    )
    return "\n".join([*lines, "", f"Seed 0, as many masks as the stopping rule took. {told}."])


def _interval(value: dict[str, float]) -> str:
    return f"{value['mean']:.2f} ({value['low']:.2f} to {value['high']:.2f})"


if __name__ == "__main__":
    main()
