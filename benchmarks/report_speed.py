"""Sections of docs/benchmarks.md on time and memory."""

import functools

from benchmarks import pairs, sessions
from benchmarks.record import read
from benchmarks.report_cells import Column, Row, met, network, short, spread, table
from benchmarks.settings import MASKS

PEERS_WANTED = {"fp32": 1.3, "int8": 3.0}
BEATEN = ("captum KernelShap", "captum Lime", "xaitk RISEGrid", "dianna RISE")
OUTSIDE_WANTED = 0.05
PREPARED_WANTED_S = 1e-3
RANKING_WANTED_S = 5e-3
"""What was asked for, beside the ratios' own targets."""


def ratios(suites: dict[str, list[Row]], pictures: str) -> str:
    """Return the section on the ratios of CPU time to the published procedure. pictures: their folder, beside the page"""
    columns = [
        ("work", lambda r: r["name"]),
        ("network", network),
        ("provider", lambda r: r["provider"]),
        ("precision", lambda r: r["precision"]),
        ("published, s", lambda r: short(r["theirs_cpu_s"])),
        ("ours, s", lambda r: short(r["ours_cpu_s"])),
        ("ratio", lambda r: f"**{short(r['ratio_cpu'])}** {spread(r['ratio_cpu_range'])}"),
        ("in wall time", lambda r: short(r["ratio_wall"])),
        ("with its drawing of masks", _with_drawing),
        ("wanted", lambda r: f"{short(r['target'])}, {met(r['ratio_cpu'], r['target'])}" if r["target"] else ""),
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

{table(columns, rows)}
With the same 2000 masks, the two maps differ by at most {short(same["map_difference"])} of the largest value
({short(same["map_difference_of_range"])} of the map's range). A prepared query takes {short(1e3 * wall)} ms of wall time
per reference (wanted: below {short(1e3 * PREPARED_WANTED_S)}, {met(PREPARED_WANTED_S, wall)}).
"""


def cost(suites: dict[str, list[Row]], pictures: str) -> str:
    """Return the section on latency, throughput, providers and memory. pictures: their folder, beside the page"""
    spent = [
        ("what", lambda r: r["name"] + (f", {r['references']}" if "references" in r else "")),
        ("network", network),
        ("precision", lambda r: r["precision"]),
        ("CPU ms", lambda r: f"{short(1e3 * r['cpu_s'])} {spread([1e3 * v for v in r['cpu_s_range']])}"),
        ("wall ms", lambda r: f"{short(1e3 * r['wall_s'])} {spread([1e3 * v for v in r['wall_s_range']])}"),
    ]
    passes = ("passes", lambda r: short(r["passes"]) if "passes" in r else "")
    by_size = [
        ("side, pixels", lambda r: str(r["size"])),
        ("published, CPU ms per pass", lambda r: short(1e3 * r["theirs_cpu_s"] / r["masks"])),
        ("ours, fp32, CPU ms per pass", lambda r: short(1e3 * r["ours_cpu_s"] / r["masks"])),
        ("ratio", lambda r: f"{short(r['ratio_cpu'])} {spread(r['ratio_cpu_range'])}"),
    ]
    rows = suites["throughput"]
    memory = [
        ("what", lambda r: r["name"]),
        ("masks", lambda r: f"{r['few']} and {r['masks']}"),
        ("peak, MB", lambda r: f"{r['peak_mb_few']:.0f} and {r['peak_mb']:.0f}"),
        ("growth without the embeddings, MB", lambda r: f"{r['growth_mb']:.0f}"),
        ("allowed", lambda r: f"{r['limit_mb']}, {met(r['limit_mb'], r['growth_mb'])}" if r["limit_mb"] else ""),
    ]
    provided = [
        ("network", network),
        ("provider", lambda r: r["provider"]),
        ("precision", lambda r: r["precision"]),
        spent[-2],
        spent[-1],
    ]
    sized = next(r for r in rows if r["name"] == "picture size")
    outside = [
        f"{r['name'].split(': ')[1]} {100 * r['share']:.1f}% {spread([100 * s for s in r['share_range']])}, "
        f"{met(OUTSIDE_WANTED, r['share'])}"
        for r in rows
        if "share" in r
    ]
    return f"""## Latency

Cold is `python -m engine.explain` in a process of its own. Warm is `explain` with the model loaded, on a new picture.
Prepared is `prepared.explain`, with the reference given as its embedding or as a picture.

{table([*spent, passes], suites["latency"])}
## Throughput

Time per pair: `pairs` are pairs that each have their own query; `references` are one new query against references
given as embeddings.

{table(spent, [r for r in rows if r["name"] in ("pairs", "references")])}
![Cost against references]({pictures}/references.png)

CPU time outside the network, as a share of the network's own, for {network(rows[0])}, at the default precision and 512
masks (wanted: below {100 * OUTSIDE_WANTED:.0f}%): {"; ".join(outside)}.

The paper's network with random weights at other picture sizes, {sized["masks"]} masks, fp32:

{table(by_size, sorted((r for r in rows if r["name"] == "picture size"), key=lambda r: r["size"]))}
![Cost against picture size]({pictures}/size.png)

## Providers

CPU time of one pass, masks included; the providers take turns. On a CPU, `provider="auto"` takes the cheapest: cpu is ONNX
Runtime, and openvino is an extra.

{table(provided, sorted((r for r in rows if r["name"] == "pass"), key=lambda r: r["network"]))}
## Memory

Peak resident memory of a process that explains one pair at 224 x 224, the paper's network with random weights, fp32.

{table(memory, suites["memory"])}"""


def peers(suites: dict[str, list[Row]], pictures: str) -> str:
    """Return the section on other explainers' passes per second. pictures: their folder, beside the page"""
    rows = suites["peers"]
    ours = [r["precision"] for r in rows if r["name"].startswith("ours")]
    columns: list[Column] = [
        ("explainer", lambda r: r["name"]),
        ("passes", lambda r: str(r["masks"])),
        ("passes per CPU second", lambda r: short(1 / r["cpu_s"])),
        ("passes per second", lambda r: short(1 / r["wall_s"])),
    ]
    for p in ours:
        columns.append((f"ours at {p} over it", functools.partial(_over, p)))
    wins = [f"{r['name']} ({short(1 / r[f'ratio_cpu_{p}'])}x of ours at {p})" for r in rows for p in ours if _beats(r, p)]
    return f"""## Peers

{network(rows[0])}; all explainers take turns on the same pair. Each peer runs on PyTorch eager, as its users have it,
and on an ONNX Runtime session like the engine's at fp32; dianna also with its own runner, which opens the file for every
batch. Wanted are {PEERS_WANTED["int8"]:g} times the peer's passes per CPU second at int8 and {PEERS_WANTED["fp32"]:g} times
at fp32, for {", ".join(BEATEN)}.
The peers draw their own masks, of the same kind and number; a lattice of windows has a square number of passes. Each gets
the cheapest batch of 32, 64 and 100 rows. captum Lime gets the ridge regression of the `lime` package; dianna gets its
`p_keep`, which it would search for otherwise.

{table(columns, rows)}
Peers that take less CPU time per pass than ours: {"; ".join(wins) or "none"}.
"""


def learned(suites: dict[str, list[Row]], pictures: str) -> str:
    """Return the section on learned masks against the same loop in PyTorch. pictures: their folder, beside the page"""
    rows = suites["learned"]
    columns: list[Column] = [
        ("work", lambda r: r["name"]),
        ("steps", lambda r: str(r["masks"])),
        ("PyTorch, CPU s", lambda r: short(r["theirs_cpu_s"])),
        ("ours, CPU s", lambda r: short(r["ours_cpu_s"])),
        ("ratio", lambda r: f"**{short(r['ratio_cpu'])}** {spread(r['ratio_cpu_range'])}"),
        ("wanted", lambda r: f"{r['target']:g}, {met(r['ratio_cpu'], r['target'])}"),
    ]
    eight = next(r for r in rows if "most" in r)
    return f"""## Learned masks

The same loop in PyTorch eager, on the demo's architecture at 64 x 64, fp32.

{table(columns, [r for r in rows if "target" in r])}
{eight["pairs"]} pairs side by side take {short(eight["times_one_cpu"])} times the CPU time of one
{spread(eight["times_one_cpu_range"])}; wanted: below {eight["most"]:g}, {met(eight["most"], eight["times_one_cpu"])}.
"""


def ranking(suites: dict[str, list[Row]], pictures: str) -> str:
    """Return the section on what ranking attributes takes. pictures: their folder, beside the page"""
    columns: list[Column] = [
        ("of what", lambda r: {"rank": "arrays alone", "words": "attributes for and against, 5 of each"}[r["name"]]),
        ("maps", lambda r: f"{r['size']} x {r['size']}"),
        ("ms", lambda r: f"{short(1e3 * r['wall_s'])} {spread([1e3 * v for v in r['wall_s_range']])}"),
        ("CPU ms, all threads", lambda r: short(1e3 * r["cpu_s"])),
        ("wanted ms", lambda r: f"5, {met(RANKING_WANTED_S, r['wall_s'])}" if r["name"] == "rank" else ""),
    ]
    rows = suites["ranking"]
    return f"""## Ranking

Ranking {rows[0]["attributes"]} attributes for one query, by each of the maps against its {rows[0]["references"]} references.
The maps are made before the clock starts.

{table(columns, rows)}
"""


def schedules(suites: dict[str, list[Row]], pictures: str) -> str:
    """Return the section on many pairs at a time, and session settings. pictures: their folder, beside the page"""
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


def _with_drawing(row: Row) -> str:
    return short(row["ratio_cpu"] * (1 + row["published_drawing_cpu_s"] / row["theirs_cpu_s"]))


def _over(precision: str, row: Row) -> str:
    name = f"ratio_cpu_{precision}"
    wanted = PEERS_WANTED.get(precision) if row["name"].startswith(BEATEN) else None
    verdict = "" if wanted is None else f", {met(row[name], wanted)}"
    return f"{short(row[name])} {spread(row[f'{name}_range'])}{verdict}"


def _beats(row: Row, precision: str) -> bool:
    return not row["name"].startswith("ours") and row[f"ratio_cpu_{precision}"] < 1
