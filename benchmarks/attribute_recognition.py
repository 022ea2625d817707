"""Does an attribute network learn more if it is trained on saliency maps too? The experiment of docs/attributes.md.

    python -m benchmarks.attribute_recognition              # all rows of both tables that are missing, one file each
    python -m benchmarks.attribute_recognition --seeds 1    # one seed of the first table, for a second process
    python -m benchmarks.attribute_recognition --quick      # compute one row again, and compare it with the committed one

Emoji are split by base emoji: 80% for training, 10% to choose weights, 10% for the test. Each seed has its own split and its
own similarity network. Networks and maps are kept below .cache/experiment, results in benchmarks/results/attributes. If a
run is stopped, the same command continues it.
"""

import argparse
import dataclasses
import json
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from benchmarks.attribute_measures import held_out, measure_network
from benchmarks.record import circumstances
from engine import Explainer
from engine.bundle import demo_bundle, load_bundle
from engine.files import write_whole
from engine.pictures.preprocessing import Preprocessing
from engine.protocol import require_whole
from engine.terminal import CommandParser, run_command, say
from export import TorchSource, export_quantized, export_similarity
from export.architectures import AttributeNet, SimilarityNet
from training.attributes import CROSS_ENTROPY_HEATMAP_WEIGHT, Teacher, started_from, table_of, train_attributes
from training.attributes import SCHEDULE as ATTRIBUTES
from training.augment import MEAN, STD
from training.datasets.emoji import Emoji, EmojiPair, load_emoji
from training.loop import STOPPED, logged_seconds
from training.saliency import Maps, saliency_maps
from training.similarity import SCHEDULE as SIMILARITY
from training.similarity import trained_similarity

EMOJI = Path(".cache/emoji")
RUNS = Path(".cache/experiment")
RESULTS = Path(__file__).parent / "results" / "attributes"
SETS = ("tags", "parts")
SEEDS = (0, 1, 2)
WIDTH = 32
MASKS = 256
NEAREST = 4
"""References of a training picture, in addition to the other vendor's drawing of it."""
CALIBRATION = 48
FEW = 8
"""Variants with few training emoji keep one in FEW."""
WEAK_EPOCHS = 8
"""Epochs of the similarity network in variants with weak maps."""


@dataclasses.dataclass(frozen=True)
class Variant:
    """One way to train. weight: of the heat-map loss, 0 for the classifier without maps

    shuffled: each picture gets the maps of another one; standardised, keep: see `Teacher`; fine: activation maps of 8 x 8
    instead of 4 x 4; weak: maps of a similarity network that was trained for a fourteenth of the time; few: an eighth of the
    training emoji; embedded: maps of the embedded demo bundle, and a network that starts from random weights
    """

    weight: float = CROSS_ENTROPY_HEATMAP_WEIGHT
    shuffled: bool = False
    standardised: bool = False
    keep: int | None = None
    fine: bool = False
    weak: bool = False
    few: bool = False
    embedded: bool = False


FIRST = {"alone": Variant(weight=0), "maps": Variant(), "shuffled": Variant(shuffled=True)}
SOFT = Variant(standardised=True)
SECOND = {
    "soft": SOFT,
    "soft-shuffled": dataclasses.replace(SOFT, shuffled=True),
    "soft-heavy": dataclasses.replace(SOFT, weight=2.0),
    "soft-light": dataclasses.replace(SOFT, weight=0.1),
    "soft-one": dataclasses.replace(SOFT, keep=1),
    "soft-weak": dataclasses.replace(SOFT, weak=True),
    "fine-alone": Variant(weight=0, fine=True),
    "fine-soft": dataclasses.replace(SOFT, fine=True),
    "few-alone": Variant(weight=0, few=True),
    "few-soft": dataclasses.replace(SOFT, few=True),
    "embedded": dataclasses.replace(SOFT, embedded=True),
}
"""Follow-ups with seed 0, which explain the first table."""
QUICK = ("tags", "embedded", 0)


def run(attributes: str, name: str, seed: int, folder: Path = RUNS) -> dict[str, Any]:
    """Train and measure one network, and return its row of results; finished parts of an earlier run are read."""
    variant = (FIRST | SECOND)[name]
    data = load_emoji(EMOJI, attributes, seed)
    here = folder / f"seed{seed}"
    start: SimilarityNet | None
    if variant.embedded:
        start, bundle = None, demo_bundle()
    else:
        start, bundle = similarity(data, seed, here / "similarity", SIMILARITY.epochs)
    taught_by = similarity(data, seed, here / "weak", WEAK_EPOCHS)[1] if variant.weak else bundle
    maps = None
    if variant.weight:
        kept = here / f"maps-{taught_by.parent.name}.npy"
        maps = saliency_maps(data, taught_by, kept, MASKS, NEAREST, seed, threads=torch.get_num_threads())
    folder = here / f"{attributes}-{name}"
    shown = Emoji(_fewer(data), data.attributes, data.truth) if variant.few else data
    network = train_network(shown, seed, folder, start, variant, maps)
    held = held_out(data, bundle, here, MASKS)
    return {
        "set": attributes,
        "variant": name,
        "seed": seed,
        **dataclasses.asdict(variant),
        "masks": MASKS,
        "precision": f"fp32, maps {Explainer(taught_by).precision}",
        "training_seconds": logged_seconds(folder),
        **measure_network(data, network, table_of(shown), held, seed),
        **circumstances(("numpy", "onnxruntime", "torch")),
    }


