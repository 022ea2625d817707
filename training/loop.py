"""The training loop: seeded, with a checkpoint and a log line per epoch, so that a stopped run can be continued."""

import dataclasses
import hashlib
import json
import math
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from engine.errors import OptionError
from export.progress import progress_bar
from export.torch_files import save_whole
from export.write import as_output_error

WARM_UP = 0.05
WEIGHT_DECAY = 0.05
STOPPED = "stopped; run the same command again to continue"
"""What a training command says when it is stopped from the keyboard."""


@dataclasses.dataclass(frozen=True)
class Randomness:
    """The two generators that a run draws from; the checkpoint holds their states."""

    numpy: np.random.Generator
    torch: torch.Generator

    @classmethod
    def seeded(cls, seed: int) -> "Randomness":
        return cls(np.random.default_rng(seed), torch.Generator().manual_seed(seed))


@dataclasses.dataclass(frozen=True)
class Schedule:
    """AdamW with a linear warm-up over 5% of the epochs, then a cosine that ends near zero."""

    epochs: int
    rate: float

    def rate_at(self, epoch: int, part: float) -> float:
        """Return the learning rate after `part` in [0, 1) of an epoch."""
        progress = (epoch + part) / self.epochs
        return self.rate * min(1.0, progress / WARM_UP + 0.02) * (0.5 * (1 + math.cos(math.pi * progress)) + 0.005)

    def optimiser(self, network: nn.Module) -> torch.optim.Optimizer:
        """Return the optimiser of a network; norms and biases have no weight decay."""
        decayed = [p for p in network.parameters() if p.ndim > 1]
        plain = [p for p in network.parameters() if p.ndim <= 1]
        groups = [{"params": decayed, "weight_decay": WEIGHT_DECAY}, {"params": plain, "weight_decay": 0.0}]
        return torch.optim.AdamW(groups, lr=self.rate)


@dataclasses.dataclass(frozen=True)
class PublishedSchedule:
    """The paper's schedule (docs/method.md, Training): Adam, with the rate multiplied by 0.985 in every epoch."""

    epochs: int = 300
    rate: float = 5e-4
    decay: float = 0.985

    def rate_at(self, epoch: int, part: float) -> float:
        """Return the learning rate of an epoch, the same for every `part` of it."""
        return self.rate * self.decay ** (epoch + 1)

    def optimiser(self, network: nn.Module) -> torch.optim.Optimizer:
        """Return the optimiser of a network."""
        return torch.optim.Adam(network.parameters(), lr=self.rate)


def digest(*arrays: np.ndarray) -> str:
    """Return a short hash of the arrays that a run depends on."""
    found = hashlib.sha256()
    for array in arrays:
        found.update(np.ascontiguousarray(array).data if array.size else b"")  # without a copy: it may be a large file
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
    """Train `network` in place. The folder `run` gets `checkpoint.pt` and `log.jsonl`, from which a stopped run continues.

    batches: called once per epoch, returns that epoch's steps; a step returns its loss when it is called
    about: everything else that decides the result (data, loss): only a run with the same settings is continued
    until: stop after this many epochs of the schedule; None: run it to its end
    Raises OptionError if `run` holds a run with other settings or another network, OutputError if it cannot be written.
    """
    with as_output_error(run):
        run.mkdir(parents=True, exist_ok=True)
    optimiser = schedule.optimiser(network)
    randomness = Randomness.seeded(seed)
    start = digest(*(v.detach().numpy() for v in network.state_dict().values()))
    settings = {"seed": seed, **dataclasses.asdict(schedule), "start": start, **(about or {})}
    done = _resume(run / "checkpoint.pt", settings, network, optimiser, randomness)
    left = range(done, schedule.epochs if until is None else until)
    with progress_bar(left, run.name, total=schedule.epochs, done=done, leave=True) as epochs:
        for epoch in epochs:
            network.train()
            started, losses = time.perf_counter(), []
            steps = list(batches(randomness))
            for i, step in enumerate(steps):
                rate = schedule.rate_at(epoch, i / len(steps))
                for group in optimiser.param_groups:
                    group["lr"] = rate
                losses.append(_take(step, optimiser))
                if not math.isfinite(losses[-1]):
                    raise OptionError(
                        f"the loss is {losses[-1]} in epoch {epoch + 1}: lower the rate or the weights of the losses"
                    )
            _save(run / "checkpoint.pt", epoch + 1, settings, network, optimiser, randomness)
            line = {"epoch": epoch + 1, "loss": float(np.mean(losses)), "rate": rate, "seed": seed}
            line["seconds"] = round(time.perf_counter() - started, 2)
            with as_output_error(run / "log.jsonl"), open(run / "log.jsonl", "a") as log:
                log.write(json.dumps(line) + "\n")
    network.eval()


def _take(step: Callable[[], Tensor], optimiser: torch.optim.Optimizer) -> float:
    """Take one step of the optimiser, and return its loss."""
    loss = step()
    optimiser.zero_grad()
    loss.backward()
    optimiser.step()
    return loss.item()


def logged_seconds(run: Path) -> float:
    """Return the seconds of training in all logs in `run` and below it, over every part of a run that was stopped."""
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
    save_whole(state, path)


def _resume(
    path: Path,
    settings: dict[str, Any],
    network: nn.Module,
    optimiser: torch.optim.Optimizer,
    randomness: Randomness,
) -> int:
    """Load the checkpoint, if there is one, and return the number of epochs that are done."""
    if not path.exists():
        return 0
    try:
        state = torch.load(path, weights_only=True)
        found = state["settings"]
    except Exception as error:  # a broken file raises almost anything
        raise OptionError(f"{path} is not a checkpoint of a run: choose another folder, or delete it") from error
    differing = sorted(k for k in found.keys() | settings.keys() if found.get(k) != settings.get(k))
    if differing:
        told = ", ".join(f"{k} was {found.get(k)}, is {settings.get(k)}" for k in differing)
        raise OptionError(f"{path} was written with other settings ({told}): choose another folder, or delete it")
    network.load_state_dict(state["network"])
    optimiser.load_state_dict(state["optimiser"])
    randomness.torch.set_state(state["torch"])
    randomness.numpy.bit_generator.state = json.loads(state["numpy"])
    return int(state["epoch"])
