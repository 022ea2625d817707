"""Peak resident memory at 224 x 224: with more masks, it must grow by their embeddings only."""

from typing import Any

import pytest

from benchmarks import networks
from benchmarks.conftest import Size
from benchmarks.measure import run_module
from benchmarks.record import Rows

SIDE = 224
LIMIT_MB = 50
PUBLISHED_MOST = 2000
"""Most masks of the published procedure, which keeps all of them: 0.4 GB."""


@pytest.mark.parametrize(("who", "estimator"), [("ours", "regression"), ("ours", "sane"), ("published", "sane")])
def test_peak(benchmark: Any, rows: Rows, size: Size, who: str, estimator: str) -> None:
    """The paper's network with random weights, with 64 numbers per embedding."""
    folder = str(networks.untrained("resnet18", SIDE).folder)
    few, many = size.memory
    many = min(many, PUBLISHED_MOST) if who == "published" else many
    runs = {}

    def measured() -> None:
        for masks in (few, many):
            _, _, runs[masks] = run_module(["benchmarks.memory", who, folder, str(masks), estimator])

    benchmark.pedantic(measured, rounds=1, iterations=1)
    kept = {masks: run["embedding_bytes"] for masks, run in runs.items()}
    peaks = {masks: run["peak_bytes"] / 1e6 for masks, run in runs.items()}
    growth = peaks[many] - peaks[few] - (kept[many] - kept[few]) / 1e6
    fields = {"precision": "fp32", "size": SIDE, "seed": 0, "few": few, "peak_mb_few": peaks[few], "peak_mb": peaks[many]}
    fields |= {"growth_mb": growth, "limit_mb": LIMIT_MB if who == "ours" else None}
    rows.add("memory", f"{who}, {estimator}", "resnet18", masks=many, **fields)
