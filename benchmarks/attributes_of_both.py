"""Attributes of a match: first attribute true of both, by source and by ranking, on pictures that nothing was fitted to.

    python -m benchmarks.attributes_of_both [--only NAME ...] [--out FILE]

Sources: `network`, the demo's attribute network; `probes`, linear probes on layers of the similarity network; `embedding`, a
probe on the embedding alone; `passes`, a probe on the embedding and the mean of the masked pictures' embeddings. Rankings:
`confidence` of the query, the `product` of both, `joint` with parameters fitted to the validation pairs. Parts:

    emoji       the demo network, held-out emoji in both vendors' drawings
    mobilenet   MobileNetV2 with ImageNet's weights at 224 pixels, the same emoji
    clipart     MobileNetV2, Debian's openclipart-png: attributes are the names of the folders
    passes      three splits of the training pictures, the demo network and MobileNetV2 at 96 pixels
    texts       a text tower trained to the demo's embeddings on the emoji's names: attributes without labels
    places      where an attribute of a colour is seen, against the pixels of that colour
"""

import argparse
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.attribute_places import places
from benchmarks.attribute_sets import DEMO_NAMES, clipart, emoji_labels, mobilenet_bundle
from benchmarks.attribute_sources import by_passes, demo_copy, judged, with_embedding_only, with_probes
from benchmarks.attribute_texts import by_text
from benchmarks.record import circumstances
from benchmarks.settings import chosen_names
from engine.evaluate.bootstrap import json_ready
from engine.files import write_whole
from engine.terminal import CommandParser, notice, run_command, say

OUT = Path(__file__).parent / "results" / "attributes" / "of_both.json"
CACHE = Path(".cache/benchmarks/of_both")
Row = dict[str, Any]


def main(arguments: list[str] | None = None) -> int:
    """Run the command; return its exit status (see `engine.terminal`)."""
    return run_command(lambda: _run(_parser().parse_args(arguments)))


def _parser() -> CommandParser:
    parser = CommandParser(prog="python -m benchmarks.attributes_of_both", description=__doc__.splitlines()[0])
    parser.add_argument("--only", nargs="+", default=[], metavar="NAME", help=f"parts (default: all): {', '.join(PARTS)}")
    parser.add_argument("--out", type=Path, default=OUT, metavar="FILE", help="the rows; those of other parts there stay")
    return parser


def _run(options: argparse.Namespace) -> None:
    CACHE.mkdir(parents=True, exist_ok=True)
    for name in chosen_names(options.only, list(PARTS)):
        notice(f"measuring {name}")
        rows = [{"part": name, **json_ready(row), **circumstances()} for row in PARTS[name]()]
        before = json.loads(options.out.read_text()) if options.out.is_file() else []
        kept = [row for row in before if row["part"] != name]
        write_whole(options.out, (json.dumps([*kept, *rows], indent=1) + "\n").encode())
        say(f"{name}: {len(rows)} rows to {options.out}")


def emoji() -> list[Row]:
    """The demo network: its attribute network, probes for the same attributes, and its embedding alone."""
    labels = {split: emoji_labels(split, CACHE / split, DEMO_NAMES) for split in ("train", "valid", "test")}
    bundles = {"network": demo_copy(CACHE / "network"), "probes": with_probes(demo_copy(CACHE / "probes"), labels["train"])}
    bundles["embedding"] = with_embedding_only(bundles["probes"], CACHE / "embedding")
    return [{"network": "demo", "source": s, **judged(b, labels)} for s, b in bundles.items()]


def mobilenet() -> list[Row]:
    """MobileNetV2 on the same emoji."""
    labels = {split: emoji_labels(split, CACHE / split, DEMO_NAMES) for split in ("train", "valid", "test")}
    probes = with_probes(mobilenet_bundle(CACHE / "mobilenet", 224), labels["train"])
    bundles = {"probes": probes, "embedding": with_embedding_only(probes, CACHE / "mobilenet-embedding")}
    return [{"network": "MobileNetV2, 224", "source": s, **judged(b, labels)} for s, b in bundles.items()]


def clipart_rows() -> list[Row]:
    """MobileNetV2 on clip art."""
    labels = clipart(CACHE / "clipart")
    probes = with_probes(mobilenet_bundle(CACHE / "clipart-probes", 224), labels["train"])
    bundles = {"probes": probes, "embedding": with_embedding_only(probes, CACHE / "clipart-embedding")}
    return [{"network": "MobileNetV2, 224", "source": s, **judged(b, labels)} for s, b in bundles.items()]


def passes() -> list[Row]:
    """What the passes add to the embedding."""
    labels = {split: emoji_labels(split, CACHE / split, DEMO_NAMES) for split in ("train", "test")}
    demo = by_passes(demo_copy(CACHE / "network"), labels, pictures=1500, fitted=976, masks=256)
    other = by_passes(mobilenet_bundle(CACHE / "mobilenet-96", 96), labels, pictures=600, fitted=400, masks=128)
    return [{"network": "demo", **row} for row in demo] + [{"network": "MobileNetV2, 96", **row} for row in other]


PARTS: dict[str, Callable[[], list[Row]]] = {
    "emoji": emoji,
    "mobilenet": mobilenet,
    "clipart": clipart_rows,
    "passes": passes,
    "texts": lambda: by_text(CACHE),
    "places": lambda: places(CACHE),
}

if __name__ == "__main__":
    raise SystemExit(main())
