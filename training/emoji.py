"""Train the demo networks on the emoji pair and export them as the bundle that `engine` carries.

    python -m training.emoji                                # fetch, train (resumes), evaluate, export to runs/emoji/bundle
    python -m training.emoji --bundle engine/data/bundle    # the same, as the bundle that the package carries

Similarity: ResNet-18 to its third stage at width 32, NT-Xent between the two vendors' drawings of one emoji.
Attributes: the same trunk, started from the similarity network, with SANE's head, binary cross-entropy.
"""

import argparse
import json
import tempfile
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional as F

from engine.attributes import AttributeTable
from engine.images import load
from engine.preprocessing import Preprocessing
from export import TorchSource, export_attributes, export_quantized, export_similarity
from export.architectures import AttributeNet, SimilarityNet, scores
from training import emoji_data
from training import emoji_report as report
from training.augment import MEAN, STD, augmented, plain
from training.emoji_data import EmojiPair
from training.loop import Randomness, Schedule, train

WIDTH = 32
EMBEDDING = 64
BATCH = 128
TEMPERATURE = 0.1
SIMILARITY = Schedule(epochs=112, rate=2e-3)
ATTRIBUTES = Schedule(epochs=20, rate=1e-3)
LARGEST_WEIGHT = 20.0
SKIN_TONE_SHARE = 0.5
THRESHOLD = 0.6
CALIBRATION = 48
"""Drawings of training emoji that the int8 graph is calibrated and reported on."""
NOT_SHOWN = {
    *("Flags", "country-flag"),  # the same pictures as "flag"
    *("sport", "game", "food", "food-prepared", "Activities", "tool", "office"),  # not learned well enough to be said
}


def train_similarity(data: EmojiPair, seed: int, run: Path, schedule: Schedule = SIMILARITY) -> SimilarityNet:
    torch.manual_seed(seed)
    network = SimilarityNet(WIDTH, EMBEDDING).to(memory_format=torch.channels_last)
    train_contrastive(network, data, seed, run, schedule)
    return network


