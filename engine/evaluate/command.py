"""python -m engine.evaluate: insertion and deletion of several methods over a file of pairs."""

import argparse
import dataclasses
import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from engine.errors import ImageError, OptionError
from engine.evaluate import report
from engine.evaluate.curves import WHITE, InsertionDeletion, insertion_deletion
from engine.evaluate.options import (
    add_provider_options,
    add_shared_options,
    counted_method,
    evaluate_parser,
    names_of,
    open_explainer,
    reads_of,
    require_graphs,
    require_json_name,
)
from engine.evaluate.pairs import Pair, read_pairs
from engine.evaluate.report import CURVES, RANDOM_ORDER, Result
from engine.evaluate.rows import Row, Rows
from engine.explainer import Explainer
from engine.files import check_writable, write_whole
from engine.methods import METHODS, Method
from engine.pictures.folders import file_is_there
from engine.protocol import MODES, random_words, require_seed
from engine.terminal import Bar, printable, run_command, say

BACKGROUNDS = {"white": WHITE, "grey": (127, 127, 127), "black": (0, 0, 0)}
_EXAMPLES = """examples:
  python -m engine.evaluate pairs.csv --out report.json                  every method, on the embedded emoji model
  python -m engine.evaluate pairs.csv --bundle models/shoes --methods rise,window,random --modes fixed,both --out report.json
  python -m engine.evaluate awa_pairs.txt --images JPEGImages --bundle models/awa --background grey --out report.json

python -m engine.evaluate --sanity --help   is about another command: can maps be trusted?

PAIRS is a CSV with the columns query,reference and, if wanted, condition and label; or a file of the paper's authors with
lines of `query_id reference_id label`. Pairs with another label than 1 are left out.
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command and return its exit status, see `engine.terminal`."""
    return run_command(lambda: _run(_parser().parse_args(arguments)), "stopped; the same command continues where it was")


def _parser() -> argparse.ArgumentParser:
    parser = evaluate_parser(
        "python -m engine.evaluate",
        "Judge saliency methods by insertion and deletion over pairs of pictures. A run that was stopped continues where\n"
        "it was: its rows are kept beside the report, in a file that ends in .rows.jsonl.",
        _EXAMPLES,
    )
    add = parser.add_argument
    add("pairs", type=Path, metavar="PAIRS", help="a .csv, or the authors' file of pairs")
    add_shared_options(
        parser,
        out="the report, .json; a .png and a .html are written beside it",
        images="folder of the pictures (default: a CSV's own folder)",
        images_required=False,
        masks="passes of rise and lime, steps of mask (default: each method's own)",
    )
    add_provider_options(parser)
    known = (*METHODS, RANDOM_ORDER)
    add("--metric", type=names_of(CURVES), default=CURVES, metavar="M,M", help=f"of {','.join(CURVES)} (default: both)")
    help_ = f"of {','.join(known)} (default: all, tokens only where the bundle has its graphs)"
    add("--methods", type=names_of(known), metavar="M,M", help=help_)
    add("--modes", type=names_of(MODES), default=("fixed",), metavar="M,M", help=f"of {','.join(MODES)} (default: fixed)")
    add(
        "--background",
        choices=BACKGROUNDS,
        default="white",
        help="colour of pixels that are not shown (default: %(default)s)",
    )
    add("--limit", type=int, metavar="N", help="only the first N pairs")
    return parser


