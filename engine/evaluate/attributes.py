"""python -m engine.evaluate.attributes: how good a bundle's attributes are, over labelled pictures."""

import argparse
import dataclasses
import hashlib
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from engine.attributes.table import AttributeTable
from engine.errors import OutputError
from engine.evaluate.bootstrap import CONFIDENCE, RESAMPLES, Interval, plain
from engine.evaluate.labels import Labelled, read_labels
from engine.evaluate.matching import both_ways, linked, matching_pairs, some_of
from engine.evaluate.network_outputs import Observed, matches, observe, similarities, words_of
from engine.evaluate.recognition import mean_average_precision, reliability
from engine.evaluate.removal import Drop, direction_agreement, first_named, removal, removal_drops, top_true
from engine.explainer import Explainer
from engine.files import check_writable, write_whole
from engine.methods.rise import Rise
from engine.protocol import require_seed, require_whole
from engine.runtime.providers import PROVIDERS
from engine.terminal import Bar, run_command, say

RANKINGS = {
    "confidence": (True, False, False),
    "confidence + match": (True, True, False),
    "confidence + prior": (True, False, True),
    "all": (True, True, True),
}
"""Which terms of the bundle's phi each has."""
_EXAMPLES = """examples:
  python -m engine.evaluate.attributes labels.csv --images pictures --out report.json
  python -m engine.evaluate.attributes labels.csv --images pictures --bundle models/shoes --pairs-limit 200 --out report.json

LABELS is a CSV with columns image,group,attributes: a file below DIR; any text, equal for pictures that match (without this
column each picture is paired with the one most similar to it); names with ; between them.
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit status: 0, or 2 for bad usage or bad input."""
    options = _parser().parse_args(arguments)
    return run_command(lambda: _run(options), "stopped")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m engine.evaluate.attributes",
        description="Judge a bundle's attributes over labelled pictures: recognition, calibration, how far the similarity "
        "falls where the query lacks the attribute named first, and whether both directions of a pair name the same.",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    add = parser.add_argument
    add("labels", type=Path, metavar="LABELS", help="a CSV, see below")
    add("--images", type=Path, required=True, metavar="DIR", help="where the pictures are")
    add("--out", type=Path, required=True, metavar="FILE", help="the report, .json")
    add("--bundle", metavar="DIR", help="model made by `python -m export` (default: the embedded emoji demo)")
    add("--pairs-limit", type=int, default=500, metavar="N", help="pairs to explain, each both ways (default: %(default)s)")
    add("--masks", type=int, metavar="N", help="passes over each picture (default: as many as its maps need)")
    add("--seed", type=int, default=0, metavar="S", help="of masks and of the pairs chosen (default: %(default)s)")
    add("--provider", default="auto", metavar="P", help=f"auto, {', '.join(PROVIDERS)} (default: %(default)s)")
    add("--precision", default="auto", metavar="P", help="auto, fp32, fp16, bf16, int8 (default: %(default)s)")
    add("--quiet", action="store_true", help="no progress bar")
    return parser


def _run(options: argparse.Namespace) -> None:
    if options.out.suffix != ".json":
        raise OutputError(f"cannot write {options.out}: the report's name must end in .json")
    check_writable(options.out)
    require_seed(options.seed)
    require_whole("pairs-limit", options.pairs_limit, 1, 10**6)
    method = Rise(seed=options.seed, **({} if options.masks is None else {"masks": options.masks}))
    explainer = Explainer(options.bundle, options.provider, options.precision)
    table, _ = words_of(explainer)
    labelled = read_labels(options.labels, options.images, table.names)
    found = evaluate(explainer, labelled, options.pairs_limit, method, options.quiet)
    model = explainer.model
    settings = {
        "model": model.manifest.name,
        "identity": model.bundle.identity,
        "graph": model.graph_digest,
        "provider": explainer.provider,
        "precision": explainer.precision,
        "labels": str(options.labels),
        "labels_sha256": hashlib.sha256(options.labels.read_bytes()).hexdigest(),
        "method": {"name": method.name, **dataclasses.asdict(method)},
        "phi": table.weights,
        "threshold": table.threshold,
        "interval": CONFIDENCE,
        "resamples": RESAMPLES,
    }
    write_whole(options.out, (json.dumps(plain({"settings": settings, **found}), indent=1) + "\n").encode())
    say(f"{_told(found)}\nwrote {options.out}")


