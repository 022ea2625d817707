"""Train an attribute network, with saliency maps of the similarity model as a second teacher (docs/method.md, Training).

    python -m training.attributes --data emoji --root .cache/emoji --out runs/attributes \\
        --start runs/similarity/similarity.pt --bundle models/emoji
    python -m export attributes --trained runs/attributes/attributes.pt --out models/emoji

With --bundle the engine first explains every training picture with that model, into maps.npy in the folder of the run. A run
that was stopped goes on.
"""

import argparse
import dataclasses
import math
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from engine.attributes.table import AttributeTable
from engine.errors import EngineError, OptionError
from engine.pictures.preprocessing import Preprocessing
from engine.terminal import fail
from export.architectures import AttributeNet, PublishedAttributeNet, scores
from export.sources import state_dict
from export.trained import Trained, load_trained, save_trained
from training.augment import MEAN, STD, bfloat16
from training.datasets import load
from training.datasets.protocol import DataSet
from training.loop import PublishedSchedule, Randomness, Schedule, digest, train
from training.losses import HEATMAP_WEIGHT, attribute_loss, heatmap_loss, weighted_cross_entropy
from training.saliency import Maps, saliency_maps
from training.similarity import add_data, prepared

FILE = "attributes.pt"
LOSSES = ("cross-entropy", "sane")
NETWORKS = ("small", "published")
SCHEDULE = Schedule(epochs=20, rate=1e-3)
BATCH = 128
PUBLISHED_BATCH = 256
LARGEST_WEIGHT = 20.0
THRESHOLD = 0.6
CROSS_ENTROPY_HEATMAP_WEIGHT = 0.4


@dataclasses.dataclass(frozen=True, eq=False)
class Teacher:
    """What the heat-map loss learns from.

    weight: of that loss; keep: maps used of each picture, None: all
    standardised: maps of mean 0 and deviation 1 over space before the softmax, not raw ones, of which it leaves one peak:
        what teaches more beside the cross-entropy (docs/attributes.md)
    """

    maps: Maps
    weight: float
    keep: int | None = None
    standardised: bool = False

    def about(self) -> dict[str, str | float | None]:
        """What a run needs to know of it to be resumed."""
        settings = {"heatmap_weight": self.weight, "keep": self.keep, "standardised": self.standardised}
        return settings | {"maps": digest(self.maps.stored)}

    def targets(self, pictures: np.ndarray, size: tuple[int, int]) -> tuple[Tensor, Tensor]:
        """Saliency (n, K, h * w) and validity (n, K) for `heatmap_loss`."""
        saliency, valid = self.maps.of(pictures, size, self.keep)
        if self.standardised:
            deviation = saliency.std(2, correction=0, keepdim=True).clamp_min(1e-6)
            saliency = (saliency - saliency.mean(2, keepdim=True)) / deviation
        return saliency, valid


def train_attributes(
    network: nn.Module,
    data: DataSet,
    seed: int,
    run: Path,
    schedule: Schedule | PublishedSchedule = SCHEDULE,
    loss: str = "cross-entropy",
    teacher: Teacher | None = None,
    batch: int = BATCH,
) -> None:
    """Train `network`, (N, 3, size, size) -> (N, A, h, w), in place on the training pictures of `data`."""
    pictures = data.split("train")
    weights = torch.from_numpy(positive_weights(data)).float()
    saliency = valid = None
    if teacher is not None:
        saliency, valid = teacher.targets(pictures, map_size(network, data.size))

    def batches(randomness: Randomness) -> Iterable[Callable[[], Tensor]]:
        order = randomness.numpy.permutation(len(pictures))
        for start in range(0, max(len(order) - batch + 1, 1), batch):
            drawn = order[start : start + batch]

            def step(drawn: np.ndarray = drawn) -> Tensor:
                shown = data.augmented(pictures[drawn], randomness)
                with bfloat16():
                    maps = network(shown)
                maps, truth = maps.float(), torch.from_numpy(data.truth[pictures[drawn]])
                found = scores(maps)
                total = attribute_loss(found, truth) if loss == "sane" else weighted_cross_entropy(found, truth, weights)
                if teacher is not None:
                    total = total + teacher.weight * heatmap_loss(maps, truth, saliency[drawn], valid[drawn])
                return total

            yield step

    about = {"data": digest(pictures, data.truth[pictures]), "size": data.size, "batch": batch, "loss": loss}
    about |= {"heatmap_weight": 0.0} if teacher is None else teacher.about()
    train(network, batches, schedule, seed, run, about)


def positive_weights(data: DataSet) -> np.ndarray:
    """(A,) weight of a positive in the cross-entropy: as many negatives as there are per positive, from 1/20 to 20."""
    share = data.truth[data.split("train")].mean(0)
    return np.clip((1 - share) / np.maximum(share, 1e-9), 1 / LARGEST_WEIGHT, LARGEST_WEIGHT)


