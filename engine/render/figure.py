"""The pictures of an explanation in a page or a notebook: panels, maps that can be hidden, links, what the colours mean.

Query and reference stand side by side with their maps below, and their links are drawn over both; where regions were not
matched, all panels stand in a row. Styles are inline because notebooks show the figure without the page.
"""

import base64
import html
import io
from collections.abc import Sequence

from PIL import Image

from engine.findings import Findings
from engine.render.attribute_table import where_canvas
from engine.render.colours import BAR_HEIGHT, PANEL, Scale, bar, bar_text, bar_ticks
from engine.render.drawn_links import LABEL, NUMBERS, DrawnLink, links_on
from engine.render.panels import QUERY, REFERENCE, Panel, panel_of, panels
from engine.render.texts import links_text
from engine.render.tiles import has_tiles, how_to, inset, matrix_json, tile_grid
from engine.saliency.links import Region

FIGURE_STYLE = """
figure { margin: 0; } img { display: block; max-width: 100%; border-radius: 4px; }
.panels { margin: 1rem 0; } .hide { font-size: .9rem; color: #5f5f64; display: block; margin: .5rem 0; }
.drawn:has(.hide input:not(:checked)) .layer { display: none; }
.drawn:has(.hide input:not(:checked)) img.below { filter: none !important; opacity: 1 !important; }
"""
BETWEEN = 24
"""Space between query and reference, in pixels."""
BELOW = "filter:grayscale(1);opacity:.65"
"""The style of a picture below its map: over white, the same light grey as in a PNG."""


def figure(
    explanation: Findings, shown: Sequence[Panel] | None = None, contours: bool = False, *, in_page: bool = False
) -> str:
    """Return the panels and what their colours mean.

    shown, contours: see `engine.render.html.page`
    in_page: add what the page uses: tiles to point at, layers that show where an attribute is seen, a box that hides maps
    """
    shown = list(panels(explanation, contours) if shown is None else shown)
    hide = "<label class=hide><input type=checkbox checked> colours and links over the pictures</label>" if in_page else ""
    drawn = _pair(explanation, shown, in_page) if explanation.correspondence is not None else _row(shown, in_page)
    texts = [links_text(explanation), how_to(explanation) if in_page and has_tiles(explanation) else None]
    below = "".join(f"<p class=by>{html.escape(text)}</p>" for text in texts if text)
    return f"<div class=drawn>{hide}{drawn}{_scale(explanation)}{below}</div>"


def _row(shown: Sequence[Panel], in_page: bool) -> str:
    """Return all panels in a row that wraps."""
    figures = "".join(_figure(panel, _where(panel) if in_page else "") for panel in shown)
    return f"<div class=panels style='display:flex;flex-wrap:wrap;gap:1rem'>{figures}</div>"


def _pair(explanation: Findings, shown: list[Panel], in_page: bool) -> str:
    """Return query and reference with their links, and their maps below."""
    query, reference = panel_of(shown, QUERY), panel_of(shown, REFERENCE)
    layers, data = {QUERY: "", REFERENCE: ""}, ""
    matrix = explanation.correspondence if in_page and has_tiles(explanation) else None
    if matrix is not None:
        layers[QUERY] = tile_grid(QUERY, REFERENCE, matrix, inset(query))
        layers[REFERENCE] = tile_grid(REFERENCE, QUERY, matrix.T, inset(reference))
        data = f" data-correspondence='{matrix_json(matrix)}'"
    if in_page:
        layers = {caption: layers[caption] + _where(panel_of(shown, caption)) for caption in layers}
    pictures = "".join(_figure(panel, layers[panel.caption], in_column=True) for panel in (query, reference))
    maps = [panel for panel in shown if panel.layer is not None]
    rest = [panel for panel in shown if panel.layer is None and panel not in (query, reference)]
    wide = 2 * PANEL + BETWEEN
    style = (
        f"display:grid;grid-template-columns:1fr 1fr;gap:1rem {100 * BETWEEN / wide:.3f}%;width:min(100%,{wide}px);"
        "position:relative;align-items:start"
    )
    lines = _svg(links_on(explanation, query, reference))
    below = "".join(_figure(panel, in_column=True) for panel in [*maps, *rest])
    return f"<div class=panels style='{style}'{data}>{pictures}{lines}</div><div class=panels style='{style}'>{below}</div>"


