"""Train a similarity network: the two pictures of a pair get similar embeddings, all others different ones.

    python -m training.similarity --data emoji --root .cache/emoji --out runs/similarity
    python -m export similarity --trained runs/similarity/similarity.pt --gradient --out models/emoji

The network is the paper's: the first three stages of ResNet-18, a mean over space, and one linear layer. If a run is
stopped, the same command continues it.
"""

import argparse
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from engine.bundle.manifest import Conditions
from engine.errors import OptionError
from engine.pictures.preprocessing import Preprocessing
from engine.pictures.reading import add_reading_options, reading_of
from engine.protocol import require_seed, require_whole
from engine.terminal import CommandParser, run_command, say
from export.architectures import SimilarityNet
from export.trained import Trained, save_trained
from training.augment import MEAN, STD, bfloat16
from training.datasets import NAMES, load
from training.datasets.protocol import DataSet
from training.loop import STOPPED, Randomness, Schedule, digest, train
from training.losses import contrastive_loss

FILE = "similarity.pt"
EMBEDDING = 64
BATCH = 128
SCHEDULE = Schedule(epochs=112, rate=2e-3)
MOST_EPOCHS = 10**6


class TypeAware(nn.Module):
    """One embedding for all types of pairs, and a weight vector per type (docs/method.md, Similarity).

    network: (N, 3, H, W) -> (N, D); masks: (C, D), the weights before relu
    """

    def __init__(self, network: nn.Module, conditions: int, embedding: int) -> None:
        super().__init__()
        self.network = network
        self.masks = nn.Parameter(0.9 + 0.2 * torch.rand(conditions, embedding)) if conditions else None

    def weights(self, conditions: Tensor) -> Tensor | None:
        """Return the weights (B, D) of conditions (B,) int64, or None if there are no conditions."""
        return None if self.masks is None else self.masks[conditions].relu()


def trained_similarity(
    data: DataSet, seed: int, run: Path, width: int, schedule: Schedule = SCHEDULE
) -> tuple[SimilarityNet, Conditions | None]:
    """Train a new network; return it and, if the data set has types of pairs, their weights."""
    torch.manual_seed(seed)
    network = SimilarityNet(width, EMBEDDING).to(memory_format=torch.channels_last)
    aware = train_contrastive(network, data, seed, run, schedule)
    if aware.masks is None:
        return network, None
    return network, Conditions(data.conditions, aware.masks.detach().numpy())


def train_contrastive(network: nn.Module, data: DataSet, seed: int, run: Path, schedule: Schedule) -> TypeAware:
    """Train `network`, (N, 3, size, size) -> (N, D), in place. Raises OptionError if no training pictures match."""
    pairs = data.pairs("train")
    if not len(pairs):
        raise OptionError("no two training pictures match each other, so there is nothing to learn from; use other data")
    aware = TypeAware(network, len(data.conditions), EMBEDDING)

    def batches(randomness: Randomness) -> Iterable[Callable[[], Tensor]]:
        order = randomness.numpy.permutation(len(pairs))
        for start in range(0, max(len(order) - BATCH // 2, 1), BATCH):
            chosen = pairs[order[start : start + BATCH]]

            def step(chosen=chosen) -> Tensor:  # type: ignore[no-untyped-def]
                views = data.views(chosen, randomness)
                with bfloat16():
                    embeddings = network(views)
                weights = aware.weights(torch.from_numpy(chosen.conditions))
                pictures = torch.from_numpy(np.concatenate([chosen.left, chosen.right]))
                return contrastive_loss(embeddings.float(), torch.from_numpy(chosen.groups), pictures, weights)

            yield step

    # without types of pairs, the checkpoint is that of the network alone
    about = {"data": digest(pairs.left, pairs.right, pairs.groups, pairs.conditions), "size": data.size, "batch": BATCH}
    if data.reading.apply_profiles:  # runs without have checkpoints that do not name it
        about["apply_profiles"] = True
    train(aware if data.conditions else network, batches, schedule, seed, run, about)
    return aware


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; return its exit status (see `engine.terminal`)."""
    return run_command(lambda: _run(_parser().parse_args(arguments)), STOPPED)


def _parser() -> argparse.ArgumentParser:
    parser = CommandParser(
        prog="python -m training.similarity", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add_data_options(parser)
    parser.add_argument(
        "--width", type=int, default=64, help="channels of the first stage (default: %(default)s; the demo network has 32)"
    )
    parser.add_argument("--epochs", type=int, default=SCHEDULE.epochs, help="epochs of training (default: %(default)s)")
    return parser


def _run(options: argparse.Namespace) -> None:
    use_run_options(options)
    require_whole("--epochs", options.epochs, 1, MOST_EPOCHS)
    require_whole("--width", options.width, 1, 1024)
    data = load(options.data, options.root, reading_of(options))
    schedule = Schedule(options.epochs, SCHEDULE.rate)
    network, conditions = trained_similarity(data, options.seed, options.out, options.width, schedule)
    preprocessing = Preprocessing(data.size, data.size, mean=MEAN, std=STD)
    trained = Trained(network, preprocessing, conditions)
    save_trained(options.out / FILE, "similarity", {"width": options.width, "embedding": EMBEDDING}, trained)
    say(f"wrote {options.out / FILE}")


def add_data_options(parser: argparse.ArgumentParser) -> None:
    """Add the options that `training.similarity` and `training.attributes` share."""
    add = parser.add_argument
    add("--data", choices=NAMES, required=True, help="the data set")
    add("--root", type=Path, required=True, metavar="DIR", help="folder of the data set; emoji are fetched there with npm")
    add("--out", type=Path, required=True, metavar="DIR", help="folder of the run: checkpoint, log.jsonl, trained network")
    add_reading_options(parser)
    add_run_options(parser)


def add_run_options(parser: argparse.ArgumentParser) -> None:
    """Add the options that all training commands share."""
    parser.add_argument("--seed", type=int, default=0, help="seed of all random choices (default: %(default)s)")
    parser.add_argument("--threads", type=int, default=2, help="threads of PyTorch (default: %(default)s)")


def use_run_options(options: argparse.Namespace) -> None:
    """Check the options that all training commands share, and set the threads. Raises OptionError."""
    require_seed(options.seed)
    require_whole("--threads", options.threads, 1, 1024)
    torch.set_num_threads(options.threads)


if __name__ == "__main__":
    raise SystemExit(main())
