"""One training loop: a checkpoint and a log line per epoch, resumable, seeded."""

import dataclasses
import hashlib
import json
import math
import os
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from tqdm import tqdm

from engine.errors import OptionError, OutputError

WARM_UP = 0.05
WEIGHT_DECAY = 0.05


@dataclasses.dataclass(frozen=True)
class Randomness:
    """Both generators a run draws from; their state is part of the checkpoint."""

    numpy: np.random.Generator
    torch: torch.Generator

    @classmethod
    def seeded(cls, seed: int) -> "Randomness":
        return cls(np.random.default_rng(seed), torch.Generator().manual_seed(seed))


@dataclasses.dataclass(frozen=True)
class Schedule:
    """AdamW with 5% linear warm-up, then a cosine that ends near zero."""

    epochs: int
    rate: float

    def rate_at(self, epoch: int, part: float) -> float:
        """Learning rate after `part` in [0, 1) of an epoch."""
        progress = (epoch + part) / self.epochs
        return self.rate * min(1.0, progress / WARM_UP + 0.02) * (0.5 * (1 + math.cos(math.pi * progress)) + 0.005)

    def optimiser(self, network: nn.Module) -> torch.optim.Optimizer:
        """Norms and biases are not decayed."""
        decayed = [p for p in network.parameters() if p.ndim > 1]
        plain = [p for p in network.parameters() if p.ndim <= 1]
        groups = [{"params": decayed, "weight_decay": WEIGHT_DECAY}, {"params": plain, "weight_decay": 0.0}]
        return torch.optim.AdamW(groups, lr=self.rate)


@dataclasses.dataclass(frozen=True)
class PublishedSchedule:
    """The paper's (docs/method.md, Training): Adam, the rate times 0.985 per epoch from the first."""

    epochs: int = 300
    rate: float = 5e-4
    decay: float = 0.985

    def rate_at(self, epoch: int, part: float) -> float:
        return self.rate * self.decay ** (epoch + 1)

    def optimiser(self, network: nn.Module) -> torch.optim.Optimizer:
        return torch.optim.Adam(network.parameters(), lr=self.rate)


def digest(*arrays: np.ndarray) -> str:
    """Of what a run was made from, for `about`."""
    found = hashlib.sha256()
    for array in arrays:
        found.update(np.ascontiguousarray(array).data if array.size else b"")  # no copy: an array may be a large file
    return found.hexdigest()[:16]


def train(
    network: nn.Module,
    batches: Callable[[Randomness], Iterable[Callable[[], Tensor]]],
    schedule: Schedule | PublishedSchedule,
    seed: int,
    run: Path,
    about: Mapping[str, str | float | None] | None = None,
    until: int | None = None,
) -> None:
    """Train `network` in place. `run` gets `checkpoint.pt` and `log.jsonl`; a run that was stopped goes on from there.

    batches: called once an epoch, gives that epoch's steps; each step computes its loss when called
    about: what else decides the result (data, loss): a run of other settings is not continued
    until: stop after this many epochs of the schedule, to be resumed; None: run it to its end
    Raises OptionError where `run` holds a run of other settings or another network.
    """
    try:
        run.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(f"cannot write into {run}: {error.strerror or error}") from error
    optimiser = schedule.optimiser(network)
    randomness = Randomness.seeded(seed)
    start = digest(*(v.detach().numpy() for v in network.state_dict().values()))
    settings = {"seed": seed, **dataclasses.asdict(schedule), "start": start, **(about or {})}
    done = _resume(run / "checkpoint.pt", settings, network, optimiser, randomness)
    for epoch in tqdm(
        range(done, schedule.epochs if until is None else until),
        initial=done,
        total=schedule.epochs,
        desc=run.name,
        disable=None,
    ):
        network.train()
        started, losses = time.perf_counter(), []
        steps = list(batches(randomness))
        for i, step in enumerate(steps):
            rate = schedule.rate_at(epoch, i / len(steps))
            for group in optimiser.param_groups:
                group["lr"] = rate
            loss = step()
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            losses.append(loss.item())
            if not math.isfinite(losses[-1]):
                raise OptionError(
                    f"the loss is {losses[-1]} in epoch {epoch + 1}: lower the rate or the weights of the losses"
                )
        _save(run / "checkpoint.pt", epoch + 1, settings, network, optimiser, randomness)
        line = {"epoch": epoch + 1, "loss": float(np.mean(losses)), "rate": rate, "seed": seed}
        line["seconds"] = round(time.perf_counter() - started, 2)
        with open(run / "log.jsonl", "a") as log:
            log.write(json.dumps(line) + "\n")
    network.eval()


def logged_seconds(run: Path) -> float:
    """Seconds of training by the logs in `run` and below, of runs that may have been stopped and resumed."""
    lines = [line for log in run.rglob("log.jsonl") for line in log.read_text().splitlines()]
    return sum(float(json.loads(line)["seconds"]) for line in lines)


def _save(
    path: Path,
    epoch: int,
    settings: dict[str, Any],
    network: nn.Module,
    optimiser: torch.optim.Optimizer,
    randomness: Randomness,
) -> None:
    state = {
        "epoch": epoch,
        "settings": settings,
        "network": network.state_dict(),
        "optimiser": optimiser.state_dict(),
        "torch": randomness.torch.get_state(),
        "numpy": json.dumps(randomness.numpy.bit_generator.state),
    }
    beside = path.with_suffix(".partial")
    torch.save(state, beside)
    os.replace(beside, path)


def _resume(
    path: Path,
    settings: dict[str, Any],
    network: nn.Module,
    optimiser: torch.optim.Optimizer,
    randomness: Randomness,
) -> int:
    """Epochs done already."""
    if not path.exists():
        return 0
    try:
        state = torch.load(path, weights_only=True)
        found = state["settings"]
    except Exception as error:  # a broken file raises almost anything
        raise OptionError(f"{path} is not a checkpoint of a run; choose another folder or delete it") from error
    differing = sorted(k for k in found.keys() | settings.keys() if found.get(k) != settings.get(k))
    if differing:
        told = ", ".join(f"{k} {found.get(k)} there, {settings.get(k)} now" for k in differing)
        raise OptionError(f"{path} is of another run ({told}); choose another folder or delete it")
    network.load_state_dict(state["network"])
    optimiser.load_state_dict(state["optimiser"])
    randomness.torch.set_state(state["torch"])
    randomness.numpy.bit_generator.state = json.loads(state["numpy"])
    return int(state["epoch"])
