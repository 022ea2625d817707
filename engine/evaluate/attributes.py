"""python -m engine.evaluate.attributes: how good a bundle's attributes are on labelled pictures.

The figures: docs/method.md, Attribute recognition and removal.
"""

import argparse
import dataclasses
import hashlib
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from engine.attributes.probability import joint_probability
from engine.attributes.table import AttributeTable
from engine.evaluate.bootstrap import CONFIDENCE, RESAMPLES, Interval, bootstrap, json_ready
from engine.evaluate.labels import Labelled, read_labels
from engine.evaluate.matching import draw_pairs, joined_groups, matching_pairs, split_directions
from engine.evaluate.network_outputs import NetworkOutputs, map_matches, require_attributes, run_networks, similarities
from engine.evaluate.options import (
    add_provider_options,
    add_shared_options,
    evaluate_parser,
    open_explainer,
    reads_of,
    require_json_name,
)
from engine.evaluate.recognition import mean_average_precision, reliability
from engine.evaluate.removal import (
    RemovalDrop,
    direction_agreement,
    first_named,
    removal,
    removal_drops,
    top_true,
    top_true_gain,
)
from engine.explainer import Explainer
from engine.files import check_writable, write_whole
from engine.methods.rise import Rise
from engine.protocol import require_seed, require_whole
from engine.terminal import Bar, printable, run_command, say

PHI_RANKINGS = {
    "confidence": (True, False, False),
    "confidence + match": (True, True, False),
    "confidence + prior": (True, False, True),
    "all": (True, True, True),
}
"""Rankings by the query to compare: which of the three terms of the bundle's phi each uses."""
JOINT_RANKING = "joint"
"""By the probability of being true of both pictures: the ranking of explanations."""
_EXAMPLES = """examples:
  python -m engine.evaluate.attributes labels.csv --images pictures --out report.json
  python -m engine.evaluate.attributes labels.csv --images pictures --bundle models/shoes --pairs-limit 200 --out report.json

LABELS is a CSV with the columns image,group,attributes.
  image       a file below DIR
  group       any text; pictures of one group match (without this column, each picture is paired with the most similar one)
  attributes  names with ; between them
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command and return its exit status, see `engine.terminal`."""
    return run_command(lambda: _run(_parser().parse_args(arguments)))


def _parser() -> argparse.ArgumentParser:
    parser = evaluate_parser(
        "python -m engine.evaluate.attributes",
        "Judge a bundle's attributes on labelled pictures: how well they are recognised, how far confidences are from\n"
        "probabilities, how far the similarity falls if the query loses the attribute named first, and whether both\n"
        "directions of a pair name the same attribute.",
        _EXAMPLES,
    )
    parser.add_argument("labels", type=Path, metavar="LABELS", help="a CSV, see below")
    add_shared_options(
        parser,
        out="the report, .json",
        images="folder of the pictures",
        images_required=True,
        masks="passes over each picture (default: as many as its maps need)",
    )
    add_provider_options(parser)
    parser.add_argument(
        "--pairs-limit",
        type=int,
        default=500,
        metavar="N",
        help="most pairs to explain, each in both directions (default: %(default)s)",
    )
    return parser


def _run(options: argparse.Namespace) -> None:
    require_json_name(options.out)
    check_writable(options.out, reads_of(options, options.labels))
    require_seed(options.seed)
    require_whole("pairs-limit", options.pairs_limit, 1, 10**6)
    method = Rise(seed=options.seed, **({} if options.masks is None else {"masks": options.masks}))
    explainer = open_explainer(options)
    table = require_attributes(explainer)
    labelled = read_labels(options.labels, options.images, table.names)
    check_writable(options.out, labelled.files)
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
    write_whole(options.out, (json.dumps(json_ready({"settings": settings, **found}), indent=1) + "\n").encode())
    say(f"{_summary(found)}\nwrote {printable(str(options.out))}")


