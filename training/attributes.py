"""Train an attribute network on the truth and, if wanted, on saliency maps of a similarity model (docs/method.md, Training).

    python -m training.attributes --data emoji --root .cache/emoji --out runs/attributes \\
        --start runs/similarity/similarity.pt --bundle models/emoji
    python -m export attributes models/emoji --trained runs/attributes/attributes.pt

With --bundle, every training picture is first explained with that model; the maps go to maps.npy in the folder of the run.
If a run is stopped, the same command continues it.
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
from engine.errors import OptionError
from engine.pictures.preprocessing import Preprocessing
from engine.pictures.reading import reading_of
from engine.protocol import require_whole
from engine.terminal import CommandParser, run_command, say
from export.architectures import AttributeNet, PublishedAttributeNet, scores
from export.torch_files import state_dict
from export.trained import Trained, load_trained, save_trained
from training.augment import MEAN, STD, bfloat16
from training.datasets import load
from training.datasets.protocol import DataSet
from training.loop import STOPPED, PublishedSchedule, Randomness, Schedule, digest, train
from training.losses import HEATMAP_WEIGHT, attribute_loss, heatmap_loss, weighted_cross_entropy
from training.saliency import Maps, saliency_maps
from training.similarity import MOST_EPOCHS, add_data_options, use_run_options

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
    """The saliency maps that the heat-map loss learns from.

    weight: of that loss; keep: how many maps of each picture are used, None for all
    standardised: whether maps get mean 0 and deviation 1 over space before the softmax. The softmax of a raw map is one
        peak; standardised maps teach more beside the cross-entropy (docs/attributes.md).
    """

    maps: Maps
    weight: float
    keep: int | None = None
    standardised: bool = False

    def settings(self) -> dict[str, str | float | None]:
        """Return what must be the same when a run is continued."""
        found = {"heatmap_weight": self.weight, "keep": self.keep, "standardised": self.standardised}
        return found | {"maps": digest(self.maps.stored)}

    def targets(self, pictures: np.ndarray, size: tuple[int, int]) -> tuple[Tensor, Tensor]:
        """Return saliency (n, K, h * w) and validity (n, K), float32, for `heatmap_loss`. size: (h, w)"""
        saliency, valid = self.maps.resized(pictures, size, self.keep)
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
    """Train `network`, (N, 3, size, size) -> (N, A, h, w), in place on the training pictures of `data`.

    run: folder of the run; loss: of LOSSES; teacher: None to learn from the truth only; batch: pictures per step
    """
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
    about |= {"heatmap_weight": 0.0} if teacher is None else teacher.settings()
    if data.reading.apply_profiles:  # as in training.similarity
        about["apply_profiles"] = True
    train(network, batches, schedule, seed, run, about)


def positive_weights(data: DataSet) -> np.ndarray:
    """Return the weights (A,) of a positive in the cross-entropy: the number of negatives per positive, from 1/20 to 20."""
    share = data.truth[data.split("train")].mean(0)
    return np.clip((1 - share) / np.maximum(share, 1e-9), 1 / LARGEST_WEIGHT, LARGEST_WEIGHT)


def table_of(data: DataSet, loss: str = "cross-entropy") -> AttributeTable:
    """Return the attributes of a network trained on `data`.

    The bias undoes the cross-entropy's weights: a positive that counts w times raises its logit by log w.
    """
    if loss == "sane":
        return AttributeTable(data.attributes, "softmax", np.zeros(len(data.attributes), np.float32))
    return AttributeTable(data.attributes, "sigmoid", -np.log(positive_weights(data)).astype(np.float32), THRESHOLD)


def started_from(similarity: nn.Module, attributes: int, width: int, seed: int) -> AttributeNet:
    """Return a new attribute network whose trunk has the similarity network's weights."""
    torch.manual_seed(seed)
    network = AttributeNet(attributes, width).to(memory_format=torch.channels_last)
    trunk = {k: v for k, v in similarity.state_dict().items() if not k.startswith("fc_embed")}
    network.load_state_dict(trunk, strict=False)  # the trunk has no weights for the head
    return network


