"""Fill docs/index.md with what an index costs, from the committed rows, and the arithmetic for larger catalogues.

python -m tools.index

CPU figures are those of `python -m benchmarks.index`, `benchmarks.index_reliability`, `benchmarks.index_search` and
`benchmarks.cluster`, GPU figures the predictions of docs/gpu.md, which are not measured.
"""

import json
import re
from pathlib import Path
from typing import Any

from engine.files import write_whole

ROOT = Path(__file__).parent.parent
PAGE = ROOT / "docs" / "index.md"
GPUS = ROOT / "docs" / "gpu.md"
RESULTS = ROOT / "benchmarks" / "results" / "index"
BEGIN, END = "<!-- costs: python -m tools.index -->", "<!-- end of costs -->"
TITLES = {
    "emoji": "emoji, demo network (64 px, D = 64)",
    "mobilenet": "crops of photos, MobileNetV2 (112 px, D = 1280)",
    "vit": "emoji, a small vision transformer (64 px, D = 128)",
    "vit-tokens": "the same, method tokens",
}
SIZES = (1_000_000, 100_000_000)
PREDICTED = re.compile(r"\| mobilenet, 112 px \| (\w+) \| (\w+) \| [\d.]+ \| [\d.]+ \| [\d,]+ \| ([\d,]+) to ([\d,]+) \|")
"""A row of docs/gpu.md: card, precision, and passes a second from the lower end to the upper."""


def main() -> None:
    before, rest = PAGE.read_text(encoding="utf-8").split(BEGIN)
    rows, reliability, search, cluster = map(_committed, ("index", "reliability", "search", "cluster"))
    parts = [measured(rows), *map(reliable, reliability), at_scale(rows), on_gpus(rows, GPUS.read_text(encoding="utf-8"))]
    text = "\n\n".join([*parts, *([searched(search)] if search else []), *map(on_cluster, cluster)])
    write_whole(PAGE, f"{before}{BEGIN}\n\n{text}\n\n{END}{rest.split(END)[1]}".encode())


def _committed(name: str) -> list[dict[str, Any]]:
    """Return the rows of a benchmark; none where it was not run yet."""
    file = RESULTS / f"{name}.json"
    return json.loads(file.read_text(encoding="utf-8")) if file.is_file() else []


def measured(rows: list[dict[str, Any]]) -> str:
    """Return the table of what was measured, a column for each catalogue."""
    lines = [_line("", *(TITLES[row["name"]] for row in rows)), _line("---", *("---" for _ in rows))]
    for title, cell in (
        ("pictures; precision", lambda r: f"{r['pictures']:,}; {r['precision']}"),
        ("format that was chosen", lambda r: _format(r["format"], r["operator_bytes"])),
        ("record of a row; its embedding; on disk, all files over rows", _bytes),
        ("correlation with maps from the passes, as rows were added", lambda r: _fidelity(r["fidelity"])),
        ("the same with the five nearest rows as references", lambda r: _fidelity(r["fidelity_of_nearest_rows"])),
        ("reliability, beside the direct one: median, 9th decile", lambda r: _off(r["reliability_off"])),
        ("build, a picture", lambda r: f"{r['cpu_s_per_picture']:.2f} CPU s for {r['passes_per_picture']:.0f} passes"),
        ("search", lambda r: _ms(r, "search")),
        ("20 explained results at 28 px, one way; both ways", lambda r: f"{_ms(r, 'one_way_28')}; {_ms(r, 'both_ways_28')}"),
        ("the same at the network's size, both ways", lambda r: _ms(r, "both_ways")),
        ("one way without an index: passes, then algebra", lambda r: _ms(r, "direct_one_way")),
    ):
        lines.append(_line(title, *(cell(row) for row in rows)))
    told = "; ".join(sorted({f"{r['machine']}, onnxruntime {r['onnxruntime']}, commit {_short(r['commit'])}" for r in rows}))
    return "\n".join([*lines, "", f"One thread; medians; other work shared the cores. {told}."])


def reliable(row: dict[str, Any]) -> str:
    """Return in a sentence what the parts of a record that give the reliability are worth."""
    stored, less = (row["off"][name] for name in ("as stored", "8 directions"))
    return (
        f"Of {row['pictures']} emoji in {row['masks']} passes, reliabilities are off by {_off(stored)} (median; 9th decile) "
        f"with {stored['bytes']} bytes a row for them, and by {_off(less)} with {less['bytes']} "
        f"(`python -m benchmarks.index_reliability`; {_where(row)})."
    )


