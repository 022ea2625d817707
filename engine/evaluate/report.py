"""Summarise the rows: means with bootstrap intervals over pairs, as JSON, a page and a figure."""

import base64
import dataclasses
import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from engine.errors import OptionError
from engine.evaluate.bootstrap import CONFIDENCE, RESAMPLES, bootstrap
from engine.evaluate.curves import scaled
from engine.evaluate.rows import Row
from engine.render.html import STYLE, escaped

CURVES = ("insertion", "deletion")
BETTER = {"insertion": "higher", "deletion": "lower"}
RANDOM_ORDER = "random"


@dataclasses.dataclass(frozen=True, eq=False)
class Result:
    """One method in one mode over all pairs.

    passes: mean number of network rows per map
    areas: by metric, (P,) float64; curves: by metric, (steps,) float64, the mean of the scaled curves
    """

    method: str
    mode: str
    passes: float
    areas: dict[str, np.ndarray]
    curves: dict[str, np.ndarray]

    @classmethod
    def of(cls, rows: Sequence[Row], metrics: Sequence[str]) -> "Result":
        """Make from the rows of one method and mode: one per pair, in the order of the pairs."""
        return cls(
            rows[0]["method"],
            rows[0]["mode"],
            float(np.mean([row["passes"] for row in rows])),
            {m: np.array([row[f"{m}_auc"] for row in rows]) for m in metrics},
            {m: np.mean([scaled(np.array(row[f"{m}_scores"])) for row in rows], axis=0) for m in metrics},
        )

    @property
    def name(self) -> str:
        """The label in the figure."""
        return self.method if self.mode == "fixed" else f"{self.method}, both"


def summary(settings: dict[str, Any], results: Sequence[Result]) -> dict[str, Any]:
    """Return the report, ready for JSON. All methods use the same resamples of pairs for their intervals."""
    base = next((r for r in results if r.method == RANDOM_ORDER), None)
    table = []
    for result in results:
        row: dict[str, Any] = {"method": result.method, "mode": result.mode, "passes": result.passes}
        for metric, areas in result.areas.items():
            row[metric] = bootstrap(areas).to_dict()
            if base is not None and result is not base:
                row[f"{metric}_over_random"] = bootstrap(areas - base.areas[metric]).to_dict()
            row[f"{metric}_curve"] = result.curves[metric].tolist()
        table.append(row)
    return {"settings": settings, "confidence": CONFIDENCE, "resamples": RESAMPLES, "results": table}


def report_page(found: dict[str, Any], curves_figure: bytes) -> str:
    """Return the text of a self-contained HTML page: a table, the figure, the settings.

    found: from `summary`; curves_figure: a PNG file
    """
    results = found["results"]
    metrics = [m for m in CURVES if m in results[0]]
    heads = "".join(f"<th>{m} ({BETTER[m]} is better)</th><th>less random's</th>" for m in metrics)
    rows = "".join(_table_row(row, metrics) for row in results)
    numbers = "".join(f"<dt>{escaped(k)}</dt><dd>{escaped(v)}</dd>" for k, v in found["settings"].items())
    image = base64.b64encode(curves_figure).decode()
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>How faithful are the maps?</title><style>{STYLE}</style></head>\n<body>"
        "<h1>How faithful are the maps?</h1>\n"
        f"<p class=by>Area under the curve, mean over {found['settings']['pairs']} pairs, with {100 * CONFIDENCE:.0f}% "
        "bootstrap intervals over the pairs.</p>\n"
        f"<table><tr><th>method</th><th>mode</th><th>passes</th>{heads}</tr>{rows}</table>\n"
        f'<p><img alt="mean curves of insertion and deletion" src="data:image/png;base64,{image}"></p>\n'
        f"<details><summary>Settings</summary><dl>{numbers}</dl></details></body></html>\n"
    )


def _table_row(row: dict[str, Any], metrics: Sequence[str]) -> str:
    cells = [escaped(row["method"]), escaped(row["mode"]), f"{row['passes']:.0f}"]
    for metric in metrics:
        cells += [
            interval_text(row[metric]),
            interval_text(row[f"{metric}_over_random"]) if f"{metric}_over_random" in row else "",
        ]
    return "<tr>" + "".join(f"<td class=number>{cell}</td>" for cell in cells) + "</tr>"


def interval_text(value: dict[str, float]) -> str:
    """Return the text of an interval of `summary`, like "0.500 (0.400 to 0.600)"."""
    return f"{value['mean']:.3f} ({value['low']:.3f} to {value['high']:.3f})"


def require_matplotlib() -> None:
    """Raise OptionError if matplotlib is missing: to be called before the work, not after it."""
    try:
        import matplotlib  # noqa: F401, PLC0415 - an optional dependency
    except ImportError as error:
        raise OptionError("the figure needs matplotlib: pip install 'sane-engine[evaluate]'") from error


def curves_figure(results: Sequence[Result]) -> bytes:
    """Draw the mean curves, a panel per metric; return the bytes of a PNG file."""
    from matplotlib.figure import Figure  # noqa: PLC0415 - as above

    metrics = list(results[0].areas)
    figure = Figure(figsize=(5.2 * len(metrics), 4), layout="constrained")
    panels = figure.subplots(1, len(metrics), sharey=True, squeeze=False)[0]
    methods = dict.fromkeys(r.method for r in results if r.method != RANDOM_ORDER)
    colours = {method: f"C{i}" for i, method in enumerate(methods)}
    for panel, metric in zip(panels, metrics, strict=True):
        for result in results:
            curve = result.curves[metric]
            style = "-" if result.mode == "fixed" else "--"
            colour = colours.get(result.method, "0.5")
            panel.plot(np.linspace(0, 100, len(curve)), curve, style, color=colour, label=result.name)
        panel.set(xlabel="most salient pixels, %", title=f"{metric} ({BETTER[metric]} is better)")
        panel.grid(alpha=0.3)
    panels[0].set_ylabel("similarity, each curve from 0 to 1")
    panels[-1].legend()
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=110, metadata={"Software": None})
    return buffer.getvalue()


def files(out: Path) -> dict[str, Path]:
    """Return the files that a run writes, by suffix: `out` itself and two beside it."""
    return {suffix: out.with_suffix(suffix) for suffix in (".json", ".png", ".html")}
