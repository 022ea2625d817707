"""Options and fixtures of the benchmark suites: `pytest benchmarks --benchmark-only [--smoke] [--record]`."""

import dataclasses
import os
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from benchmarks import networks, pictures
from benchmarks.networks import Network
from benchmarks.record import Rows
from engine import Explainer, Rise


@dataclasses.dataclass(frozen=True)
class Size:
    """How much a run measures.

    timed: masks that the published procedure is timed with, by network; its cost is linear in them, and is scaled to MASKS
    truth, truth_other: masks of the maps that fidelity is measured against, on the query and, for "both", on the reference
    passes: at which fidelity is measured; queries: their number, by network; each has 5 references
    peer_passes: at which peers are timed; equal_passes: at which faithfulness is compared, on `pasted` pasted objects
    memory: a few masks, and many
    """

    smoke: bool
    rounds: int
    timed: dict[str, int]
    truth: int
    truth_other: int
    queries: dict[str, int]
    passes: tuple[int, ...]
    peer_passes: int
    equal_passes: int
    pasted: int
    memory: tuple[int, int]


FULL = Size(
    smoke=False,
    rounds=5,
    timed={"resnet18": 2000, "vit": 2000, "mobilenet": 1000, "resnet50": 200},
    truth=8000,
    truth_other=1000,
    queries={"resnet18": 10, "vit": 10, "mobilenet": 10, "resnet50": 2},
    passes=(128, 256, 512, 1024, 2048),
    peer_passes=256,
    equal_passes=512,
    pasted=20,
    memory=(500, 8000),
)
SMOKE_SIDE = 64
SMOKE = Size(
    smoke=True,
    rounds=3,
    timed={"resnet18": 128},
    truth=256,
    truth_other=64,
    queries={"resnet18": 2},
    passes=(128, 256),
    peer_passes=64,
    equal_passes=128,
    pasted=2,
    memory=(64, 192),
)


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("benchmarks")
    group.addoption("--smoke", action="store_true", help="tiny sizes, untrained networks, fp32: CI checks its ratios")
    group.addoption("--record", action="store_true", help="write to benchmarks/results, not to .cache/benchmarks/results")


def pytest_configure() -> None:
    torch.set_num_threads(len(os.sched_getaffinity(0)))  # as many as the engine has


@pytest.fixture(scope="session")
def size(request: pytest.FixtureRequest) -> Size:
    return SMOKE if request.config.getoption("smoke") else FULL


@pytest.fixture(scope="session")
def rows(request: pytest.FixtureRequest, size: Size) -> Rows:
    return Rows(size.smoke, request.config.getoption("record"))


@dataclasses.dataclass(frozen=True, eq=False)
class Subject:
    """A network and its open explainers. explainer: the default; plain: fp32

    openvino: at the precision that "auto" takes; None in a smoke run
    """

    network: Network
    kind: str
    explainer: Explainer
    plain: Explainer
    openvino: Explainer | None

    def queries(self, count: int) -> list[pictures.Query]:
        """Return queries with their references."""
        return pictures.queries(self.kind, self.plain, count)

    def pixels(self, picture: Image.Image) -> np.ndarray:
        """Return a picture as the network sees it, (S, S, 3) uint8."""
        return self.network.preprocessing.fitted(picture)[0]

    def row(self, method: Rise, explainer: Explainer | None = None) -> dict[str, Any]:
        """Return the fields of a result row that say how it was made."""
        precision = (explainer or self.explainer).precision
        return {
            "provider": (explainer or self.explainer).provider,
            "precision": precision,
            "masks": method.masks,
            "seed": method.seed,
            "size": self.network.size,
        }

    def rows(self, picture: Image.Image) -> torch.Tensor:
        """Return a picture as the network takes it, (3, S, S) float32."""
        return torch.from_numpy(self.network.preprocessing.normalised(self.pixels(picture)))


@pytest.fixture(scope="session")
def subject(size: Size) -> "Subjects":
    return Subjects(size.smoke)


class Subjects:
    """Opens networks by name, each once; skips the test if a smoke run leaves the network out."""

    def __init__(self, smoke: bool) -> None:
        self._smoke = smoke
        self._open: dict[str, Subject] = {}

    def __call__(self, name: str) -> Subject:
        if self._smoke and name not in SMOKE.queries:
            pytest.skip(f"{name} is left out of the smoke size")
        if name not in self._open:
            network = networks.untrained(name, SMOKE_SIDE) if self._smoke else networks.made(name)
            kind = "emoji" if name in networks.EMOJI else "photos"
            self._open[name] = Subject(
                network,
                "demo" if self._smoke else kind,
                # a smoke run's ratios are compared with committed ones, so that it must not choose for itself
                Explainer(network.bundle, "cpu" if self._smoke else "auto"),
                Explainer(network.bundle, "cpu" if self._smoke else "auto", precision="fp32"),
                None if self._smoke else Explainer(network.bundle, "openvino"),
            )
        return self._open[name]
