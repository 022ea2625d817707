"""Sections of docs/benchmarks.md on how good maps are."""

import functools

from benchmarks.report_cells import Row, network, short, table


def equal(suites: dict[str, list[Row]], pictures: str) -> str:
    """Return the section on the fidelity of what was timed. pictures: their folder, beside the page"""
    columns = [
        ("network", network),
        ("map", lambda r: r["name"]),
        ("provider", lambda r: r["provider"]),
        ("precision", lambda r: r["precision"]),
        ("passes", lambda r: short(r["passes"])),
        ("mean", lambda r: f"{r['mean']:.4f}"),
        ("10th percentile", lambda r: f"{r['p10']:.4f}"),
        ("lowest", lambda r: f"{r['lowest']:.4f}"),
        ("queries x references", lambda r: f"{r['queries']} x {r['pairs'] // r['queries']}"),
    ]
    rows = sorted(suites["equal-fidelity"], key=lambda r: (r["network"], "both" in r["name"]))
    return f"""## Fidelity of what was timed

Pearson correlation over the pixels with an independent map: the published estimator in fp32 with 8000 masks (8000 x 1000
if both pictures are masked). "Published" has the published number of masks: 2000, and 30 on a masked reference. No network
was trained on these queries and references.

{table(columns, rows)}
{_judged(rows)}
"""


def _judged(rows: list[Row]) -> str:
    """Name the rows in which the default falls short of the published number of masks."""
    short = []
    for row in rows:
        end = ", both" if row["name"].endswith(", both") else ""
        other = next((r for r in rows if (r["network"], r["name"]) == (row["network"], f"published{end}")), None)
        if not row["name"].startswith("default") or other is None:
            continue
        below = [name for name, k in (("mean", "mean"), ("10th percentile", "p10")) if row[k] < other[k]]
        if below:
            short.append(f"{row['network']}, {row['name']}, {row['provider']} ({' and '.join(below)})")
    if short:
        return f"The default is below the published number of masks at: {'; '.join(short)}."
    return "The default is at least as close as the published number of masks in every row, mean and 10th percentile."


def fidelity(suites: dict[str, list[Row]], pictures: str) -> str:
    """Return the section on fidelity against passes. pictures: their folder, beside the page"""
    rows = suites["fidelity"]
    counts = sorted({r["masks"] for r in rows})
    ways = list(dict.fromkeys((r["network"], r["name"], r["precision"]) for r in sorted(rows, key=lambda r: r["network"])))

    def cell(way: tuple[str, str, str], masks: int) -> str:
        found = [r for r in rows if (r["network"], r["name"], r["precision"]) == way and r["masks"] == masks]
        return f"{found[0]['mean']:.3f} ({found[0]['p10']:.3f})" if found else ""

    columns = [("network", lambda w: w[0]), ("estimator", lambda w: w[1]), ("precision", lambda w: w[2])]
    columns += [(str(n), functools.partial(lambda n, w: cell(w, n), n)) for n in counts]
    return f"""## Fidelity against passes

Mean correlation as above, with the 10th percentile in brackets.

![Fidelity against passes]({pictures}/fidelity.png)

{table(columns, ways)}
![Speed-up at equal fidelity]({pictures}/speedup.png)

CPU time of the published procedure over ours at equal mean correlation. The passes are read from the curves above, the
CPU time per pass from the first table.
"""


def faithfulness(suites: dict[str, list[Row]], pictures: str) -> str:
    """Return the section on insertion, deletion and pointing at equal passes. pictures: their folder, beside the page"""
    rows = suites["faithfulness"]
    measures = ("insertion", "deletion", "pointing")
    columns = [
        ("network", network),
        ("method", lambda r: r["name"]),
        ("passes", lambda r: str(r["masks"])),
        *((m, functools.partial(lambda m, r: f"{r[m]:.3f} ± {r[f'{m}_error']:.3f}", m)) for m in measures),
    ]
    wins = []
    for name in dict.fromkeys(r["network"] for r in rows):
        own = next(r for r in rows if (r["network"], r["name"]) == (name, "ours, regression"))
        for row in (r for r in rows if r["network"] == name and not r["name"].startswith("ours")):
            better = [m for m in measures if (row[m] < own[m] if m == "deletion" else row[m] > own[m])]
            if better:
                wins.append(f"{row['name']} on {name} ({', '.join(better)})")
    return f"""## Faithfulness at equal passes

Insertion (higher is better) and deletion (lower is better) on white ([method](method.md#insertion-and-deletion)), and
pointing: the share of pictures whose most salient pixel lies on the pasted object. fp32; mean and standard error over
{rows[0]["pairs"]} pictures of objects pasted on textures.

{table(columns, sorted(rows, key=lambda r: r["network"]))}
Peers with a better mean than "ours, regression", whatever the standard errors: {"; ".join(wins) or "none"}.
"""