def _svg(links: Sequence[DrawnLink]) -> str:
    """Return the links over query and reference, PANEL pixels wide and BETWEEN apart before the page scales them."""
    if not links:
        return ""
    wide, drawn = 2 * PANEL + BETWEEN, []
    for link in reversed(links):
        left, right = link.query, _moved(link.reference)
        ends = f"x1={left[2]:.0f} y1={(left[1] + left[3]) / 2:.0f} x2={right[0]:.0f} y2={(right[1] + right[3]) / 2:.0f}"
        drawn.append(f"<line {ends} stroke=#fff stroke-width={link.width + 3} />")
        drawn.append(f"<line {ends} stroke={link.colour} stroke-width={link.width} />")
    for link in reversed(links):
        drawn += [_svg_box(box, link) for box in (link.query, _moved(link.reference))]
    style = f"position:absolute;left:0;top:0;width:100%;aspect-ratio:{wide}/{PANEL};pointer-events:none;overflow:visible"
    return f"<svg class='layer links' viewBox='0 0 {wide} {PANEL}' style='{style}' aria-hidden=true>{''.join(drawn)}</svg>"


def _svg_box(box: Region, link: DrawnLink) -> str:
    left, top, right, bottom = (round(edge) for edge in box)
    above = top - LABEL if top >= LABEL else bottom
    outline = f"x={left} y={top} width={max(right - left, 6)} height={max(bottom - top, 6)} fill=none"
    return (
        f"<rect {outline} stroke=#fff stroke-width=5 /><rect {outline} stroke={link.colour} stroke-width=2 />"
        f"<rect x={left} y={above} width={LABEL} height={LABEL} fill={link.colour} stroke=#fff stroke-width=1 />"
        f"<text x={left + LABEL / 2} y={above + LABEL / 2} fill={NUMBERS[link.number - 1]} font-size=13 text-anchor=middle "
        f"dominant-baseline=central font-family=sans-serif>{link.number}</text>"
    )


def _moved(box: Region) -> Region:
    by = PANEL + BETWEEN
    return box[0] + by, box[1], box[2] + by, box[3]


def _figure(panel: Panel, layers: str = "", *, in_column: bool = False) -> str:
    """Return a panel: its picture, the colours of its map as a picture of their own, more layers, and its caption.

    in_column: it grows and shrinks with a column that is PANEL pixels wide before the page scales it, as links do
    """
    width = f"{100 * panel.picture.width / PANEL:.4g}%" if in_column else "fit-content"
    fill = "width:100%;" if in_column else ""
    colours = ""
    if panel.layer is not None:
        source = _data_uri(Image.fromarray(panel.layer))
        colours = f"<img class=layer alt='' src='{source}' style='position:absolute;inset:0;width:100%;height:100%'>"
    below = f" class=below style='{fill}{BELOW}'" if panel.layer is not None else f" style='{fill}'"
    trust = f"<br>{html.escape(panel.trust)}" if panel.trust else ""
    caption = html.escape(panel.caption)
    return (
        f"<figure><div class=match style='position:relative;width:{width}'><img alt='{caption}' "
        f"src='{_data_uri(panel.picture)}'{below}>{colours}{layers}</div><figcaption>{caption}{trust}</figcaption></figure>"
    )


def _where(panel: Panel) -> str:
    """Return the layer for the page's script that shows where an attribute is seen; "" for a map."""
    if panel.layer is not None or panel.caption not in (QUERY, REFERENCE):
        return ""
    return where_canvas(panel.caption, inset(panel).lstrip(";"))


def _scale(explanation: Findings) -> str:
    """Return the bar of colours with its values, and what they are."""
    scale = Scale.of(explanation)
    source = _data_uri(bar(scale, PANEL, BAR_HEIGHT))
    ticks = "".join(f"<span>{html.escape(tick)}</span>" for tick in bar_ticks(scale))
    return (
        f"<div class=scale style='max-width:{PANEL}px;font-size:.8rem;color:#5f5f64'><img alt='scale of the colours' "
        f"src='{source}' style='width:100%;border-radius:0'><div style='display:flex;justify-content:space-between'>{ticks}"
        f"</div></div><p class=by>{html.escape(bar_text(explanation))}</p>"
    )


def _data_uri(picture: Image.Image) -> str:
    buffer = io.BytesIO()
    picture.save(buffer, "PNG")
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()
