"""Train the demo networks on the emoji pair and export them as the bundle that `engine` carries.

    python -m training.emoji                                # fetch, train (resumes), evaluate, export to runs/emoji/bundle
    python -m training.emoji --words engine/data/bundle     # new words for a bundle whose similarity network stays

Similarity: ResNet-18 to its third stage at width 32, NT-Xent between the two vendors' drawings of one emoji.
Attributes: the same trunk, started from the similarity network, with SANE's head; weighted cross-entropy and the heat-map
loss on the maps of the bundle's own similarity network; then prior, phi and probabilities from the validation emoji.
"""

import argparse
import dataclasses
import json
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import nn

from engine import Explainer
from engine.errors import EngineError
from engine.evaluate.recognition import mean_average_precision
from engine.pictures.preprocessing import Preprocessing
from engine.terminal import fail
from export import TorchSource, export_attributes, export_quantized, export_similarity
from export.architectures import AttributeNet, SimilarityNet, scores
from export.bundles import export_file
from export.calibration import calibrate
from training import emoji_report as report
from training.attributes import CROSS_ENTROPY_HEATMAP_WEIGHT, Teacher, started_from, table_of, train_attributes
from training.augment import MEAN, STD
from training.datasets.emoji import VENDORS, Emoji, load_emoji
from training.loop import logged_seconds
from training.saliency import saliency_maps
from training.similarity import trained_similarity

WIDTH = 32
NEAREST = 4
"""References of a training picture's maps, beside the other vendor's drawing of it."""
CALIBRATION = 48
"""Drawings of training emoji that the int8 graph is calibrated and reported on."""
NOT_SHOWN = {"Flags", "country-flag"}
"""The same pictures as "flag"."""
LEARNED = 0.5
"""Average precision on the validation emoji from which a word is shown."""


def trained_attributes(data: Emoji, similarity: nn.Module, bundle: Path, seed: int, run: Path) -> AttributeNet:
    """Taught by the truth and by the maps of the similarity model in `bundle`."""
    maps = saliency_maps(data, bundle, run / "maps.npy", nearest=NEAREST, seed=seed)
    network = started_from(similarity, len(data.attributes), WIDTH, seed)
    teacher = Teacher(maps, CROSS_ENTROPY_HEATMAP_WEIGHT, standardised=True)
    train_attributes(network, data, seed, run, teacher=teacher)
    return network


def write_similarity(data: Emoji, network: SimilarityNet, bundle: Path) -> None:
    """With its gradient, and int8 for CPUs beside fp32."""
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
    """The words worth showing alone."""
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


def write_labelled(data: Emoji, split: str, folder: Path) -> Path:
    """The pictures of a split in `folder`, and beside them what is true of each: a file for `export calibrate`."""
    folder.mkdir(parents=True, exist_ok=True)
    count, lines = len(data.pair.base), ["image,group,attributes"]
    for index in data.split(split):
        vendor, base = divmod(int(index), count)
        name = f"{base}-{VENDORS[vendor]}.png"
        Image.fromarray(data.picture(index)).save(folder / name)
        true = ";".join(np.array(data.attributes)[data.truth[index]])
        lines.append(f"{name},{base},{true}")
    labels = folder / "labels.csv"
    labels.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return labels


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m training.emoji", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--out", type=Path, default=Path("runs/emoji"), help="folder of the run (default: %(default)s)")
    add("--cache", type=Path, default=Path(".cache/emoji"), help="pictures (default: %(default)s)")
    where = parser.add_mutually_exclusive_group()
    where.add_argument("--bundle", type=Path, help="where the bundle goes (default: bundle in the folder of the run)")
    where.add_argument("--words", type=Path, metavar="BUNDLE", help="give this bundle new words alone")
    add("--seed", type=int, default=0)
    add("--threads", type=int, default=2)
    options = parser.parse_args(arguments)
    torch.set_num_threads(options.threads)
    try:
        print(_run(options))
    except EngineError as error:
        return fail(str(error))
    return 0


def _run(options: argparse.Namespace) -> Path:
    data, out = load_emoji(options.cache, "all"), options.out
    similarity, _ = trained_similarity(data, options.seed, out / "similarity", WIDTH)
    bundle = options.words or options.bundle or out / "bundle"
    if options.words is None:
        write_similarity(data, similarity, bundle)
    network = trained_attributes(data, similarity, bundle, options.seed, out / "attributes")
    write_attributes(data, network, bundle)
    labels = write_labelled(data, "valid", out / "valid")
    calibrate(bundle, labels.parent, labels, seed=options.seed, quiet=not sys.stderr.isatty())
    results = report.measure(data, Explainer(bundle))
    (out / "results.json").write_text(json.dumps(results, indent=1) + "\n")
    words = options.words is not None
    seconds = logged_seconds(out / "attributes" if words else out)
    card = report.model_card(results, data, seconds, options.seed, words)
    export_file(bundle, "MODEL_CARD.md", card.encode())
    return bundle


if __name__ == "__main__":
    raise SystemExit(main())
