"""Draw the curves of docs/benchmarks.md."""

from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np

mpl.use("Agg")  # no display is needed
from matplotlib import pyplot as plt
from matplotlib.axes import Axes

Row = dict[str, Any]
POINTS = 40


def draw(suites: dict[str, list[Row]], out: Path) -> None:
    """Draw fidelity.png, speedup.png, references.png and size.png in the folder `out`."""
    _fidelity(suites["fidelity"], out / "fidelity.png")
    _speedup(suites["fidelity"], suites["ratios"], out / "speedup.png")
    _references(suites["throughput"], suites["ratios"], out / "references.png")
    _size(suites["throughput"], out / "size.png")


def curve(rows: list[Row], network: str, estimator: str, precision: str) -> tuple[np.ndarray, np.ndarray]:
    """Return passes and mean correlations, sorted by passes."""
    wanted = (network, estimator, precision)
    found = sorted((r["masks"], r["mean"]) for r in rows if (r["network"], r["name"], r["precision"]) == wanted)
    return np.array([m for m, _ in found], float), np.array([c for _, c in found], float)


def speedup(rows: list[Row], ratio: Row) -> tuple[np.ndarray, np.ndarray]:
    """Return correlations that both curves reach, and the published procedure's CPU time over ours for each of them."""
    passes, theirs = curve(rows, ratio["network"], "sane", "fp32")
    ours_passes, ours = curve(rows, ratio["network"], "regression", ratio["precision"])
    low, high = max(theirs.min(), ours.min()), min(theirs.max(), ours.max())
    levels = np.linspace(low, high, POINTS) if low < high else np.empty(0)
    per_pass = ratio["theirs_cpu_s"] / ratio["published_masks"], ratio["ours_cpu_s"] / ratio["passes"]
    return levels, per_pass[0] * _needed(levels, passes, theirs) / (per_pass[1] * _needed(levels, ours_passes, ours))


def _needed(levels: np.ndarray, passes: np.ndarray, means: np.ndarray) -> np.ndarray:
    """Return the passes that reach each level, interpolated in the logarithm of the measured passes."""
    return np.exp(np.interp(levels, np.maximum.accumulate(means), np.log(passes)))


def _fidelity(rows: list[Row], path: Path) -> None:
    names = list(dict.fromkeys(r["network"] for r in rows))
    figure, axes = plt.subplots(1, len(names), figsize=(4 * len(names), 3.6), sharey=True, squeeze=False)
    for axis, name in zip(axes[0], names, strict=True):
        for estimator, precision in dict.fromkeys((r["name"], r["precision"]) for r in rows if r["network"] == name):
            passes, means = curve(rows, name, estimator, precision)
            axis.plot(passes, means, "o-" if estimator == "regression" else "s--", label=f"{estimator}, {precision}")
        axis.set(title=name, xlabel="passes", xscale="log")
        _numbered(axis, sorted({r["masks"] for r in rows if r["network"] == name}))
        axis.grid(alpha=0.3)
    axes[0][0].set_ylabel("mean correlation with 8000 masks")
    axes[0][0].legend()
    _save(figure, path)


def _speedup(rows: list[Row], ratios: list[Row], path: Path) -> None:
    figure, axis = plt.subplots(figsize=(6, 3.8))
    measured = {r["network"] for r in rows}
    for ratio in (r for r in ratios if r["name"] == "one pair" and r["network"] in measured):
        levels, gains = speedup(rows, ratio)
        axis.plot(levels, gains, label=f"{ratio['network']}, {ratio['precision']}, {ratio['provider']}")
    axis.set(xlabel="mean correlation with 8000 masks", ylabel="CPU time, published over ours")
    axis.set_ylim(bottom=0)
    axis.grid(alpha=0.3)
    axis.legend()
    _save(figure, path)


def _references(rows: list[Row], ratios: list[Row], path: Path) -> None:
    ours = sorted((r["references"], 1e3 * r["cpu_s"]) for r in rows if r["name"] == "references")
    network = next(r["network"] for r in rows if r["name"] == "references")
    pair = next(r for r in ratios if (r["name"], r["network"]) == ("one pair", network))
    figure, axis = plt.subplots(figsize=(6, 3.8))
    counts = [n for n, _ in ours]
    axis.plot(counts, [1e3 * pair["theirs_cpu_s"]] * len(counts), "s--", label="published, 2000 masks")
    axis.plot(counts, [t for _, t in ours], "o-", label=f"ours, default, {pair['precision']}")
    axis.set(xlabel="references of one query", ylabel="CPU ms per pair", xscale="log", yscale="log", title=network)
    _numbered(axis, counts)
    axis.grid(alpha=0.3)
    axis.legend()
    _save(figure, path)


def _size(rows: list[Row], path: Path) -> None:
    found = sorted((r for r in rows if r["name"] == "picture size"), key=lambda r: r["size"])
    sides = [r["size"] for r in found]
    figure, axis = plt.subplots(figsize=(6, 3.8))
    for who, label, style in (("theirs", "published", "s--"), ("ours", "ours, sane, fp32", "o-")):
        axis.plot(sides, [1e3 * r[f"{who}_cpu_s"] / r["masks"] for r in found], style, label=label)
    axis.set(xlabel="side of the picture, pixels", ylabel="CPU ms per pass")
    axis.set_ylim(bottom=0)
    axis.grid(alpha=0.3)
    axis.legend()
    _save(figure, path)


def _numbered(axis: Axes, ticks: list[int]) -> None:
    """Show plain numbers on a logarithmic axis."""
    axis.set_xticks(ticks, [str(t) for t in ticks])
    axis.minorticks_off()


def _save(figure: plt.Figure, path: Path) -> None:
    figure.tight_layout()
    figure.savefig(path, dpi=110)
    plt.close(figure)