def start_published(network: PublishedAttributeNet, weights: Path) -> None:
    """Load the weights of a torchvision ResNet-50 from its state dict; raises OptionError if the file does not hold one."""
    state = {k: v for k, v in state_dict(weights).items() if not k.startswith("fc.")}
    own = {k: v.shape for k, v in network.state_dict().items() if not k.startswith("head.")}
    if {k: v.shape for k, v in state.items()} != own:
        raise OptionError(f"{weights} is not a ResNet-50: it must hold all its tensors, under torchvision's names")
    network.load_state_dict(state, strict=False)


def map_size(network: nn.Module, size: int) -> tuple[int, int]:
    """Return (h, w), the size of the network's activation maps for pictures of `size` x `size`."""
    network.eval()
    with torch.inference_mode():
        height, width = network(torch.zeros(1, 3, size, size)).shape[2:]
    return height, width


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; return its exit status (see `engine.terminal`)."""
    return run_command(lambda: say(f"wrote {_run(_parser().parse_args(arguments))}"), STOPPED)


def _parser() -> argparse.ArgumentParser:
    parser = CommandParser(
        prog="python -m training.attributes", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add_data_options(parser)
    add = parser.add_argument
    add(
        "--network",
        choices=NETWORKS,
        default="small",
        help="small: the first three stages of ResNet-18; published: the paper's ResNet-50 (default: %(default)s)",
    )
    add(
        "--start", type=Path, metavar="FILE", help="weights to start from: similarity.pt for small, or the state dict of a "
        "torchvision ResNet-50 for published"
    )  # fmt: skip
    add(
        "--loss",
        choices=LOSSES,
        default=LOSSES[0],
        help="loss of the scores: weighted cross-entropy, or the paper's (default: %(default)s)",
    )
    add("--bundle", type=Path, metavar="DIR", help="model whose saliency maps teach too (default: no maps are used)")
    add(
        "--heatmap-weight", type=float, metavar="W", help="weight of the loss that compares maps (default: "
        f"{CROSS_ENTROPY_HEATMAP_WEIGHT:g} with cross-entropy, the published {HEATMAP_WEIGHT:g} with sane)"
    )  # fmt: skip
    add("--masks", type=int, default=256, help="masks of a saliency map, 32 to 512 (default: %(default)s)")
    add("--epochs", type=int, help="epochs of training (default: 20; 300, as published, with --network published)")
    return parser


def _run(options: argparse.Namespace) -> Path:
    use_run_options(options)
    if options.epochs is not None:
        require_whole("--epochs", options.epochs, 1, MOST_EPOCHS)
    weight = _heatmap_weight(options)
    data = load(options.data, options.root, reading_of(options))
    published = options.network == "published"
    network, arguments = _network(options, len(data.attributes))
    teacher = None
    if options.bundle is not None:
        kept = options.out / "maps.npy"
        maps = saliency_maps(data, options.bundle, kept, options.masks, seed=options.seed, threads=options.threads)
        teacher = Teacher(maps, weight, standardised=options.loss == LOSSES[0])
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


def _heatmap_weight(options: argparse.Namespace) -> float:
    if options.heatmap_weight is None:
        return CROSS_ENTROPY_HEATMAP_WEIGHT if options.loss == LOSSES[0] else HEATMAP_WEIGHT
    if options.bundle is None:
        raise OptionError("--heatmap-weight is used with --bundle only, whose maps that loss compares: leave it out")
    if not 0 <= options.heatmap_weight < math.inf:
        raise OptionError(f"--heatmap-weight must be a number of at least 0, got {options.heatmap_weight}")
    weight: float = options.heatmap_weight
    return weight


def _network(options: argparse.Namespace, attributes: int) -> tuple[nn.Module, dict[str, int]]:
    """Return the network to train, and the arguments that it was made with."""
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
        raise OptionError(
            f"{options.start} is an attribute network: start from a file that `python -m training.similarity` wrote"
        )
    similarity = trained.network
    width = similarity.get_submodule("conv1").out_channels
    return started_from(similarity, attributes, width, options.seed), {"attributes": attributes, "width": width}


if __name__ == "__main__":
    raise SystemExit(main())
