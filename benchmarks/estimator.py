"""Measure how fast the estimators converge, and write the tables of docs/estimator.md.

    python -m benchmarks.estimator [NAME ...]

For each network, on real pictures: the correlation of maps with an independent map of 8000 plain masks (estimator "sane",
fp32) at equal passes, and the reliability that the regression itself reports. Results are kept in benchmarks/results, one
file per network.
"""

import argparse
import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import maps, networks, pictures
from benchmarks.record import circumstances
from benchmarks.settings import TRUTH_SEED, chosen_names, regression, sane
from engine import Explainer
from engine.files import write_whole
from engine.terminal import CommandParser, run_command, say
from export.progress import progress_bar

NAMES = {
    "resnet18": "ResNet-18 to layer3, 112 x 112, trained on emoji; emoji",
    "mobilenet": "MobileNetV2, 112 x 112, ImageNet weights; photos",
    "vit": "A small vision transformer, 64 x 64, trained on emoji; emoji",
    "demo": "The embedded demo network, 64 x 64; emoji",
}
PASSES = (128, 256, 512, 1024, 2000, 4096)
TRUTH = 8000
QUERIES = 6
RESULTS = Path(__file__).parent / "results"
PAGE = Path(__file__).parent.parent / "docs" / "estimator.md"
BEGIN, END = "<!-- tables: python -m benchmarks.estimator -->", "<!-- end of tables -->"


def main(arguments: list[str] | None = None) -> int:
    """Run the command; return its exit status (see `engine.terminal`)."""
    return run_command(lambda: _run(_parser().parse_args(arguments)), "stopped; finished maps and networks are kept")


def _parser() -> CommandParser:
    parser = CommandParser(prog="python -m benchmarks.estimator", description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"networks: of {', '.join(NAMES)} (default: all)")
    return parser


def _run(options: argparse.Namespace) -> None:
    files = {name: RESULTS / f"estimator-{name}.json" for name in NAMES}
    for name in chosen_names(options.names, tuple(NAMES)):
        write_whole(files[name], (json.dumps(measure_network(name), indent=1) + "\n").encode())
    found = {name: json.loads(file.read_text()) for name, file in files.items() if file.is_file()}
    before, rest = PAGE.read_text().split(BEGIN)
    write_whole(PAGE, f"{before}{BEGIN}\n\n{tables(found)}\n{END}{rest.split(END)[1]}".encode())
    say(f"wrote {PAGE}")


def measure_network(name: str) -> dict[str, object]:
    """Measure one network: mean and tenth percentile over queries and references, by estimator and passes."""
    explainer = Explainer(None if name == "demo" else networks.made(name).bundle, precision="fp32")
    asked = pictures.queries("photos" if name == "mobilenet" else "emoji", explainer, QUERIES)
    found: dict[str, list[np.ndarray]] = {}
    with progress_bar(asked, name, leave=True) as queries:
        for query in queries:
            for key, values in correlations(explainer, query).items():
                found.setdefault(key, []).append(values)
    table = {k: {"mean": float(np.mean(v)), "p10": float(np.percentile(np.concatenate(v), 10))} for k, v in found.items()}
    what = {"network": name, "precision": "fp32", "truth_masks": TRUTH, "queries": len(asked), "references": 5}
    return {**what, **circumstances(), "table": table}


def correlations(explainer: Explainer, query: pictures.Query) -> dict[str, np.ndarray]:
    """Return correlations (R,) with the plain maps of 8000 masks, by estimator and passes.

    `told`: the reliability that the regression reports; `told before`: that before the references are known
    """
    truth = maps.prepared(explainer, query, sane(TRUTH, TRUTH_SEED)).maps
    plain = explainer.prepare(query.picture, sane(PASSES[-2]))
    ours = explainer.prepare(query.picture, regression(PASSES[-1]))
    embeddings = list(explainer.embed(list(query.references)))
    found = {}
    for whole in (plain, ours):
        for passes in (n for n in PASSES if n <= len(whole.plan)):
            few = dataclasses.replace(whole, plan=whole.plan.first(passes), embeddings=whole.embeddings[:passes])
            explained = few.explain_many(embeddings)
            saliency = np.stack([e.saliency for e in explained])
            found[f"{whole.estimator} {passes}"] = maps.correlations(saliency, truth)
            if whole is ours:
                found[f"told {passes}"] = np.array([e.saliency_reliability for e in explained])
                found[f"told before {passes}"] = np.array([few.fits.convergence(None).reliability])
    return found


def tables(results: dict[str, dict[str, Any]]) -> str:
    """Return a Markdown table for each network."""
    return "\n\n".join(_table(result) for result in results.values())


def _table(result: dict[str, Any]) -> str:
    found = result["table"]
    rows = {
        "published estimator": "sane",
        "regression": "regression",
        "the regression's own reliability": "told",
        "the same, before the references are known": "told before",
    }
    counts = f"{result['queries']} queries x {result['references']} references; mean (tenth percentile)"
    lines = [
        f"**{NAMES[result['network']]}**: {counts}",
        "",
        f"| masks | {' | '.join(map(str, PASSES))} |",
        f"| --- |{' --- |' * len(PASSES)}",
    ]
    for label, key in rows.items():
        cells = [_cell(found.get(f"{key} {passes}")) for passes in PASSES]
        lines.append(f"| {label} | {' | '.join(cells)} |")
    where = f"{result['machine']}, onnxruntime {result['onnxruntime']}, numpy {result['numpy']}, commit {result['commit']}"
    return "\n".join([*lines, "", f"fp32, seeds 0 and 1, {where}."])


def _cell(found: dict[str, float] | None) -> str:
    return "" if found is None else f"{found['mean']:.3f} ({found['p10']:.3f})"


if __name__ == "__main__":
    raise SystemExit(main())
