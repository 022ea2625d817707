"""Explanations as one self-contained HTML page: no script, nothing fetched."""

import base64
import html
import io
from collections.abc import Sequence

from PIL import Image

from engine.explanation import Explanation
from engine.picture import byline, headline, panels

STYLE = """
:root { color-scheme: light; }
body { font: 16px/1.5 system-ui, sans-serif; color: #1c1c1e; max-width: 1020px; margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.3rem; } h2 { font-size: 1.15rem; margin: 0; }
section { border-top: 1px solid #ddd; padding: 1.5rem 0; }
.panels { margin: 1rem 0; }
figure { margin: 0; } figcaption, .by, th { color: #6e6e73; font-size: .9rem; font-weight: normal; }
img { display: block; max-width: 100%; border-radius: 4px; }
table { border-collapse: collapse; width: 100%; } th, td { text-align: left; padding: .3rem .8rem .3rem 0; }
td.number { font-variant-numeric: tabular-nums; }
.bar { background: #f0eeec; width: 12rem; height: .8rem; border-radius: 2px; }
.bar i { display: block; height: 100%; background: #c8401e; border-radius: 2px; }
details { margin-top: 1rem; } dl { display: grid; grid-template-columns: max-content 1fr; gap: .1rem 1rem; }
dt { color: #6e6e73; } dd { margin: 0; overflow-wrap: anywhere; }
"""


def page(explanations: Sequence[Explanation]) -> str:
    """One page with a section per explanation."""
    sections = "\n".join(section(e, i + 1, len(explanations)) for i, e in enumerate(explanations))
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>Why do these images match?</title><style>{STYLE}</style></head>\n"
        f"<body><h1>Why do these images match?</h1>\n{sections}\n</body></html>\n"
    )


def section(explanation: Explanation, number: int, count: int) -> str:
    """Pictures, attributes and numbers of one explanation."""
    which = f"Reference {number} of {count}: " if count > 1 else ""
    numbers = {k: v for k, v in explanation.to_dict().items() if k not in ("attributes", "notes") and v is not None}
    rows = "".join(f"<dt>{_safe(k)}</dt><dd>{_safe(v)}</dd>" for k, v in numbers.items())
    notes = "".join(f"<p class=by>{_safe(note)}</p>" for note in explanation.notes)
    return (
        f"<section><h2>{which}{_safe(headline(explanation))}</h2><p class=by>{_safe(byline(explanation))}</p>"
        f"{figure(explanation)}{_attributes(explanation)}{notes}"
        f"<details><summary>All numbers</summary><dl>{rows}</dl></details></section>"
    )


def figure(explanation: Explanation) -> str:
    """The panels in a row; styled in place, for notebooks show it without the page."""
    shown = "".join(
        f"<figure><img alt='{_safe(caption)}' src='{_data_uri(panel)}'><figcaption>{_safe(caption)}</figcaption></figure>"
        for caption, panel in panels(explanation)
    )
    return f"<div class=panels style='display:flex;flex-wrap:wrap;gap:1rem'>{shown}</div>"


def _attributes(explanation: Explanation) -> str:
    if not explanation.attributes:
        return ""
    rows = "".join(
        f"<tr><td>{_safe(a.name)}</td><td><div class=bar><i style='width:{100 * a.confidence:.0f}%'></i></div></td>"
        f"<td class=number>{a.confidence:.3f}</td><td class=number>{a.match:+.3f}</td>"
        f"<td class=number>{a.prior:.3f}</td><td class=number>{a.score:.3f}</td></tr>"
        for a in explanation.attributes
    )
    heads = "".join(f"<th>{name}</th>" for name in ("attribute", "", "confidence", "match", "prior", "score"))
    return f"<table><tr>{heads}</tr>{rows}</table>"


def _data_uri(picture: Image.Image) -> str:
    buffer = io.BytesIO()
    picture.save(buffer, "PNG")
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()


def _safe(value: object) -> str:
    return html.escape(str(value), quote=True)
