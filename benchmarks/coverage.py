"""Do the error bars of maps cover their limits? By network, method, provider and precision.

    python -m benchmarks.coverage [NAME ...] [--out FILE]

An interval is a tile's value +- 1.645 times its standard error: 90% of them should cover the map's limit, which is the map
of LIMIT passes of another seed in fp32 on provider cpu. So what a precision changes counts as an error here; the limit's
own error is added to the interval. `coverage` is the mean over the 16 x 16 tiles and the pairs; `lowest` and `highest` are
the pairs'. Without --out, docs/estimator.md gets the table. Networks: `python -m benchmarks.networks`.
"""

import argparse
import dataclasses
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import networks, pictures
from benchmarks.record import circumstances
from benchmarks.settings import chosen_names
from engine import Explainer, Explanation, OptionError, ProviderError, Rise, Tokens
from engine.files import write_whole
from engine.saliency.tile_means import tile_means
from engine.terminal import Bar, CommandParser, run_command, say

OUT = Path(__file__).parent / "results" / "coverage.json"
PAGE = Path(__file__).parent.parent / "docs" / "estimator.md"
BEGIN, END = "<!-- coverage: python -m benchmarks.coverage -->", "<!-- end of coverage -->"
NAMES = ("resnet18", "mobilenet", "vit")
METHODS: dict[str, Rise | Tokens] = {
    "rise": Rise(masks=256, estimator="regression"),
    "rise, 512": Rise(masks=512, estimator="regression"),
    "tokens, halves": Tokens(masks=256),
    "tokens, quarters": Tokens(masks=256, kept=0.25),
}
SETTINGS = (("cpu", "fp32"), ("cpu", "int8"), ("openvino", "fp32"), ("openvino", "int8"), ("openvino", "bf16"))
LIMIT = 8192
QUERIES = 8
WIDTH = 1.645
"""Half the width of a 90% interval, in standard errors."""


def main(arguments: list[str] | None = None) -> int:
    """Run the command; return its exit status (see `engine.terminal`)."""
    return run_command(lambda: _run(_parser().parse_args(arguments)))


def _parser() -> CommandParser:
    parser = CommandParser(prog="python -m benchmarks.coverage", description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"networks: of {', '.join(NAMES)} (default: all)")
    parser.add_argument("--out", type=Path, default=OUT, metavar="FILE", help="the rows; those of other networks stay")
    return parser


def _run(options: argparse.Namespace) -> None:
    for name in chosen_names(options.names, NAMES):
        rows = [{**row, **circumstances()} for row in _measured(name)]
        earlier = json.loads(options.out.read_text()) if options.out.is_file() else []
        kept = [row for row in earlier if row["network"] != name]
        write_whole(options.out, (json.dumps([*kept, *rows], indent=1) + "\n").encode())
        say(json.dumps(rows))
    if options.out.resolve() == OUT:
        before, rest = PAGE.read_text().split(BEGIN)
        found = f"{before}{BEGIN}\n\n{table(json.loads(OUT.read_text()))}\n{END}{rest.split(END)[1]}"
        write_whole(PAGE, found.encode())


def _measured(name: str) -> Iterator[dict[str, Any]]:
    """Give a row for each method and setting that this network and this machine have."""
    bundle = networks.made(name).bundle
    plain = Explainer(bundle, "cpu", "fp32")
    asked = pictures.queries("emoji" if name in networks.EMOJI else "photos", plain, QUERIES)
    opened = {setting: one for setting in SETTINGS if (one := _opened(bundle, *setting)) is not None}
    limits: dict[tuple[Rise | Tokens, int], list[Explanation]] = {}  # methods that differ in passes alone share theirs
    for method, options in METHODS.items():
        if options.name == "tokens" and not plain.has_tokens:
            continue
        covered: dict[tuple[str, str], list[float]] = {}
        with Bar(False, f"{name}, {method}", "query") as bar:
            for done, query in enumerate(asked):
                limit = dataclasses.replace(options, masks=LIMIT, seed=1)
                if (limit, done) not in limits:
                    limits[limit, done] = _maps(plain, query, limit)
                for setting, explainer in opened.items():
                    if options.name == "tokens" and not explainer.has_tokens:
                        continue
                    found = _maps(explainer, query, options)
                    covered.setdefault(setting, []).extend(map(_coverage, found, limits[limit, done]))
                bar.show(done + 1, len(asked))
        for (provider, precision), shares in covered.items():
            means = {"coverage": float(np.mean(shares)), "lowest": min(shares), "highest": max(shares)}
            where = {"network": name, "method": method, "provider": provider, "precision": precision}
            yield {**where, "masks": options.masks, "seed": 0, "limit": LIMIT, "pairs": len(shares), **means}


def _opened(bundle: Path, provider: str, precision: str) -> Explainer | None:
    try:
        return Explainer(bundle, provider, precision)
    except (OptionError, ProviderError):  # the bundle has no such graph, or this processor no such instructions
        return None


def _maps(explainer: Explainer, query: pictures.Query, options: Rise | Tokens) -> list[Explanation]:
    return explainer.prepare(query.picture, options).explain_many(list(query.references))


def _coverage(found: Explanation, limit: Explanation) -> float:
    """Return the share of tiles whose interval covers the limit."""
    errors = [np.asarray(one.saliency_error, np.float64) for one in (found, limit)]
    off = tile_means(found.saliency.astype(np.float64) - limit.saliency)
    return float((np.abs(off) <= WIDTH * np.hypot(*errors)).mean())


def table(rows: list[dict[str, Any]]) -> str:
    """Return a Markdown table: a line for each network and method, a column for each setting."""
    settings = [s for s in SETTINGS if any((row["provider"], row["precision"]) == s for row in rows)]
    lines = [f"| network | method | {' | '.join(f'{p}, {q}' for p, q in settings)} |", "| --- " * (len(settings) + 2) + "|"]
    for network, method in dict.fromkeys((row["network"], row["method"]) for row in rows):
        own = {(r["provider"], r["precision"]): r for r in rows if (r["network"], r["method"]) == (network, method)}
        cells = [_cell(own[s]) if s in own else "" for s in settings]
        lines.append(f"| {network} | {method} | {' | '.join(cells)} |")
    said = dict.fromkeys(
        f"{row['network']}: {row['pairs']} pairs, limit of {row['limit']} passes; {row['machine']}, "
        f"onnxruntime {row['onnxruntime']}, commit {row['commit']}."
        for row in rows
    )
    return "\n".join([*lines, "", *said])


def _cell(row: dict[str, Any]) -> str:
    return f"{row['coverage']:.2f} ({row['lowest']:.2f} to {row['highest']:.2f})"


if __name__ == "__main__":
    raise SystemExit(main())
