"""The hot loop: plan -> masks drawn onto a reused buffer -> network -> embeddings. Every method goes through here."""

from collections.abc import Callable

import numpy as np

from engine.preprocessing import Preprocessing
from engine.protocol import Plan
from engine.session import Session
from kernels.blend import blend

Progress = Callable[[int, int], None]
"""Called with (network rows done, network rows in all)."""

BATCH_PIXELS = 2**19
"""Pixels in one batch: enough rows to keep two cores busy, few enough that activations stay in some 100 MB."""
LARGEST_BATCH = 64


def batch_size(preprocessing: Preprocessing) -> int:
    """Rows per network run at this picture size: a power of two from 1 to 64."""
    rows = max(BATCH_PIXELS // (preprocessing.height * preprocessing.width), 1)
    return int(min(2 ** (rows.bit_length() - 1), LARGEST_BATCH))


def masked_embeddings(
    session: Session,
    plan: Plan,
    preprocessing: Preprocessing,
    image: np.ndarray,
    baseline: np.ndarray,
    progress: Progress,
) -> np.ndarray:
    """Embeddings (N, D) float32 of `image` behind each of the plan's N masks.

    image, baseline: float32, one picture as the network takes it
    """
    renderer = plan.renderer(preprocessing.height, preprocessing.width)
    total, batch = len(plan), min(len(plan), batch_size(preprocessing))
    masks = np.empty((batch, preprocessing.height, preprocessing.width), np.float32)
    rows = np.empty((batch, *image.shape), np.float32)
    channels_last = preprocessing.layout == "nhwc"
    embeddings = []
    for start in range(0, total, batch):
        count = min(batch, total - start)
        renderer.masks(start, start + count, out=masks[:count])  # a mask is drawn
        blend(image, baseline, masks[:count], channels_last, out=rows[:count])
        embeddings.append(session.run(rows[:count]))  # the network runs
        progress(start + count, total)
    return np.concatenate(embeddings)


def whole_embeddings(session: Session, preprocessing: Preprocessing, pictures: list[np.ndarray]) -> np.ndarray:
    """Network output (n, ...) float32 for whole pictures, each (H, W, 3) uint8."""
    batch = batch_size(preprocessing)
    outputs = [
        session.run(preprocessing.normalised(np.stack(pictures[start : start + batch])))
        for start in range(0, len(pictures), batch)
    ]
    return np.concatenate(outputs)
