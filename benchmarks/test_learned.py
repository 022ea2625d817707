"""Learned masks: the engine against the same loop in PyTorch eager mode, and eight pairs together against one."""

from typing import Any

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from benchmarks import networks
from benchmarks.conftest import Size
from benchmarks.measure import ratio, take_turns
from benchmarks.record import Rows
from engine import Explainer, LearnedMask

STEPS, SMOKE_STEPS = 500, 20
PAIRS, PAIRS_WANTED = 8, 6.0
ROUNDS = 3


@pytest.mark.parametrize("mode", ["fixed", "both"])
def test_steps(benchmark: Any, rows: Rows, size: Size, mode: str) -> None:
    """One pair. The time of fixed blurs and embeddings counts for the engine, and does not count for PyTorch."""
    network = networks.untrained("demo")
    explainer, module = Explainer(network.bundle), network.torch().requires_grad_(False)
    method = LearnedMask(iterations=SMOKE_STEPS if size.smoke else STEPS)
    pictures = np.random.default_rng(0).integers(0, 256, (2, 64, 64, 3), dtype=np.uint8)
    sides = [_side(network, p) for p in pictures]

    def ours(i: int) -> None:
        explainer.explain(*pictures, method, mode)

    def theirs(i: int) -> None:
        learned(module, sides[: 1 + (mode == "both")], module(sides[1][0])[0], method.iterations)

    times = take_turns(benchmark, {"ours": ours, "theirs": theirs}, ROUNDS)
    row = {"precision": "fp32", "masks": method.iterations, "seed": 0, "size": 64, "pairs": 1, "target": 1.0}
    rows.add("learned", f"one pair, {mode}", "demo", **row | ratio(times["theirs"], times["ours"]))


def test_pairs_side_by_side(benchmark: Any, rows: Rows, size: Size) -> None:
    """The CPU time of eight pairs together, as a multiple of that of one pair."""
    network = networks.untrained("demo")
    explainer = Explainer(network.bundle)
    method = LearnedMask(iterations=SMOKE_STEPS if size.smoke else STEPS)
    pictures = np.random.default_rng(0).integers(0, 256, (1 + PAIRS, 64, 64, 3), dtype=np.uint8)

    def one(i: int) -> None:
        explainer.explain(pictures[0], pictures[1], method)

    def eight(i: int) -> None:
        explainer.explain_many(pictures[0], list(pictures[1:]), method)

    times = take_turns(benchmark, {"one": one, "eight": eight}, ROUNDS)
    row = {"precision": "fp32", "masks": method.iterations, "seed": 0, "size": 64, "pairs": PAIRS, "most": PAIRS_WANTED}
    found = ratio(times["eight"], times["one"])
    row |= {"times_one_cpu": found["ratio_cpu"], "times_one_cpu_range": found["ratio_cpu_range"], "rounds": ROUNDS}
    rows.add("learned", f"{PAIRS} pairs", "demo", **row)


def learned(
    module: torch.nn.Module, sides: list[tuple[torch.Tensor, torch.Tensor]], target: torch.Tensor, steps: int
) -> None:
    """Run the published loop (docs/method.md, Learned mask). sides: one or two pictures with blurs, (1, 3, S, S) each"""
    mask = torch.ones(1, 1, 8, 8 * len(sides), requires_grad=True)
    optimiser = torch.optim.Adam([mask], lr=0.1)
    side = sides[0][0].shape[-1]
    for _ in range(steps):
        full = F.interpolate(mask, (side, side * len(sides)), mode="bilinear", align_corners=True).split(side, 3)
        shown = [x * m + blur * (1 - m) + 0.2 * torch.randn_like(x) for (x, blur), m in zip(sides, full, strict=True)]
        embeddings = module(torch.cat(shown))
        other = target if len(sides) == 1 else embeddings[1]
        down, across = mask.diff(dim=2).abs() ** 3, mask.diff(dim=3).abs() ** 3
        loss = 0.01 * (1 - mask).abs().mean() + 0.2 * (down.mean() + across.mean())
        loss = loss + F.cosine_similarity(embeddings[0], other, 0)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        with torch.no_grad():
            mask.clamp_(0, 1)


def _side(network: networks.Network, pixels: np.ndarray) -> tuple[torch.Tensor, torch.Tensor]:
    preprocessing = network.preprocessing
    pair = preprocessing.normalised(pixels), preprocessing.baseline("blur", pixels)
    return torch.from_numpy(pair[0])[None], torch.from_numpy(pair[1])[None]