def similarity(data: Emoji, seed: int, folder: Path, epochs: int) -> tuple[SimilarityNet, Path]:
    """Return the similarity network of this seed's split, and its bundle."""
    network, _ = trained_similarity(data, seed, folder, WIDTH, dataclasses.replace(SIMILARITY, epochs=epochs))
    bundle = folder / "bundle"
    if not bundle.is_dir() or load_bundle(bundle).precision is None:
        preprocessing = Preprocessing(data.size, data.size, mean=MEAN, std=STD)
        export_similarity(TorchSource(network), preprocessing, bundle, name="emoji")
        with tempfile.TemporaryDirectory() as images:
            train = data.split("train")
            for i in train[:: len(train) // CALIBRATION]:
                Image.fromarray(data.picture(i)).save(Path(images) / f"{i}.png")
            export_quantized(bundle, Path(images), ["cpu"])
    return network, bundle


def train_network(
    data: Emoji, seed: int, folder: Path, start: SimilarityNet | None, variant: Variant, maps: Maps | None
) -> AttributeNet:
    """Train an attribute network; a run that was stopped is continued."""
    torch.manual_seed(seed)
    if start is None:
        network = AttributeNet(len(data.attributes), WIDTH).to(memory_format=torch.channels_last)
    else:
        network = started_from(start, len(data.attributes), WIDTH, seed)
    if variant.fine:
        _keep_resolution(network)
    teacher, schedule = None, ATTRIBUTES
    if maps is not None:
        maps = maps.shuffled(seed) if variant.shuffled else maps
        teacher = Teacher(maps, variant.weight, variant.keep, variant.standardised)
    if variant.few:
        schedule = dataclasses.replace(schedule, epochs=3 * schedule.epochs)
    train_attributes(network, data, seed, folder, schedule, teacher=teacher)
    return network


def _keep_resolution(network: AttributeNet) -> None:
    """Give the first block of the third stage a stride of 1, so that it no longer halves the resolution."""
    first = network.get_submodule("layer3.0")
    for convolution in (first.get_submodule("conv1"), first.get_submodule("downsample.0")):
        convolution.stride = (1, 1)  # type: ignore[assignment]


def _fewer(data: Emoji) -> EmojiPair:
    """Return the emoji with one in FEW of the training emoji."""
    return dataclasses.replace(data.pair, train=data.pair.train[::FEW])


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; return its exit status (see `engine.terminal`)."""
    return run_command(lambda: _run(_parser().parse_args(arguments)), STOPPED)


def _parser() -> CommandParser:
    parser = CommandParser(
        prog="python -m benchmarks.attribute_recognition",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--quick", action="store_true", help="compute one row again, in a temporary folder; no result is written")
    add("--seeds", type=int, nargs="+", choices=SEEDS, help="only the first table, with these seeds")
    add("--second", choices=SETS, nargs="+", help="only the second table, with these sets of attributes")
    add("--threads", type=int, default=1, help="threads of PyTorch (default: %(default)s)")
    return parser


def _run(options: argparse.Namespace) -> None:
    require_whole("--threads", options.threads, 1, 1024)
    torch.set_num_threads(options.threads)
    if options.quick:
        with tempfile.TemporaryDirectory() as folder:
            again = run(*QUICK, Path(folder))
        committed = json.loads(_file(*QUICK).read_text())
        for key in ("map_noto", "map_twemoji", "agreement_true", "agreement_false"):
            say(f"{key:16} now {again[key]['mean']:.3f}  committed {committed[key]['mean']:.3f}")
        return
    planned = [(s, v, seed) for seed in options.seeds or SEEDS for s in SETS for v in FIRST] if not options.second else []
    if not options.seeds:
        planned += [(s, v, 0) for s in options.second or SETS for v in SECOND]
    for one in planned:
        if not _file(*one).exists():
            RESULTS.mkdir(parents=True, exist_ok=True)
            write_whole(_file(*one), (json.dumps(run(*one), indent=1) + "\n").encode())
            say(f"wrote {_file(*one)}")


def _file(attributes: str, name: str, seed: int) -> Path:
    return RESULTS / f"{attributes}-{name}-{seed}.json"


if __name__ == "__main__":
    raise SystemExit(main())