def evaluate(explainer: Explainer, labelled: Labelled, limit: int, method: Rise, quiet: bool = True) -> dict[str, Any]:
    """Compute every figure: `pictures`, `recognition`, `calibration`, `removal`, `top_true`, `direction_agreement`.

    limit: most pairs to explain, each in both directions, drawn by the method's seed
    The values include dataclasses and arrays (see `bootstrap.json_ready`); intervals are over groups of pictures.
    Raises ImageError if a file is not a picture, OptionError if the bundle has no attributes or no two pictures match.
    """
    table = require_attributes(explainer)
    with Bar(quiet, "looking", "picture") as bar:
        outputs = run_networks(explainer, labelled.files, bar.show)
    similarity = similarities(explainer, outputs.embeddings)
    matching = matching_pairs(labelled, similarity)
    clusters_of_pictures = joined_groups(labelled.groups, matching)
    one_direction = draw_pairs(split_directions(matching)[0], limit, method.seed)
    pairs = np.concatenate(split_directions(one_direction))
    with Bar(quiet, "explaining", "query") as bar:
        agreement = map_matches(explainer, labelled.files, outputs.embeddings, pairs, method, bar.show)
    ours, theirs = (outputs.confidences[which] for which in pairs.T)
    both = joint_probability(ours, theirs, table.joint)
    rankings = {JOINT_RANKING: first_named(both, both), **_rankings(table, ours, agreement)}
    clusters = clusters_of_pictures[pairs[:, 0]]
    drops = removal_drops(similarity, labelled.truth, labelled.groups, pairs)
    half = len(one_direction)
    return {
        "pictures": _counts(labelled, pairs),
        **_recognition(table, labelled, outputs, clusters_of_pictures),
        "removal": removal(drops, labelled.truth[pairs[:, 0]], rankings, clusters),
        "top_true": {name: top_true(first, labelled.truth, pairs, clusters) for name, first in rankings.items()},
        "top_true_over_confidence": {
            name: top_true_gain(first, rankings["confidence"], labelled.truth, pairs, clusters)
            for name, first in rankings.items()
        },
        "joint": _joint_figures(table, both, labelled.truth[pairs[:, 0]] & labelled.truth[pairs[:, 1]], clusters),
        "direction_agreement": {
            name: direction_agreement(first[:half], first[half:], clusters[:half]) for name, first in rankings.items()
        },
    }


def _joint_figures(table: AttributeTable, both: np.ndarray, truth: np.ndarray, clusters: np.ndarray) -> dict[str, Any]:
    """How good the joint probabilities (P, A) are, and what is named from the threshold on. truth: (P, A) bool, of both"""
    named = both >= table.threshold
    counts = named.sum(1)
    pair_of = np.nonzero(named)[0]  # of everything that is named
    return {
        "calibration": reliability(truth, both).to_dict(),
        "named_per_pair": bootstrap(counts.astype(np.float64), clusters),
        "named_true_of_both": bootstrap(truth[named].astype(np.float64), clusters[pair_of]),
        "pairs_with_a_name": bootstrap((counts > 0).astype(np.float64), clusters),
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


def _recognition(table: AttributeTable, labelled: Labelled, outputs: NetworkOutputs, clusters: np.ndarray) -> dict[str, Any]:
    mean, single = mean_average_precision(labelled.truth, outputs.confidences, clusters)
    by_attribute = {name: value for name, value in zip(table.names, single.tolist(), strict=True) if np.isfinite(value)}
    return {
        "recognition": {"mean_average_precision": mean, "by_attribute": by_attribute},
        "calibration": reliability(labelled.truth, outputs.confidences).to_dict(),
    }


def _rankings(table: AttributeTable, confidences: np.ndarray, agreement: np.ndarray) -> dict[str, np.ndarray]:
    """Return for each ranking the attribute that it names first, (P,) int. confidences, agreement: (P, A)"""
    prior = 0.0 if table.prior is None else table.prior
    found = {}
    for name, terms in PHI_RANKINGS.items():
        a, b, c = (weight if term else 0.0 for weight, term in zip(table.weights, terms, strict=True))
        found[name] = first_named(a * confidences + b * agreement + c * prior, confidences, table.threshold)
    # even if phi_1 is 0, ranking by confidence alone names the attribute with the highest confidence
    return found | {"confidence": first_named(confidences, confidences)}


def _summary(found: dict[str, Any]) -> str:
    drops: dict[str, RemovalDrop] = found["removal"]
    agree: dict[str, Interval] = found["direction_agreement"]
    true: dict[str, Interval] = found["top_true"]
    lines = [
        f"mean average precision {found['recognition']['mean_average_precision']}",
        f"calibration error {found['calibration']['error']:.4f}",
        f"drop in similarity without the attribute named first, {found['pictures']['ordered_pairs']} pairs "
        f"({'in groups' if found['pictures']['pairing'] == 'groups' else 'most similar pictures: no groups given'}):",
        *(f"  {name:<20} {drop.mean}, over random {drop.over_random}" for name, drop in drops.items()),
        f"attribute named first is true of both pictures {true[JOINT_RANKING]}, over confidence alone "
        f"{found['top_true_over_confidence'][JOINT_RANKING]}; in ranking sane {true['all']}",
        f"named per pair {found['joint']['named_per_pair']}, of them true of both {found['joint']['named_true_of_both']}",
        f"calibration error of the joint probability {found['joint']['calibration']['error']:.4f}",
        f"same attribute in both directions {agree[JOINT_RANKING]}; in ranking sane {agree['all']}",
    ]
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
