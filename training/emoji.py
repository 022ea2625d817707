"""Train the demo networks on the emoji pair and export them as the bundle that `engine` carries.

    python -m training.emoji                                    # fetch, train, evaluate, and export to runs/emoji/bundle
    python -m training.emoji --attributes engine/data/bundle    # new attributes, the same similarity network
    python -m training.emoji --settle engine/data/bundle        # only calibrate: probes, or the network that is there?

Similarity: the first three stages of ResNet-18 at width 32; NT-Xent between the two vendors' drawings of one emoji.
Attributes: the same trunk, started from the similarity network, with SANE's head; weighted cross-entropy, and the heat-map
loss on saliency maps of the bundle's similarity network. Then probes are fitted beside it; the better of the two is kept,
with prior, phi and calibration from the validation emoji (`training.emoji_attributes`).
If a run is stopped, the same command continues it.
"""

import argparse
import dataclasses
import json
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import nn

from engine import Explainer
from engine.evaluate.recognition import mean_average_precision
from engine.files import write_whole
from engine.pictures.preprocessing import Preprocessing
from engine.terminal import CommandParser, run_command, say
from export import TorchSource, export_attributes, export_quantized, export_similarity
from export.architectures import AttributeNet, SimilarityNet, scores
from export.bundles import export_file
from training import emoji_report as report
from training.attributes import CROSS_ENTROPY_HEATMAP_WEIGHT, Teacher, started_from, table_of, train_attributes
from training.augment import MEAN, STD
from training.datasets.emoji import VENDORS, Emoji, load_emoji
from training.emoji_attributes import LEARNED, NOT_SHOWN, settle_attributes
from training.loop import STOPPED, logged_seconds
from training.saliency import saliency_maps
from training.similarity import add_run_options, trained_similarity, use_run_options

WIDTH = 32
NEAREST = 4
"""References of a training picture's saliency maps, in addition to the other vendor's drawing of it."""
CALIBRATION = 48
"""Drawings of training emoji that the int8 graph is calibrated and reported on."""


def trained_attributes(data: Emoji, similarity: nn.Module, bundle: Path, seed: int, run: Path) -> AttributeNet:
    """Train the attribute network on the truth and on saliency maps of the similarity model in `bundle`."""
    maps = saliency_maps(data, bundle, run / "maps.npy", nearest=NEAREST, seed=seed)
    network = started_from(similarity, len(data.attributes), WIDTH, seed)
    teacher = Teacher(maps, CROSS_ENTROPY_HEATMAP_WEIGHT, standardised=True)
    train_attributes(network, data, seed, run, teacher=teacher)
    return network


def write_similarity(data: Emoji, network: SimilarityNet, bundle: Path) -> None:
    """Write the similarity network into a new bundle, with its gradient, in fp32 and in int8 for CPUs."""
    preprocessing = Preprocessing(data.size, data.size, mean=MEAN, std=STD)
    export_similarity(TorchSource(network), preprocessing, bundle, name="emoji demo", licence="MIT", gradient=True)
    with tempfile.TemporaryDirectory() as images:
        bases = data.bases("train")
        for base in bases[np.linspace(0, len(bases) - 1, CALIBRATION // 2).astype(int)]:
            for i, vendor in enumerate(VENDORS):
                drawing = Image.fromarray(data.picture(base + i * len(data.pair.base)))
                drawing.save(Path(images) / f"{base}-{vendor}.png")
        export_quantized(bundle, Path(images), ["cpu"])


def write_attributes(data: Emoji, network: AttributeNet, bundle: Path) -> None:
    """Write the attribute network into the bundle, with only those attributes that it learned well."""
    table, valid = table_of(data), data.split("valid")
    with torch.inference_mode():
        seen = scores(network(data.plain(valid))).numpy()
    _, learned = mean_average_precision(data.truth[valid], seen)
    kept = [i for i, name in enumerate(data.attributes) if name not in NOT_SHOWN and learned[i] >= LEARNED]
    shown = AttributeNet(len(kept), WIDTH)
    weights = dict(network.state_dict())
    weights["head.weight"] = weights["head.weight"][kept]
    shown.load_state_dict(weights)
    names = tuple(data.attributes[i] for i in kept)
    export_attributes(
        TorchSource(shown.eval()), dataclasses.replace(table, names=names, bias=table.bias[kept], scale=None), bundle
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; return its exit status (see `engine.terminal`)."""
    return run_command(lambda: say(f"wrote {_run(_parser().parse_args(arguments))}"), STOPPED)


def _parser() -> argparse.ArgumentParser:
    parser = CommandParser(
        prog="python -m training.emoji", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--out", type=Path, metavar="DIR", default=Path("runs/emoji"), help="folder of the run (default: %(default)s)")
    add(
        "--cache",
        type=Path,
        metavar="DIR",
        default=Path(".cache/emoji"),
        help="folder of the emoji, which are fetched there with npm (default: %(default)s)",
    )
    where = parser.add_mutually_exclusive_group()
    where.add_argument(
        "--bundle", type=Path, metavar="DIR", help="the new bundle (default: bundle in the folder of the run)"
    )
    where.add_argument("--attributes", type=Path, metavar="BUNDLE", help="replace only the attributes of this bundle")
    where.add_argument(
        "--settle", type=Path, metavar="BUNDLE", help="train nothing: fit probes beside this bundle's attribute network, "
        "calibrate both and keep the better"
    )  # fmt: skip
    add_run_options(parser)
    return parser


def _run(options: argparse.Namespace) -> Path:
    """Train, evaluate and export; return the bundle's folder."""
    use_run_options(options)
    data, out = load_emoji(options.cache, "all"), options.out
    bundle = options.attributes or options.settle or options.bundle or out / "bundle"
    if options.settle is None:
        similarity, _ = trained_similarity(data, options.seed, out / "similarity", WIDTH)
        if options.attributes is None:
            write_similarity(data, similarity, bundle)
        network = trained_attributes(data, similarity, bundle, options.seed, out / "attributes")
        write_attributes(data, network, bundle)
    settled = settle_attributes(data, bundle, out, options.seed)
    results = {**report.measure(data, Explainer(bundle)), "settled": settled}
    write_whole(out / "results.json", (json.dumps(results, indent=1) + "\n").encode())
    attributes_only = options.attributes is not None or options.settle is not None
    seconds = None if options.settle else logged_seconds(out / "attributes" if attributes_only else out)
    card = report.model_card(results, data, seconds, options.seed, attributes_only)
    export_file(bundle, "MODEL_CARD.md", card.encode())
    return bundle


if __name__ == "__main__":
    raise SystemExit(main())
