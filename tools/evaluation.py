"""Judge every method on held-out emoji and write the table and curves of docs/evaluation.md: python -m tools.evaluation.

It measures everything again. It needs the packages of `.[test]`, and npm to fetch the emoji.
"""

import argparse
import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.emoji_pairs import OUT, write_pairs
from benchmarks.record import circumstances
from engine.evaluate.command import main as evaluate
from engine.evaluate.report import CURVES, interval_text
from engine.files import write_whole

PAIRS, MASKS = 60, 500
PAGE = Path(__file__).parent.parent / "docs" / "evaluation.md"
REPORT = OUT / "report.json"
BEGIN, END = "<!-- table: python -m tools.evaluation -->", "<!-- end of table -->"


def main(arguments: Sequence[str] | None = None) -> int:
    argparse.ArgumentParser(prog="python -m tools.evaluation", description=__doc__).parse_args(arguments)
    pairs = write_pairs(PAIRS, OUT)
    status = evaluate([str(pairs), "--masks", str(MASKS), "--modes", "fixed,both", "--out", str(REPORT)])
    if status == 0:
        before, rest = PAGE.read_text().split(BEGIN)
        table = _table(json.loads(REPORT.read_text()))
        write_whole(PAGE, f"{before}{BEGIN}\n\n{table}\n{END}{rest.split(END)[1]}".encode())
        shutil.copy(REPORT.with_suffix(".png"), PAGE.with_suffix(".png"))
    return status


def _table(found: dict[str, Any]) -> str:
    lines = ["| method | mode | passes | insertion | minus random | deletion | minus random |", "| --- |" + " --- |" * 6]
    for row in found["results"]:
        cells = [row["method"], row["mode"], f"{row['passes']:.0f}"]
        for metric in CURVES:
            over = row.get(f"{metric}_over_random")
            cells += [interval_text(row[metric]), interval_text(over) if over else ""]
        lines.append(f"| {' | '.join(cells)} |")
    settings, where = found["settings"], circumstances()
    versions = ", ".join(f"{name} {where[name]}" for name in ("onnxruntime", "numpy"))
    told = (
        f"{settings['pairs']} pairs, {settings['model']} ({settings['precision']}, {settings['provider']}), seed "
        f"{settings['seed']}, background {settings['background']}; {where['machine']}, {versions}, commit {where['commit']}."
    )
    return "\n".join([*lines, "", told])


if __name__ == "__main__":
    raise SystemExit(main())
