"""python -m engine.evaluate --sanity: can maps be trusted (docs/method.md, Sanity checks)?"""

import argparse
import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from engine.bundle import demo_bundle
from engine.evaluate.options import (
    add_shared_options,
    counted_method,
    evaluate_parser,
    names_of,
    require_graphs,
    require_json_name,
)
from engine.evaluate.samples import load_samples
from engine.evaluate.sanity_figures import maps_needed, measure_methods
from engine.evaluate.sanity_page import sanity_page
from engine.evaluate.sanity_verdicts import sanity_report
from engine.evaluate.shuffled_weights import Cascade, require_onnx
from engine.explainer import Explainer
from engine.files import check_writable, write_whole
from engine.methods import METHODS, Method
from engine.model import LoadedModel
from engine.pictures.reading import reading_of
from engine.protocol import require_seed, require_whole
from engine.terminal import Bar, printable, run_command, say

SANITY = "--sanity"
SANITY_MASKS, SANITY_PAIRS = 500, 20
SANITY_METHODS = tuple(name for name in METHODS if name != "tokens")
"""Weights are shuffled in the graphs of similarity and gradient, not in those of tokens."""
DEFAULT_REPORT = Path("sanity.json")
_EXAMPLES = """examples:
  python -m engine.evaluate --sanity                                                      the demo's four pairs
  python -m engine.evaluate --sanity pairs.csv --bundle models/shoes --methods rise,lime --out sanity.json
  python -m engine.evaluate --sanity pictures/ --bundle models/shoes --out sanity.json    each with the most similar one

PAIRS is a file as `python -m engine.evaluate` takes it, or a folder of pictures.
"""


def main(arguments: Sequence[str]) -> int:
    """Run the command and return its exit status, see `engine.terminal`."""
    return run_command(lambda: _run(_parser().parse_args(arguments)))


def _parser() -> argparse.ArgumentParser:
    parser = evaluate_parser(
        f"python -m engine.evaluate {SANITY}",
        "Check whether maps can be trusted: whether they follow the network's weights and the reference, whether they are\n"
        "stable, whether what they mark carries the similarity, whether they find planted regions. Runs in fp32 on the CPU.",
        _EXAMPLES,
    )
    add = parser.add_argument
    add(SANITY, action="store_true", required=True, help="this command")
    add("pairs", type=Path, nargs="?", metavar="PAIRS", help="pairs, or a folder of pictures (default: the demo's pairs)")
    add_shared_options(
        parser,
        out="the report, .json; a .html is written beside it (default: %(default)s)",
        images="folder of the pictures of a file of pairs (default: a CSV's own folder)",
        images_required=False,
        masks=f"passes of rise and lime, steps of mask (default: {SANITY_MASKS})",
        default_out=DEFAULT_REPORT,
    )
    add(
        "--methods",
        type=names_of(SANITY_METHODS),
        default=("rise",),
        metavar="M,M",
        help=f"of {','.join(SANITY_METHODS)} (default: rise)",
    )
    add("--limit", type=int, default=SANITY_PAIRS, metavar="N", help="only the first N pairs (default: %(default)s)")
    return parser


def _run(options: argparse.Namespace) -> None:
    require_json_name(options.out)
    files = [options.out, options.out.with_suffix(".html")]
    for file in files:
        check_writable(file, [options.pairs, Path(options.bundle or demo_bundle())])
    require_seed(options.seed)
    require_whole("limit", options.limit, 1, 10**6)
    require_onnx()
    masks = SANITY_MASKS if options.masks is None else options.masks
    methods = {name: counted_method(name, options.seed, masks) for name in options.methods}
    explainer = Explainer(options.bundle, "cpu", "fp32", **vars(reading_of(options)))
    require_graphs(explainer, options.methods)
    model = explainer.model
    model.require_embeddings("have its maps checked")
    samples = load_samples(model, options.pairs, options.images, options.limit)
    cascade = Cascade(model, options.seed, "mask" in methods)
    total = maps_needed(len(samples), list(methods.values()), len(cascade.depths))
    with Bar(options.quiet, "checking", "map") as bar:
        done = iter(range(1, total + 1))
        measured = measure_methods(model, samples, methods, cascade, options.seed, lambda: bar.show(next(done), total))
    settings = {**_settings(options, model, methods), "pairs": len(samples), "layers": len(cascade.layers)}
    found = sanity_report(settings, measured, np.array([s.cluster for s in samples]))
    write_whole(files[0], (json.dumps(found, indent=1) + "\n").encode())
    write_whole(files[1], sanity_page(found, measured).encode(errors="backslashreplace"))
    say("\n".join([_summary(found), *(f"wrote {printable(str(file))}" for file in files)]))


def _settings(options: argparse.Namespace, model: LoadedModel, methods: dict[str, Method]) -> dict[str, Any]:
    return {
        "model": model.manifest.name,
        "identity": model.bundle.identity,
        "provider": model.provider,
        "precision": model.precision,
        "seed": options.seed,
        "source": "demo" if options.pairs is None else str(options.pairs),
        "options": {name: dataclasses.asdict(method) for name, method in methods.items()},
    }


def _summary(found: dict[str, Any]) -> str:
    lines = []
    for row in found["results"]:
        for name, judged in row["checks"].items():
            lines.append(f"{row['method']:<7} {name:<10} {judged['verdict']:<14} {' '.join(judged['says'])}")
    return "\n".join(lines)
