"""A small network as bundles, varied pictures, and indexes that somebody's own code makes of them."""

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import onnxruntime as ort
import pytest
from export_models import constant, write_onnx
from helpers import PICTURES
from onnx import helper
from PIL import Image

from engine.bundle import load_bundle
from engine.pictures.preprocessing import Preprocessing
from export import OnnxSource, export_similarity
from export.compare import Comparison, compare_index

SIDE = 64
IMAGENET_NORM = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
CLIP_NORM = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
OWN = Preprocessing(SIDE, SIDE, mean=IMAGENET_NORM[0], std=IMAGENET_NORM[1])
FILTERS = Image.Resampling
Pipeline = Callable[[Image.Image], np.ndarray]
"""An upright RGB picture -> (3, SIDE, SIDE) float32, as somebody's own code makes it."""


def write_network(path: Path) -> Path:
    """Write a small random network, (n, 3, 64, 64) -> (n, 24): layers with biases, so that no change of scale is lost."""
    random = np.random.default_rng(3)
    sizes = [("a", 3, 8, 5), ("b", 8, 12, 3), ("c", 12, 12, 3)]
    weights, nodes, last = [], [], "picture"
    for name, inputs, outputs, side in sizes:
        values = random.normal(size=(outputs, inputs, side, side)) / np.sqrt(inputs * side * side)
        weights += [constant(f"{name}_w", values), constant(f"{name}_b", random.normal(size=outputs) / 2)]
        nodes.append(
            helper.make_node(
                "Conv", [last, f"{name}_w", f"{name}_b"], [name], strides=[2, 2], pads=[side // 2] * 4, name=name
            )
        )
        nodes.append(helper.make_node("LeakyRelu", [name], [f"{name}_r"], alpha=0.2))
        last = f"{name}_r"
    nodes.append(helper.make_node("AveragePool", [last], ["pooled"], kernel_shape=[4, 4], strides=[4, 4]))
    nodes.append(helper.make_node("Flatten", ["pooled"], ["flat"]))
    weights.append(constant("w", random.normal(size=(48, 24)) / 7))
    nodes.append(helper.make_node("MatMul", ["flat", "w"], ["features"]))
    return write_onnx(path, nodes, {"features": ("n", 24)}, weights, input_shape=("n", 3, SIDE, SIDE))


def draw_pictures(folder: Path) -> None:
    """Write 20 varied pictures of odd sizes: the demo's, photos of scikit-image if it is installed, and textures."""
    folder.mkdir()
    found = [Image.open(path).convert("RGBA") for path in sorted(PICTURES.glob("*.png"))[:4]]
    found = [Image.alpha_composite(Image.new("RGBA", p.size, "white"), p).convert("RGB") for p in found]
    try:
        from skimage import data  # noqa: PLC0415 - an optional package

        photos = (data.astronaut(), data.chelsea(), data.coffee(), data.rocket(), data.immunohistochemistry())
        found += [Image.fromarray(photo) for photo in photos]
    except ImportError:
        pass
    random = np.random.default_rng(0)
    while len(found) < 20:
        coarse = random.integers(0, 256, (random.integers(3, 40), random.integers(3, 40), 3), np.uint8)
        grain = random.normal(0, random.choice([3, 25]), (199, 301, 3))
        smooth = Image.fromarray(coarse).resize((301, 199), FILTERS.BICUBIC)
        found.append(Image.fromarray(np.clip(np.asarray(smooth) + grain, 0, 255).astype(np.uint8)))
    for i, picture in enumerate(found):
        size = int(random.integers(80, 200)), int(random.integers(80, 200))
        picture.resize(size, FILTERS.LANCZOS).save(folder / f"{'ab'[i % 2]} {i:02}.png")


def prepare(
    interpolation: str = "bilinear",
    fit: str = "cover",
    crop: Sequence[int] = (),
    down: bool = False,
    colour: str = "black",
    corner: bool = False,
    bgr: bool = False,
    norm: tuple[Sequence[float], Sequence[float]] = IMAGENET_NORM,
    divide: Sequence[float] = (255.0,),
) -> Pipeline:
    """Return a pipeline as people write it with Pillow and numpy, or PyTorch for "tensor ..." interpolations."""

    def resized(picture: Image.Image, size: tuple[int, int]) -> Image.Image:
        if not interpolation.startswith("tensor"):
            return picture.resize(size, FILTERS[interpolation.upper()])
        torch = pytest.importorskip("torch")
        mode = interpolation.split()[1]
        x = torch.from_numpy(np.asarray(picture).astype(np.float32)).permute(2, 0, 1)[None]
        corners = {} if mode == "nearest" else {"align_corners": False}
        y = torch.nn.functional.interpolate(x, (size[1], size[0]), mode=mode, **corners)[0].permute(1, 2, 0)
        return Image.fromarray(y.round().clamp(0, 255).byte().numpy())

    def shown(picture: Image.Image) -> Image.Image:
        width, height = picture.size
        if fit == "stretch":
            return resized(picture, (SIDE, SIDE))
        if fit == "pad":
            ratio = SIDE / max(width, height)
            inner = resized(picture, (round(width * ratio), round(height * ratio)))
            whole = Image.new("RGB", (SIDE, SIDE), colour)
            whole.paste(inner, (0, 0) if corner else ((SIDE - inner.width) // 2, (SIDE - inner.height) // 2))
            return whole
        short = crop[0] if len(crop) == 1 else SIDE
        if len(crop) == 2:
            size = crop[1], crop[0]
        else:
            size = (short, int(short * height / width)) if width <= height else (int(short * width / height), short)
        bigger = resized(picture, (size[0], size[1]))
        left, top = ((side - SIDE) // 2 if down else round((side - SIDE) / 2) for side in bigger.size)
        return bigger.crop((left, top, left + SIDE, top + SIDE))

    def pipeline(picture: Image.Image) -> np.ndarray:
        x = np.asarray(shown(picture)).astype(np.float64)[..., :: -1 if bgr else 1] / np.prod(divide)
        return ((x - norm[0]) / norm[1]).astype(np.float32).transpose(2, 0, 1)

    return pipeline


@dataclasses.dataclass(frozen=True)
class Bench:
    """The network as bundles by metric, its pictures, and a way to make somebody's index of them."""

    bundles: dict[str, Path]
    network: Path
    images: Path
    folder: Path

    def embeddings(self, pipeline: Pipeline, load: Callable[[Path], Image.Image] | None = None) -> np.ndarray:
        session = ort.InferenceSession(self.network, providers=["CPUExecutionProvider"])
        files = sorted(self.images.iterdir())
        x = np.stack([pipeline(load(file) if load else Image.open(file).convert("RGB")) for file in files])
        return np.asarray(session.run(None, {"picture": x})[0])

    def save(self, embeddings: np.ndarray, name: str = "index.npz", **more: object) -> Path:
        files = np.array([file.name for file in sorted(self.images.iterdir())])
        np.savez(self.folder / name, **{"embeddings": embeddings, "files": files, **more})  # type: ignore[arg-type]
        return self.folder / name

    def compare(self, embeddings: np.ndarray, metric: str = "cosine", **more: object) -> Comparison:
        return compare_index(load_bundle(self.bundles[metric]), self.save(embeddings, **more), self.images)


def make_bench(folder: Path) -> Bench:
    """Make the bundles, the network and the pictures in a folder."""
    network = write_network(folder / "network.onnx")
    draw_pictures(folder / "my pictures")
    bundles = {
        metric: export_similarity(OnnxSource(network), OWN, folder / metric, metric=metric) for metric in ("cosine", "dot")
    }
    return Bench(bundles, network, folder / "my pictures", folder)