def searched(rows: list[dict[str, Any]]) -> str:
    """Return the table of searches, exact and on a graph."""
    lines = [_line("search, D = 64", *(f"{row['rows']:,} rows" for row in rows)), _line("---", *("---" for _ in rows))]
    for title, cell in (
        ("exact", lambda r: _ms(r, "exact")),
        ("on a graph", lambda r: _ms(r, "approximate")),
        (
            "of the 20 best, found: mean; least of all queries",
            lambda r: f"{r['recall']['mean']:.4f}; {r['recall']['least']:.2f}",
        ),
        ("the graph", lambda r: f"{r['graph_bytes_per_row']:.0f} bytes a row, {r['build_cpu_s']:.0f} CPU s"),
    ):
        lines.append(_line(title, *(cell(row) for row in rows)))
    told = f"{rows[0]['queries']} queries, synthetic embeddings, one thread, medians, usearch {rows[0]['usearch']}"
    return "\n".join([*lines, "", f"`python -m benchmarks.index_search`: {told}; {_where(rows[0])}."])


def on_cluster(row: dict[str, Any]) -> str:
    """Return the table of what a cluster costs."""
    kinds = ("one_process", "cluster")
    equal = "are equal" if row["rows_equal"] else "differ"
    about = (
        f"`python -m benchmarks.cluster`: {row['pictures']} emoji in {row['masks']} passes, one thread for the network, the "
        f"starts included; rows {equal}. Ray {row['ray']}; other work shared the cores; {_where(row)}."
    )
    return "\n".join(
        [
            _line("build", "one process", f"`--ray local --workers {row['workers']}`"),
            _line("---", "---", "---"),
            _line("CPU", *(f"{row[kind]['cpu_s']:.0f} s" for kind in kinds)),
            _line("wall", *(f"{row[kind]['wall_s']:.0f} s" for kind in kinds)),
            "",
            about,
        ]
    )


def at_scale(rows: list[dict[str, Any]]) -> str:
    """Return the arithmetic for large catalogues on CPUs."""
    lines = [_line("catalogue", "pictures", "on disk", "CPU hours to build"), _line(*["---"] * 4)]
    for row in rows:
        for size in SIZES:
            hours = row["cpu_s_per_picture"] * size / 3600
            disk = row["disk_bytes_per_picture"] * size / 1e9
            lines.append(_line(TITLES[row["name"]], f"{size:,}", f"{disk:,.1f} GB", f"{hours:,.0f}"))
    return "\n".join([*lines, "", "Bytes and CPU seconds a picture times pictures."])


def on_gpus(rows: list[dict[str, Any]], page: str) -> str:
    """Return the arithmetic for large catalogues on GPUs, by the predictions of docs/gpu.md."""
    row = next(row for row in rows if row["name"] == "mobilenet")
    lines = [_line("card", "precision", *(f"hours for {size:,}" for size in SIZES)), _line(*["---"] * 4)]
    for card, precision, low, high in PREDICTED.findall(page):
        rates = [float(text.replace(",", "")) for text in (high, low)]
        hours = [[row["passes_per_picture"] * size / rate / 3600 for rate in rates] for size in SIZES]
        lines.append(_line(card, precision, *(f"{_round(best)} to {_round(worst)}" for best, worst in hours)))
    return "\n".join(
        [
            *lines,
            "",
            "**Predicted, not measured:** passes a picture of MobileNetV2 at 112 px over the passes a second that "
            "[On a GPU](gpu.md) predicts for one card. Reading pictures, fits and writing rows come on top, on the CPU.",
        ]
    )


def _short(commit: str) -> str:
    """Return a commit as tables show it: a tree that was changed stays so."""
    return commit[:7] + "-dirty" * commit.endswith("-dirty")


def _where(row: dict[str, Any]) -> str:
    return f"{row['machine']}, commit {_short(row['commit'])}"


def _format(kept: dict[str, int], size: int) -> str:
    rest = f"rest of rank {kept['rest']}" if kept["rest"] else "no rest"
    return f"{kept['modes']} modes, a basis of {kept['basis']}, {kept['bits']} bits, {rest}: {size:,} bytes"


def _bytes(row: dict[str, Any]) -> str:
    return f"{row['record_bytes']:,}; {row['embedding_bytes']:,}; {row['disk_bytes_per_picture']:,.0f} bytes"


def _fidelity(found: dict[str, float]) -> str:
    return f"median {found['median']:.3f}, 10th percentile {found['tenth_percentile']:.3f}"


def _off(found: dict[str, float]) -> str:
    return f"{found['median']:.4f}; {found['ninth_decile']:.4f}"


def _ms(row: dict[str, Any], name: str) -> str:
    return f"{row['cpu_ms'][name]:,.1f} CPU ms"


def _round(hours: float) -> str:
    return f"{hours:,.1f}" if hours < 10 else f"{hours:,.0f}"


def _line(*cells: str) -> str:
    return f"| {' | '.join(cells)} |"


if __name__ == "__main__":
    main()
