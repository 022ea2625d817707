"""The published procedure (docs/method.md, RISE) in PyTorch eager mode, with which the ratios compare.

Masks are drawn once and kept, as in the published code. The headline ratios do not time `Masks.drawn`, and also not the
reference's embedding and the mean mask.
"""

import dataclasses
import time
from collections.abc import Callable

import numpy as np
import torch
from skimage.transform import resize
from torch import Tensor, nn
from torch.nn import functional as F

from engine.plans import RisePlan

BATCHES = (32, 64, 100)


@dataclasses.dataclass(frozen=True, eq=False)
class Masks:
    """N drawn masks. all: (N, 1, S, S) float32 in [0, 1]; mean: (S, S); cpu: CPU seconds that the drawing took"""

    all: Tensor
    mean: Tensor
    cpu: float

    @classmethod
    def drawn(cls, plan: RisePlan, size: int) -> "Masks":
        """Draw the grids and shifts of a plan as the published code does, so that both procedures have the same masks."""
        cpu = time.process_time()
        grid = plan.grids.shape[1]
        cell = -(-size // grid)
        whole = ((grid + 1) * cell,) * 2
        masks = np.empty((len(plan), 1, size, size), np.float32)
        for i, (cells, (dy, dx)) in enumerate(zip(plan.grids, plan.shifts, strict=True)):
            upsampled = resize(cells.astype(np.float32), whole, order=1, mode="reflect", anti_aliasing=False)
            masks[i, 0] = upsampled[dy : dy + size, dx : dx + size]
        every = torch.from_numpy(masks)
        return cls(every, every.mean((0, 1)), time.process_time() - cpu)


def eager(network: nn.Module) -> Callable[[Tensor], Tensor]:
    """Return the network without gradients: (n, 3, S, S) -> (n, D)."""

    def embed(rows: Tensor) -> Tensor:
        with torch.inference_mode():
            return network(rows)

    return embed


def fixed(network: nn.Module, query: Tensor, reference: Tensor, masks: Masks, batch: int) -> Tensor:
    """Return the map (S, S) of a query (3, S, S) against the embedding (D,) of a whole reference."""
    scores = []
    with torch.inference_mode():
        for part in masks.all.split(batch):
            embeddings = network(query * part)
            scores.append(F.cosine_similarity(embeddings, reference[None]))
        return torch.tensordot(torch.cat(scores), masks.all[:, 0], 1) / masks.mean


def both(network: nn.Module, query: Tensor, reference: Tensor, masks: Masks, others: Tensor, batch: int) -> Tensor:
    """Return the map (S, S) of a query against a reference (3, S, S) behind each of K masks (K, 1, S, S): N * K passes."""
    with torch.inference_mode():
        embeddings = network(reference * others)
    maps = [fixed(network, query, embedding, masks, batch) for embedding in embeddings]
    return torch.stack(maps).mean(0)


def fastest_batch(network: Callable[[Tensor], Tensor], query: Tensor) -> int:
    """Return the batch size with the lowest CPU time per row, of two runs after one to warm up. query: (3, S, S)"""
    cost = {}
    with torch.inference_mode():
        for batch in BATCHES:
            rows = query.expand(batch, *query.shape).contiguous()
            network(rows)
            started = time.process_time()
            network(rows)
            network(rows)
            cost[batch] = (time.process_time() - started) / batch
    return min(cost, key=cost.get)