def _run(options: argparse.Namespace) -> None:
    require_json_name(options.out)
    require_seed(options.seed)
    files, kept = report.files(options.out), options.out.with_suffix(".rows.jsonl")
    for file in (*files.values(), kept):
        check_writable(file, reads_of(options, options.pairs))
    report.require_matplotlib()
    read = read_pairs(options.pairs, options.images)
    pictures = {path for pair in read.pairs for path in (pair.query, pair.reference)}
    for file in (*files.values(), kept):
        check_writable(file, pictures)
    pairs = read.pairs if options.limit is None else read.pairs[: max(options.limit, 0)]
    if not pairs:
        raise OptionError(f"--limit {options.limit} leaves no pairs: it must be 1 or more")
    methods = {name: counted_method(name, options.seed, options.masks) for name in METHODS}
    explainer = open_explainer(options)
    names = options.methods or tuple(name for name in (*METHODS, RANDOM_ORDER) if name != "tokens" or explainer.has_tokens)
    require_graphs(explainer, names)
    settings = _settings(options, explainer, methods)
    rows = Rows(kept, settings)
    runs = [(name, mode) for name in names for mode in options.modes if name != RANDOM_ORDER or mode == "fixed"]
    if not runs:
        raise OptionError(
            f"{RANDOM_ORDER} has only mode fixed: --modes {','.join(options.modes)} leaves nothing to evaluate"
        )
    with Bar(options.quiet, "rows", "row") as bar:
        for number, pair in enumerate(pairs):
            digest = _digest(pair)
            for i, (name, mode) in enumerate(runs, 1):
                if not rows.has((number, name, mode), digest):
                    row = _row(explainer, number, pair, name, mode, methods, options)
                    rows.add({"pair": number, "method": name, "mode": mode, "pictures": digest, **row})
                bar.show(number * len(runs) + i, len(pairs) * len(runs))
    results = [Result.of([rows[i, n, m] for i in range(len(pairs))], options.metric) for n, m in runs]
    about = {"pairs": len(pairs), "pairs_file": str(options.pairs), "left_out": read.non_matching, **settings}
    found = report.summary(about, results)
    figure = report.curves_figure(results)
    write_whole(files[".json"], (json.dumps(found, indent=1) + "\n").encode())
    write_whole(files[".png"], figure)
    write_whole(files[".html"], report.report_page(found, figure).encode(errors="backslashreplace"))
    say(_summary(found, options.metric, files))


def _row(
    explainer: Explainer,
    number: int,
    pair: Pair,
    name: str,
    mode: str,
    methods: dict[str, Method],
    options: argparse.Namespace,
) -> Row:
    """Judge one map: the part of its row that the key and the digest leave."""
    if name == RANDOM_ORDER:
        preprocessing = explainer.model.preprocessing
        size = preprocessing.height, preprocessing.width
        saliency, passes = _random_map(options.seed, number, *size), 0
    else:
        explanation = explainer.explain(pair.query, pair.reference, methods[name], mode, pair.condition, top=0)
        saliency, passes = explanation.saliency, explanation.passes
    colour = BACKGROUNDS[options.background]
    found = insertion_deletion(explainer, pair.query, pair.reference, saliency, colour, condition=pair.condition)
    return {"passes": passes, **_without_arrays(found)}


def _without_arrays(found: InsertionDeletion) -> dict[str, Any]:
    """Return the fields as JSON can hold them."""
    return {k: v.tolist() if isinstance(v, np.ndarray) else v for k, v in vars(found).items()}


def _random_map(seed: int, number: int, height: int, width: int) -> np.ndarray:
    """Return a random map (H, W) float64 for the pair of this number: every other map must beat it."""
    return random_words(seed, number + 1, height * width)[-1].reshape(height, width).astype(np.float64)


def _settings(options: argparse.Namespace, explainer: Explainer, methods: dict[str, Method]) -> dict[str, Any]:
    """Return everything that a row depends on besides the pair; rows of an earlier run count only if these are equal."""
    model = explainer.model
    return {
        "model": model.manifest.name,
        "graph": model.graph_digest,
        "identity": model.bundle.identity,
        "provider": explainer.provider,
        "precision": explainer.precision,
        "seed": options.seed,
        "background": options.background,
        "options": {name: dataclasses.asdict(method) for name, method in methods.items()},
    }


def _digest(pair: Pair) -> str:
    """Return a hash of both files' contents and the condition: a row is used again only for the same pictures.

    Raises ImageError if a file cannot be read.
    """
    digest = hashlib.sha256(repr(pair.condition).encode())
    for path in (pair.query, pair.reference):
        if not file_is_there(path):  # reading a pipe would wait for ever
            raise ImageError(f"there is no picture {path}")
        try:
            digest.update(hashlib.sha256(path.read_bytes()).digest())
        except OSError as error:
            raise ImageError(f"cannot read {path}: {error.strerror or error}") from error
    return digest.hexdigest()


def _summary(found: dict[str, Any], metrics: Sequence[str], files: dict[str, Path]) -> str:
    lines = []
    for row in found["results"]:
        values = "  ".join(f"{m} {report.interval_text(row[m])}" for m in metrics)
        lines.append(f"{row['method']:<8} {row['mode']:<6} {row['passes']:>6.0f} passes  {values}")
    return "\n".join([*lines, *(f"wrote {printable(str(file))}" for file in files.values())])