def table_of(data: DataSet, loss: str = "cross-entropy", threshold: float = THRESHOLD) -> AttributeTable:
    """What the maps mean. A positive that counted w times in the cross-entropy raised its logit by log w: the bias."""
    if loss == "sane":
        return AttributeTable(data.attributes, "softmax", np.zeros(len(data.attributes), np.float32))
    return AttributeTable(data.attributes, "sigmoid", -np.log(positive_weights(data)).astype(np.float32), threshold)


def started_from(similarity: nn.Module, attributes: int, width: int, seed: int) -> AttributeNet:
    """An attribute network whose trunk is the similarity network's."""
    torch.manual_seed(seed)
    network = AttributeNet(attributes, width).to(memory_format=torch.channels_last)
    trunk = {k: v for k, v in similarity.state_dict().items() if not k.startswith("fc_embed")}
    network.load_state_dict(trunk, strict=False)  # the head is not there
    return network


def start_published(network: PublishedAttributeNet, weights: Path) -> None:
    """From the state dict of a torchvision ResNet-50; raises OptionError where it is not that."""
    state = {k: v for k, v in state_dict(weights).items() if not k.startswith("fc.")}
    own = {k: v.shape for k, v in network.state_dict().items() if not k.startswith("head.")}
    if {k: v.shape for k, v in state.items()} != own:
        raise OptionError(f"{weights} is not of a ResNet-50: it must have all its tensors, by torchvision's names")
    network.load_state_dict(state, strict=False)


def map_size(network: nn.Module, size: int) -> tuple[int, int]:
    """(h, w) of its activation maps."""
    network.eval()
    with torch.inference_mode():
        height, width = network(torch.zeros(1, 3, size, size)).shape[2:]
    return height, width


def main(arguments: Sequence[str] | None = None) -> int:
    options = _parser().parse_args(arguments)
    try:
        prepared(options)
        print(f"wrote {_run(options)}")
    except EngineError as error:
        return fail(str(error))
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m training.attributes", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add_data(parser)
    add = parser.add_argument
    add("--network", choices=NETWORKS, default="small", help="ResNet-18 to its third stage, or the paper's ResNet-50")
    add("--start", type=Path, help="trained weights to start from: similarity.pt, or a state dict of ResNet-50")
    add("--loss", choices=LOSSES, default=LOSSES[0], help="of the scores: weighted cross-entropy, or the paper's")
    add("--bundle", type=Path, help="model whose saliency maps teach (default: none do)")
    add("--heatmap-weight", type=float, help="of the heat-map loss (published 0.005 with sane; 0.4 with cross-entropy)")
    add("--masks", type=int, default=256, help="masks of a saliency map, at most 512 (%(default)s)")
    add("--epochs", type=int, help="default: 20; the published schedule, 300, with --network published")
    return parser


def _run(options: argparse.Namespace) -> Path:
    data = load(options.data, options.root)
    published = options.network == "published"
    network, arguments = _network(options, len(data.attributes))
    teacher = None
    if options.bundle is not None:
        kept = options.out / "maps.npy"
        maps = saliency_maps(data, options.bundle, kept, options.masks, seed=options.seed, threads=options.threads)
        ours = options.loss == LOSSES[0]
        usual = CROSS_ENTROPY_HEATMAP_WEIGHT if ours else HEATMAP_WEIGHT
        weight = usual if options.heatmap_weight is None else options.heatmap_weight
        if not 0 <= weight < math.inf:
            raise OptionError(f"--heatmap-weight must be a number from 0, got {weight}")
        teacher = Teacher(maps, weight, standardised=ours)
    elif options.heatmap_weight is not None:
        raise OptionError("--heatmap-weight goes with --bundle, whose maps that loss compares")
    schedule: Schedule | PublishedSchedule = PublishedSchedule() if published else SCHEDULE
    if options.epochs is not None:
        schedule = dataclasses.replace(schedule, epochs=options.epochs)
    batch = PUBLISHED_BATCH if published else BATCH
    train_attributes(network, data, options.seed, options.out, schedule, options.loss, teacher, batch)
    architecture = "attributes-published" if published else "attributes"
    preprocessing = Preprocessing(data.size, data.size, mean=MEAN, std=STD)
    trained = Trained(network, preprocessing, table=table_of(data, options.loss))
    save_trained(options.out / FILE, architecture, arguments, trained)
    return options.out / FILE


def _network(options: argparse.Namespace, attributes: int) -> tuple[nn.Module, dict[str, int]]:
    torch.manual_seed(options.seed)
    if options.network == "published":
        published = PublishedAttributeNet(attributes)
        if options.start is not None:
            start_published(published, options.start)
        return published, {"attributes": attributes}
    if options.start is None:
        return AttributeNet(attributes), {"attributes": attributes, "width": 64}
    trained = load_trained(options.start)
    if trained.table is not None:
        raise OptionError(f"{options.start} is of attributes; start from what `python -m training.similarity` wrote")
    similarity = trained.network
    width = similarity.get_submodule("conv1").out_channels
    return started_from(similarity, attributes, width, options.seed), {"attributes": attributes, "width": width}


if __name__ == "__main__":
    raise SystemExit(main())