def train_contrastive(
    network: nn.Module, data: EmojiPair, seed: int, run: Path, schedule: Schedule, size: int = emoji_data.SIZE
) -> None:
    """Train `network`, (N, 3, size, size) -> (N, D), in place: both drawings of an emoji come close, all others apart."""

    def batches(randomness: Randomness) -> Iterable[Callable[[], Tensor]]:
        order = randomness.numpy.permutation(data.train)
        for start in range(0, len(order) - BATCH // 2, BATCH):
            chosen = order[start : start + BATCH]

            def step(chosen: np.ndarray = chosen) -> Tensor:
                picked = _drawings(data, chosen, randomness)
                views = [augmented(data.pictures[v][picked], randomness.torch, size) for v in emoji_data.VENDORS]
                with bfloat16():
                    embeddings = network(torch.cat(views))
                return contrastive_loss(embeddings.float(), torch.from_numpy(data.same[chosen]))

            yield step

    train(network, batches, schedule, seed, run)


def contrastive_loss(embeddings: Tensor, groups: Tensor) -> Tensor:
    """NT-Xent (Chen et al. 2020, equation 1) over two views of B emoji.

    embeddings (2B, D): the first view of each, then the second; groups (B,): emoji of one group share a drawing and are
    not each other's negatives.
    """
    count = len(groups)
    z = F.normalize(embeddings)
    logits = z @ z.T / TEMPERATURE  # (2B, 2B)
    positive = torch.arange(2 * count).roll(count)
    both = torch.cat([groups, groups])
    left_out = both[:, None] == both[None]  # the diagonal included
    left_out[torch.arange(2 * count), positive] = False
    return F.cross_entropy(logits.masked_fill(left_out, -1e9), positive)


def train_attributes(
    data: EmojiPair, similarity: SimilarityNet, seed: int, run: Path, schedule: Schedule = ATTRIBUTES
) -> AttributeNet:
    torch.manual_seed(seed)
    network = AttributeNet(len(data.attributes), WIDTH).to(memory_format=torch.channels_last)
    trunk = {k: v for k, v in similarity.state_dict().items() if not k.startswith("fc_embed")}
    network.load_state_dict(trunk, strict=False)
    truth = torch.from_numpy(data.truth).float()
    weights = torch.from_numpy(positive_weights(data)).float()

    def batches(randomness: Randomness) -> Iterable[Callable[[], Tensor]]:
        order = randomness.numpy.permutation(2 * len(data.train))
        for start in range(0, len(order) - BATCH + 1, BATCH):
            drawn = order[start : start + BATCH]

            def step(drawn: np.ndarray = drawn) -> Tensor:
                chosen = [data.train[drawn[drawn % 2 == i] // 2] for i in range(2)]
                views = [
                    augmented(data.pictures[v][_drawings(data, c, randomness)], randomness.torch)
                    for v, c in zip(emoji_data.VENDORS, chosen, strict=True)
                ]
                with bfloat16():
                    maps = network(torch.cat(views))
                logits = scores(maps.float())
                return F.binary_cross_entropy_with_logits(logits, truth[np.concatenate(chosen)], pos_weight=weights)

            yield step

    train(network, batches, schedule, seed, run)
    return network


def bfloat16() -> torch.autocast:
    """Forward passes in bfloat16: 1.8 times faster here on a CPU that has it, no loss in retrieval."""
    return torch.autocast("cpu", torch.bfloat16)


def positive_weights(data: EmojiPair) -> np.ndarray:
    """(A,) weight of a positive in the loss: as many negatives as there are per positive, at most 20."""
    share = data.truth[data.train].mean(0)
    return np.minimum((1 - share) / share, LARGEST_WEIGHT)


def _drawings(data: EmojiPair, chosen: np.ndarray, randomness: Randomness) -> np.ndarray:
    """Picture indices of the chosen base emoji, half of those with skin tones in a random one."""
    picked = data.base[chosen].copy()
    for i, k in enumerate(chosen):
        if len(data.variants[k]) and randomness.numpy.random() < SKIN_TONE_SHARE:
            picked[i] = randomness.numpy.choice(data.variants[k])
    return picked


def run_network(network: nn.Module, pictures: np.ndarray) -> np.ndarray:
    """Network output for (P, 64, 64, 4) uint8 pictures, on white, without augmentation."""
    network.eval()
    with torch.inference_mode():
        return np.concatenate([network(plain(pictures[i : i + 256])).numpy() for i in range(0, len(pictures), 256)])


def confidences(data: EmojiPair, network: AttributeNet, pictures: np.ndarray) -> np.ndarray:
    """(P, A) probabilities of each attribute for (P, 64, 64, 4) uint8 pictures."""
    logits = run_network(network, pictures).mean((2, 3)) + calibration(data)
    return 1 / (1 + np.exp(-logits))


def calibration(data: EmojiPair) -> np.ndarray:
    """(A,) float32 to add to the scores: a positive that counted w times in the loss raised its logit by log w."""
    return -np.log(positive_weights(data)).astype(np.float32)


def write_bundle(data: EmojiPair, similarity: SimilarityNet, attributes: AttributeNet, card: str, folder: Path) -> None:
    """Export both networks, the attribute network with the words worth showing alone; int8 for CPUs beside fp32."""
    preprocessing = Preprocessing(emoji_data.SIZE, emoji_data.SIZE, mean=MEAN, std=STD)
    files = {"MODEL_CARD.md": card.encode()}
    options = {"name": "emoji demo", "licence": "MIT", "gradient": True, "extra_files": files}
    export_similarity(TorchSource(similarity), preprocessing, folder, **options)
    kept = [i for i, name in enumerate(data.attributes) if name not in NOT_SHOWN]
    shown = AttributeNet(len(kept), WIDTH)
    weights = dict(attributes.state_dict())
    weights["head.weight"] = weights["head.weight"][kept]
    shown.load_state_dict(weights)
    table = AttributeTable(
        names=tuple(data.attributes[i] for i in kept),
        confidence="sigmoid",
        bias=calibration(data)[kept],
        threshold=THRESHOLD,
    )
    export_attributes(TorchSource(shown.eval()), table, folder)
    with tempfile.TemporaryDirectory() as images:
        for i, base in enumerate(data.train[np.linspace(0, len(data.train) - 1, CALIBRATION // 2).astype(int)]):
            for vendor in emoji_data.VENDORS:
                drawing = load(Image.fromarray(data.pictures[vendor][data.base[base]]))  # on white
                drawing.save(Path(images) / f"{i}-{vendor}.png")
        export_quantized(folder, Path(images), ["cpu"])


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m training.emoji", description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("runs/emoji"), help="folder of the run (default: %(default)s)")
    parser.add_argument("--cache", type=Path, default=Path(".cache/emoji"), help="pictures (default: %(default)s)")
    parser.add_argument("--bundle", type=Path, help="where the bundle goes (default: bundle in the folder of the run)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args(arguments)
    torch.set_num_threads(options.threads)
    data = emoji_data.load(options.cache)
    similarity = train_similarity(data, options.seed, options.out / "similarity")
    attributes = train_attributes(data, similarity, options.seed, options.out / "attributes")

    pictures = {vendor: data.pictures[vendor][data.base] for vendor in emoji_data.VENDORS}
    embeddings = {vendor: run_network(similarity, p) for vendor, p in pictures.items()}
    seen = {vendor: confidences(data, attributes, p) for vendor, p in pictures.items()}
    shown = np.array([name not in NOT_SHOWN for name in data.attributes])
    results = report.measure(data, embeddings, seen, shown, THRESHOLD)
    (options.out / "results.json").write_text(json.dumps(results, indent=1) + "\n")
    card = report.model_card(results, data, seconds=log_seconds(options.out), seed=options.seed, threshold=THRESHOLD)
    write_bundle(data, similarity, attributes, card, options.bundle or options.out / "bundle")
    print(json.dumps(results, indent=1))


def log_seconds(run: Path) -> float:
    """Seconds of training, by the logs."""
    lines = [line for log in run.glob("*/log.jsonl") for line in log.read_text().splitlines()]
    return sum(float(json.loads(line)["seconds"]) for line in lines)


if __name__ == "__main__":
    main()
