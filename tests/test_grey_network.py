"""A network of one channel, from its export to its explanation."""

from pathlib import Path

import numpy as np
import pytest
import torch
from helpers import CAT
from torch import nn

from engine import Explainer, LearnedMask, Rise
from engine.pictures.preprocessing import Preprocessing
from export import TorchSource, export_similarity

GREY = Preprocessing(24, 24, mean=(0.5,), std=(0.3,), resize=(26,), interpolation="bicubic", channels=1)


@pytest.mark.parametrize("layout", ["nchw", "nhwc"])
def test_values_lie_as_an_array_of_that_shape_does(layout: str) -> None:
    p = Preprocessing(5, 4, mean=(0.0,), std=(1.0,), channels=1, layout=layout)
    x = p.normalised(np.zeros((2, 5, 4, 3), np.uint8))
    assert x.strides == np.zeros(x.shape, np.float32).strides  # else PyTorch exports Gather nodes that have no gradient


def test_a_network_of_one_channel_is_exported_and_explained(tmp_path: Path) -> None:
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(1, 6, 3, 2), nn.ReLU(), nn.Conv2d(6, 5, 3, 2), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    folder = export_similarity(TorchSource(network), GREY, tmp_path / "grey", gradient=True)
    explainer = Explainer(folder, provider="cpu")
    assert explainer.model.preprocessing == GREY
    for method in (Rise(masks=40), LearnedMask(iterations=3)):
        found = explainer.explain(CAT[0], CAT[1], method=method)
        assert found.saliency.shape == (24, 24)
        assert (found.query_image == found.query_image[..., :1]).all()
    x = torch.from_numpy(GREY.normalised(found.query_image[None]))
    np.testing.assert_allclose(explainer.embed([CAT[0]])[0], network.eval()(x)[0].detach().numpy(), atol=1e-5)
