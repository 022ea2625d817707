"""Networks that no library has, random weights that behave like trained ones, and torchvision's usual transform."""

from collections.abc import Callable

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

TINY = 1e-3
"""Parameters that are all smaller were made to be learned: layer scales, which would switch a random network off."""
SPREAD = 0.02
FAINT = 0.1
"""A batch norm whose weights are smaller on average passes nearly nothing on."""


def settle(module: nn.Module, run: Callable[[], object]) -> nn.Module:
    """Give random weights the ways of trained ones, in place, and return the module in evaluation mode.

    Parameters that start at zero or near it get values, and batch norms take their statistics from what `run` shows the
    module, whose convolutions then pass on what they get. Without that, deep networks give zeros, or the same for every
    picture.
    """
    norms = [m for m in module.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            if parameter.numel() > 1 and parameter.abs().max() < TINY:
                parameter.normal_(0.0 if name.endswith("bias") or not parameter.any() else 0.5, SPREAD)
        for norm in norms:
            if norm.weight.abs().mean() < FAINT:  # some libraries start batch norms near zero
                norm.weight.uniform_(0.5, 1.5)
        for part in module.modules() if norms else []:
            if isinstance(part, nn.Conv2d):
                nn.init.kaiming_normal_(part.weight)
    module.eval()
    for norm in norms:
        norm.momentum = None  # the plain mean over what it sees
        norm.train()
    if norms:
        run()
    return module.eval()


def usual(picture: Image.Image, resize: int, size: int, filter_: Image.Resampling) -> np.ndarray:
    """Do what torchvision's Resize, CenterCrop and ToTensor do: -> (size, size, 3) float32, 0..1."""
    short = min(picture.size)
    resized = picture.resize(tuple(int(resize * side / short) for side in picture.size), filter_)
    left, top = (round((side - size) / 2) for side in resized.size)
    return np.asarray(resized.crop((left, top, left + size, top + size)), np.float32) / 255


class IResNet(nn.Module):
    """The residual network that ArcFace models have: (N, 3, 112, 112) -> (N, 512)."""

    def __init__(self, blocks: tuple[int, ...] = (3, 4, 14, 3)) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 64, 3, 1, 1, bias=False), nn.BatchNorm2d(64), nn.PReLU(64))
        layers: list[nn.Module] = []
        inputs = 64
        for width, count in zip((64, 128, 256, 512), blocks, strict=True):
            for i in range(count):
                layers.append(_Block(inputs, width, 2 if i == 0 else 1))
                inputs = width
        self.layers = nn.Sequential(*layers, nn.BatchNorm2d(512))
        self.fc = nn.Linear(512 * 7 * 7, 512)
        self.features = nn.BatchNorm1d(512)

    def forward(self, x: Tensor) -> Tensor:
        return self.features(self.fc(torch.flatten(self.layers(self.stem(x)), 1)))


class _Block(nn.Module):
    def __init__(self, inputs: int, width: int, stride: int) -> None:
        super().__init__()
        self.path = nn.Sequential(
            nn.BatchNorm2d(inputs),
            nn.Conv2d(inputs, width, 3, 1, 1, bias=False),
            nn.BatchNorm2d(width),
            nn.PReLU(width),
            nn.Conv2d(width, width, 3, stride, 1, bias=False),
            nn.BatchNorm2d(width),
        )
        self.shortcut = nn.Sequential()
        if stride > 1:
            self.shortcut = nn.Sequential(nn.Conv2d(inputs, width, 1, stride, bias=False), nn.BatchNorm2d(width))

    def forward(self, x: Tensor) -> Tensor:
        return self.path(x) + self.shortcut(x)


class ChannelsLast(nn.Module):
    """A small network as Keras has them, whose pictures end in their channels: (N, H, W, 3) -> (N, 256)."""

    def __init__(self) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        inputs = 3
        for width in (32, 64, 128, 256):
            layers += [nn.Conv2d(inputs, width, 3, 2, 1, bias=False), nn.BatchNorm2d(width), nn.ReLU6()]
            inputs = width
        self.layers = nn.Sequential(*layers)

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x.permute(0, 3, 1, 2)).mean((2, 3))