def evaluate(explainer: Explainer, labelled: Labelled, limit: int, method: Rise, quiet: bool = True) -> dict[str, Any]:
    """Every figure, with intervals over groups of pictures: `pictures`, `recognition`, `calibration`, `removal`, `top_true`,
    `direction_agreement`; holds `Interval`s, see `bootstrap.plain`.

    limit: pairs to explain, each in both directions, drawn by the method's seed. Raises an EngineError.
    """
    table, _ = words_of(explainer)
    with Bar(quiet, "looking", "picture") as bar:
        seen = observe(explainer, labelled.files, bar.show)
    similarity = similarities(explainer, seen.embeddings)
    matching = matching_pairs(labelled, similarity)
    together = linked(labelled.groups, matching)
    once = some_of(both_ways(matching)[0], limit, method.seed)
    pairs = np.concatenate(both_ways(once))
    with Bar(quiet, "explaining", "query") as bar:
        agreement = matches(explainer, labelled.files, seen.embeddings, pairs, method, bar.show)
    rankings = _rankings(table, seen.confidences[pairs[:, 0]], agreement)
    clusters = together[pairs[:, 0]]
    drops = removal_drops(similarity, labelled.truth, labelled.groups, pairs)
    half = len(once)
    return {
        "pictures": _counts(labelled, pairs),
        **_recognition(table, labelled, seen, together),
        "removal": removal(drops, labelled.truth[pairs[:, 0]], rankings, clusters),
        "top_true": {name: top_true(first, labelled.truth, pairs, clusters) for name, first in rankings.items()},
        "direction_agreement": {
            name: direction_agreement(first[:half], first[half:], clusters[:half]) for name, first in rankings.items()
        },
    }


def _counts(labelled: Labelled, pairs: np.ndarray) -> dict[str, Any]:
    return {
        "count": len(labelled.files),
        "groups": len(np.unique(labelled.groups)),
        "pairing": "groups" if labelled.grouped else "most similar",
        "ordered_pairs": len(pairs),
        "unknown_attributes": labelled.unknown,
        "attributes_without_positive": int((~labelled.truth.any(0)).sum()),
    }


def _recognition(table: AttributeTable, labelled: Labelled, seen: Observed, together: np.ndarray) -> dict[str, Any]:
    mean, single = mean_average_precision(labelled.truth, seen.confidences, together)
    named = {name: value for name, value in zip(table.names, single.tolist(), strict=True) if np.isfinite(value)}
    return {
        "recognition": {"mean_average_precision": mean, "by_attribute": named},
        "calibration": reliability(labelled.truth, seen.confidences).to_dict(),
    }


def _rankings(table: AttributeTable, confidences: np.ndarray, agreement: np.ndarray) -> dict[str, np.ndarray]:
    """Name -> (P,) int, the attribute each ranking names first; confidences, agreement: (P, A)."""
    prior = 0.0 if table.prior is None else table.prior
    found = {}
    for name, terms in RANKINGS.items():
        a, b, c = (weight if term else 0.0 for weight, term in zip(table.weights, terms, strict=True))
        found[name] = first_named(a * confidences + b * agreement + c * prior, confidences, table.threshold)
    # whatever phi_1 is, the classifier's best attribute is the one it is surest of
    return found | {"confidence": first_named(confidences, confidences)}


def _told(found: dict[str, Any]) -> str:
    drops: dict[str, Drop] = found["removal"]
    agree: dict[str, Interval] = found["direction_agreement"]
    true: dict[str, Interval] = found["top_true"]
    lines = [
        f"mean average precision {found['recognition']['mean_average_precision']}",
        f"calibration error {found['calibration']['error']:.4f}",
        f"drop in similarity without the attribute named first, {found['pictures']['ordered_pairs']} pairs "
        f"({'in groups' if found['pictures']['pairing'] == 'groups' else 'most similar pictures: no groups given'}):",
        *(f"  {name:<20} {drop.mean}, over random {drop.over_random}" for name, drop in drops.items()),
        f"named first and true of both {true['all']}",
        f"same both ways {agree['all']}",
    ]
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
