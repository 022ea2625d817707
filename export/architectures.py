"""The networks of the SANE paper, with torchvision's parameter names, so that the authors' checkpoints load.

They are written here because torchvision does not install beside every build of torch.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class BasicBlock(nn.Module):
    """Two 3 x 3 convolutions with a shortcut (He et al. 2016, figure 2)."""

    def __init__(self, inputs: int, outputs: int, stride: int = 1) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.downsample: nn.Module = nn.Identity()
        if stride != 1 or inputs != outputs:
            self.downsample = nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs))

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(self.bn1(self.conv1(x)))
        y = self.bn2(self.conv2(y))
        return F.relu(y + self.downsample(x))


class Trunk(nn.Module):
    """The first three stages of ResNet-18: (N, 3, H, W) -> (N, 4 * width, H / 16, W / 16). The paper's width is 64."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, width, 7, 2, 3, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.maxpool = nn.MaxPool2d(3, 2, 1)
        self.layer1 = nn.Sequential(BasicBlock(width, width), BasicBlock(width, width))
        self.layer2 = nn.Sequential(BasicBlock(width, 2 * width, 2), BasicBlock(2 * width, 2 * width))
        self.layer3 = nn.Sequential(BasicBlock(2 * width, 4 * width, 2), BasicBlock(4 * width, 4 * width))

    def features(self, x: Tensor) -> Tensor:
        x = self.maxpool(F.relu(self.bn1(self.conv1(x))))
        features: Tensor = self.layer3(self.layer2(self.layer1(x)))
        return features


class SimilarityNet(Trunk):
    """The paper's similarity network: the trunk, a mean over space, one linear layer. (N, 3, H, W) -> (N, embedding).

    At the paper's 112 x 112 the mean over space equals its AvgPool2d(7).
    normalise: divide the embedding by its Euclidean norm, as the authors' network for Animals with Attributes does
    """

    def __init__(self, width: int = 64, embedding: int = 64, normalise: bool = False) -> None:
        super().__init__(width)
        self.fc_embed = nn.Linear(4 * width, embedding)
        self.normalise = normalise

    def forward(self, x: Tensor) -> Tensor:
        embedding: Tensor = self.fc_embed(self.features(x).mean((2, 3)))
        return F.normalize(embedding) if self.normalise else embedding


class AttributeNet(Trunk):
    """The trunk with SANE's attribute head: (N, 3, H, W) -> (N, A, H / 16, W / 16), an activation map per attribute.

    An attribute's score is the mean of its map.
    """

    def __init__(self, attributes: int, width: int = 64) -> None:
        super().__init__(width)
        self.head = nn.Conv2d(4 * width, attributes, 3, 1, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        maps: Tensor = self.head(self.features(x))
        return maps


class Bottleneck(nn.Module):
    """1 x 1, 3 x 3 and 1 x 1 convolutions with a shortcut (He et al. 2016, figure 5): `inputs` to 4 * width channels."""

    def __init__(self, inputs: int, width: int, stride: int) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(inputs, width, 1, bias=False), nn.BatchNorm2d(width)
        self.conv2, self.bn2 = nn.Conv2d(width, width, 3, stride, 1, bias=False), nn.BatchNorm2d(width)
        self.conv3, self.bn3 = nn.Conv2d(width, 4 * width, 1, bias=False), nn.BatchNorm2d(4 * width)
        self.downsample: nn.Module = nn.Identity()
        if stride != 1 or inputs != 4 * width:
            convolution = nn.Conv2d(inputs, 4 * width, 1, stride, bias=False)
            self.downsample = nn.Sequential(convolution, nn.BatchNorm2d(4 * width))

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(self.bn1(self.conv1(x)))
        y = F.relu(self.bn2(self.conv2(y)))
        return F.relu(self.bn3(self.conv3(y)) + self.downsample(x))


def _stage(inputs: int, width: int, blocks: int, stride: int) -> nn.Sequential:
    return nn.Sequential(Bottleneck(inputs, width, stride), *(Bottleneck(4 * width, width, 1) for _ in range(blocks - 1)))


class PublishedAttributeNet(nn.Module):
    """The paper's attribute network: ResNet-50 without pool and classifier, then one 3 x 3 convolution without bias.

    (N, 3, H, W) -> (N, A, H / 32, W / 32). The weights of a torchvision ResNet-50 fit everything except `head`.
    """

    def __init__(self, attributes: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 64, 7, 2, 3, bias=False)
        self.bn1 = nn.BatchNorm2d(64)
        self.maxpool = nn.MaxPool2d(3, 2, 1)
        self.layer1 = _stage(64, 64, 3, 1)
        self.layer2 = _stage(256, 128, 4, 2)
        self.layer3 = _stage(512, 256, 6, 2)
        self.layer4 = _stage(1024, 512, 3, 2)
        self.head = nn.Conv2d(2048, attributes, 3, 1, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        x = self.maxpool(F.relu(self.bn1(self.conv1(x))))
        maps: Tensor = self.head(self.layer4(self.layer3(self.layer2(self.layer1(x)))))
        return maps


def scores(maps: Tensor) -> Tensor:
    """Return the attribute scores (N, A) of activation maps (N, A, h, w)."""
    return torch.mean(maps, (2, 3))
