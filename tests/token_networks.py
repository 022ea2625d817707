"""Small vision transformers of every family, for tests of what leaves their tokens out."""

import importlib.util
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from gradient_graphs import Vit
from torch import nn

from engine.pictures.preprocessing import Preprocessing
from export import TorchSource, export_similarity, graphs
from export.hf_embedder import HfEmbedder
from export.light_graph import LightGraph
from export.runtime import silence
from export.torchvision_absence import hidden, works

SIDE = 32
VISION = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32, "image_size": SIDE}
PATCHES = {**VISION, "patch_size": 8}
TEXT = {**VISION, "vocab_size": 50, "bos_token_id": None, "eos_token_id": None}


def of_transformers(kind: str, pool: str | None = None, **settings: Any) -> nn.Module:
    """A model of transformers with random weights, also where they would begin as 0."""
    with hidden(not works()):
        transformers = pytest.importorskip("transformers")
        transformers.utils.is_torchvision_available()
    torch.manual_seed(0)
    with silence():
        config = getattr(transformers, f"{kind}Config")(**settings, attn_implementation="eager")
        model = getattr(transformers, f"{kind}Model")(config).eval()
        filled(model)
        return HfEmbedder(model, pool, False)


def of_timm(name: str, **settings: Any) -> nn.Module:
    if importlib.util.find_spec("timm") is None:
        pytest.skip("timm is not installed")
    from export.timm_source import RANDOM, load_timm  # noqa: PLC0415

    load_timm("test_vit", Path(RANDOM))  # imports timm as the package does
    import timm  # noqa: PLC0415

    torch.manual_seed(0)
    return filled(timm.create_model(name, pretrained=False, num_classes=0, **settings).eval())


def filled(model: nn.Module) -> nn.Module:
    """Make what begins as 0 or 1, such as the scales of blocks and relative positions, random."""
    with torch.no_grad():
        for weights in model.parameters():
            if weights.unique().numel() == 1:
                weights.normal_(std=0.5)
    return model


def both(kind: str, **vision: Any) -> nn.Module:
    return of_transformers(kind, text_config=TEXT, vision_config={**PATCHES, **vision})


GETS_IN: dict[str, tuple[Callable[[], nn.Module], int]] = {
    "plain": (Vit, 1),
    "CLIP": (lambda: both("CLIP"), 1),
    "SigLIP": (lambda: both("Siglip"), 0),
    "ViT": (lambda: of_transformers("ViT", **PATCHES), 1),
    "DINOv2": (lambda: of_transformers("Dinov2", **{**PATCHES, "image_size": 56}), 1),
    "DINOv2, class token and mean": (lambda: of_transformers("Dinov2", "mean", **PATCHES), 1),
    "DINOv2 with registers": (lambda: of_transformers("Dinov2WithRegisters", num_register_tokens=3, **PATCHES), 4),
    "timm's ViT": (lambda: of_timm("test_vit", img_size=SIDE, patch_size=8), 1),
    "timm's ViT, mean": (lambda: of_timm("test_vit", img_size=SIDE, patch_size=8, global_pool="avg"), 1),
    "timm's SigLIP": (
        lambda: of_timm("vit_base_patch16_siglip_224", img_size=SIDE, patch_size=8, embed_dim=32, depth=2, num_heads=2),
        0,
    ),
    "timm's DINOv2 with registers": (
        lambda: of_timm("vit_small_patch14_reg4_dinov2", img_size=SIDE, patch_size=8, embed_dim=32, depth=2, num_heads=2),
        5,
    ),
    "DINOv3": (lambda: of_transformers("DINOv3ViT", num_register_tokens=2, **PATCHES), 3),
    "timm's EVA-02": (
        lambda: of_timm("eva02_small_patch14_224", img_size=SIDE, patch_size=8, embed_dim=32, depth=2, num_heads=2),
        1,
    ),
}
REFUSED: dict[str, tuple[Callable[[], nn.Module], str]] = {
    "BEiT": (lambda: of_transformers("Beit", use_relative_position_bias=True, **PATCHES), "relative positions .* BEiT"),
    "Swin": (
        lambda: of_transformers(
            "Swin", image_size=SIDE, patch_size=2, embed_dim=8, depths=[2, 2], num_heads=[1, 2], window_size=4
        ),
        "windows",
    ),
    "ConvNeXt": (lambda: of_transformers("ConvNextV2", hidden_sizes=[8] * 4, depths=[1] * 4), "ConvNeXt"),
    "timm's ConvNeXt": (lambda: of_timm("test_convnext"), "ConvNeXt"),
}


def made(network: nn.Module) -> onnx.ModelProto:
    return graphs.make(TorchSource(network, sure=True), Preprocessing(SIDE, SIDE), "embedding", (None,)).model


def pictures() -> np.ndarray:
    return np.random.default_rng(0).normal(size=(1, 3, SIDE, SIDE)).astype(np.float32)


def run(light: LightGraph, **feeds: np.ndarray) -> np.ndarray:
    (found,) = light.runner().run(feeds).values()
    return found


def exported_vit(folders: pytest.TempPathFactory) -> Path:
    """Export the small transformer with the same random weights each time; return its bundle."""
    torch.manual_seed(0)
    out = folders.mktemp("tokens") / "vit"
    return export_similarity(TorchSource(Vit(), sure=True), Preprocessing(SIDE, SIDE), out)
