"""The report of a sanity check as one self-contained HTML page."""

import base64
import io
from collections.abc import Sequence
from typing import Any

import numpy as np
from PIL import Image

from engine.evaluate.bootstrap import CONFIDENCE
from engine.evaluate.report import interval_text
from engine.evaluate.sanity_figures import MethodFigures, Shown
from engine.evaluate.sanity_verdicts import FAILS, PASSES
from engine.methods import Method
from engine.render.colours import Scale, map_layer, over_grey
from engine.render.html import STYLE, escaped
from engine.render.panels import whole_box

THUMBNAIL = 144
"""Longer side of a picture of the page, in pixels."""
SANITY_STYLE = """
.wide { overflow-x: auto; } table { border-collapse: collapse; margin: .5rem 0; }
td, th { text-align: left; padding: .2rem .8rem .2rem 0; vertical-align: top; }
td.number { white-space: nowrap; font-variant-numeric: tabular-nums; }
.passes { color: var(--right); } .fails { color: var(--wrong); font-weight: 600; }
.strip { display: flex; flex-wrap: wrap; gap: .8rem; } .strip figure { margin: 0; width: 144px; }
.strip img { display: block; max-width: 100%; }
"""
CLASSES = {PASSES: "passes", FAILS: "fails"}


def sanity_page(found: dict[str, Any], measured: Sequence[MethodFigures]) -> str:
    """Return the text of the page: verdicts, a section per check, pictures of the first pair, the settings.

    found: from `sanity_report`; measured: what it was made of
    """
    settings = found["settings"]
    numbers = "".join(f"<dt>{escaped(k)}</dt><dd>{escaped(v)}</dd>" for k, v in settings.items())
    strips = "".join(_strip(one) for one in measured)
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>Can the maps be trusted?</title><style>{STYLE}{SANITY_STYLE}</style></head>\n<body>"
        "<h1>Can the maps be trusted?</h1>\n"
        f"<p class=by>{escaped(settings['model'])}, {settings['pairs']} pairs, with {100 * CONFIDENCE:.0f}% bootstrap "
        "intervals over the pairs. A check passes if the whole interval is on the right side of its bound.</p>\n"
        f"{_verdicts(found)}{''.join(_section(check, found['results']) for check in found['checks'])}"
        f"<section><h2>The first pair</h2>{strips}</section>"
        f"<details><summary>Settings</summary><dl>{numbers}</dl></details></body></html>\n"
    )


def _verdicts(found: dict[str, Any]) -> str:
    heads = "".join(f"<th>{escaped(row['method'])}</th>" for row in found["results"])
    rows = "".join(
        f"<tr><td>{escaped(check['title'])}</td>"
        + "".join(_verdict(row["checks"][check["name"]]["verdict"]) for row in found["results"])
        + "</tr>"
        for check in found["checks"]
    )
    return f"<div class=wide><table><tr><th></th>{heads}</tr>{rows}</table></div>\n"


def _verdict(verdict: str) -> str:
    return f'<td class="{CLASSES.get(verdict, "by")}">{escaped(verdict)}</td>'


def _section(check: dict[str, Any], results: Sequence[dict[str, Any]]) -> str:
    judged = [row["checks"][check["name"]] for row in results]
    heads = "".join(f"<th>{escaped(row['method'])}</th>" for row in results)
    rows = "".join(
        f"<tr><td>{escaped(label)}</td>"
        + "".join(f"<td class=number>{figure_text(one['figures'][label])}</td>" for one in judged)
        + "</tr>"
        for label in judged[0]["figures"]
    )
    said = "".join(
        f"<li>{escaped(row['method'])}, {one['pairs']} pairs: {escaped(' '.join(one['says']))} "
        f'<span class="{CLASSES.get(one["verdict"], "by")}">{escaped(one["verdict"])}</span></li>'
        for row, one in zip(results, judged, strict=True)
    )
    return (
        f"<section><h2>{escaped(check['title'])}</h2><p>{escaped(check['asks'])} It passes {escaped(check['bound'])}.</p>"
        f"<ul>{said}</ul><div class=wide><table><tr><th></th>{heads}</tr>{rows}</table></div></section>\n"
    )


def figure_text(value: dict[str, float | None]) -> str:
    """Return the text of an interval of `sanity_report`; "none" if there was nothing to average."""
    return "none" if value["mean"] is None else interval_text({k: v for k, v in value.items() if v is not None})


def _strip(measured: MethodFigures) -> str:
    figures = "".join(
        f'<figure><img alt="{escaped(one.caption)}" src="data:image/png;base64,{_encoded(one, measured.method)}">'
        f"<figcaption>{escaped(one.caption)}</figcaption></figure>"
        for one in measured.shown
    )
    return f"<h3>{escaped(measured.name)}</h3><div class=strip>{figures}</div>\n"


def _encoded(shown: Shown, method: Method) -> str:
    """Return a picture, below its map if it has one, as a PNG file in base64; each map has colours of its own."""
    height, width = shown.pixels.shape[:2]
    scale = THUMBNAIL / max(height, width)
    size = (max(round(width * scale), 1), max(round(height * scale), 1))
    picture = Image.fromarray(shown.pixels).resize(size, Image.Resampling.BICUBIC)
    if shown.map is not None:
        signed = method.estimator == "regression"
        most = float(np.abs(shown.map).max() if signed else np.ptp(shown.map))
        layer = map_layer(shown.map.astype(np.float32), None, whole_box(picture), picture.size, Scale(most, signed))
        picture = over_grey(picture, layer)
    buffer = io.BytesIO()
    picture.save(buffer, "PNG", optimize=True)
    return base64.b64encode(buffer.getvalue()).decode()
