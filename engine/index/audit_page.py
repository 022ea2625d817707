"""An audit as one self-contained HTML page, with pictures."""

import base64
import html
import io

import numpy as np
from PIL import Image

from engine.index.audited import LEAST_TIMES, Audit, AuditedGroup, MeanInterval, RegionWeight
from engine.index.regions import BACKGROUND
from engine.render.colours import RAISES, Scale, coloured, over_grey
from engine.render.panels import enlarged, panels

MOST_ATTRIBUTES, MOST_SHOWN = 12, 6
"""Rows of the table of attributes; groups that are drawn."""
MAP_PIXELS = 256
STRONGEST = 3.0
"""The strongest colour of a mean map: so many times as much as if everything counted alike."""

_STYLE = """
:root { color-scheme: light; }
body { font: 16px/1.5 system-ui, sans-serif; color: #1c1c1e; max-width: 1020px; margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.3rem; } h2 { font-size: 1.15rem; margin: 0; }
section { border-top: 1px solid #ddd; padding: 1.5rem 0; }
.wide { overflow-x: auto; } table { border-collapse: collapse; } td, th { padding: .2rem .6rem .2rem 0; text-align: left; }
td.n, th.n { text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap; }
th, figcaption, .by { color: #5f5f64; font-size: .9rem; font-weight: normal; }
.row { display: flex; flex-wrap: wrap; gap: 1rem; margin: 1rem 0; } figure { margin: 0; max-width: 100%; }
.pair { display: flex; gap: .25rem; } .pair img { width: 118px; }
img { display: block; border-radius: 4px; max-width: 100%; }
.found { background: #fdf1dc; } strong { font-weight: 600; }
"""


def audit_page(audit: Audit) -> str:
    """Return the text of the page."""
    shown = [group for group in audit.groups[1:] if group.found][:MOST_SHOWN]
    sections = [_verdict(audit), _attributes(audit), *(_group(group) for group in (audit.groups[0], *shown)), _steady(audit)]
    title = "Why does this catalogue match as it does?"
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{title}</title><style>{_STYLE}</style></head>\n<body><h1>{title}</h1>\n"
        + "\n".join(f"<section>{section}</section>" for section in sections)
        + "\n</body></html>\n"
    )


def verdict_lines(audit: Audit) -> list[str]:
    """Return in sentences what was found: the regions that stand out, the attributes, and how maps follow the reference."""
    lines = [
        f"{group.name} ({group.queries}): the {weight.region} counts {weight.times.mean:.1f} times its area "
        f"({weight.times.low:.1f} to {weight.times.high:.1f})"
        for group in audit.biased
        for weight in group.found[:1]
    ]
    lines = lines or ["no edge, corner or background stands out, in all pictures or in a group of them"]
    more = [one for one in audit.attributes if one.more.low > 0][:5]
    if audit.attributes:
        named = ", ".join(f"{one.name} ({_percent(one.shared)} beside {_percent(one.chance)})" for one in more)
        lines.append(f"matches share more than chance: {named or 'no attribute'}")
    lines.append(
        f"maps follow the reference: those against two matches correlate by {audit.steadiness.mean:.2f}, "
        f"against two random pictures by {audit.random_steadiness.mean:.2f}"
    )
    return lines


def _verdict(audit: Audit) -> str:
    about = (
        f"{audit.queries} random pictures of {audit.rows} and the {audit.k} best matches of each; {audit.duplicates} "
        f"near-duplicates left out; {audit.unreadable} pictures could not be read, whose background is not known."
    )
    items = "".join(f"<li>{_escaped(line)}</li>" for line in verdict_lines(audit))
    return f"<h2>What was found</h2><ul>{items}</ul><p class=by>{about}</p>"


def _attributes(audit: Audit) -> str:
    title = "<h2>What matches share</h2>"
    if not audit.attributes:
        return f"{title}<p>The bundle has no attributes.</p>"
    shown = audit.attributes[:MOST_ATTRIBUTES]
    rows = "".join(
        f"<tr><td>{_escaped(one.name)}<td class=n>{_percent(one.shared)}<td class=n>{_percent(one.chance)}"
        f"<td class=n>{100 * one.more.low:+.1f} to {100 * one.more.high:+.1f}"
        for one in shown
    )
    return (
        f"{title}<p class=by>Of a picture and its match, and of two random pictures: how likely both have an attribute. "
        f"{len(shown)} of {len(audit.attributes)}, by the least that they can differ.</p><div class=wide><table>"
        "<tr><th>attribute<th class=n>of matches<th class=n>by chance<th class=n>difference, points</tr>"
        f"{rows}</table></div>"
    )


def _group(group: AuditedGroup) -> str:
    pictures = _mean(group) + "".join(_example(group, i) for i in range(len(group.examples)))
    rows = "".join(_region(weight) for weight in sorted(group.regions, key=lambda r: -r.times.mean))
    return (
        f"<h2>{_escaped(group.name[:1].upper() + group.name[1:])}: where what raises the similarity lies</h2>"
        f"<p class=by>{group.queries} pictures, as the network saw them.</p><div class=row>{pictures}</div>"
        "<div class=wide><table><tr><th>region<th class=n>area<th class=n>times its area<th class=n>95% interval"
        f"<th class=n>pictures</tr>{rows}</table></div>"
    )


def _region(weight: RegionWeight) -> str:
    named = f"<strong>{weight.region}</strong>" if weight.stands_out else weight.region
    row = "<tr class=found>" if weight.stands_out else "<tr>"
    return (
        f"{row}<td>{named}<td class=n>{_percent(weight.area)}<td class=n>{weight.times.mean:.2f}"
        f"<td class=n>{_range(weight.times)}<td class=n>{weight.queries}"
    )


def _mean(group: AuditedGroup) -> str:
    """Return the mean map over the mean picture."""
    ground = np.full((2, 2, 3), 255, np.uint8) if group.mean_picture is None else group.mean_picture
    picture = Image.fromarray(ground).resize((MAP_PIXELS, MAP_PIXELS), Image.Resampling.BICUBIC)
    map_ = Image.fromarray(group.mean_map).resize((MAP_PIXELS, MAP_PIXELS), Image.Resampling.BILINEAR)
    layer = coloured(np.asarray(map_), None, Scale(STRONGEST, signed=True), 0.0)
    darkest = "#" + "".join(f"{int(c):02x}" for c in RAISES[-1])
    caption = (
        f"mean of all maps, over the mean picture; darkest <span style='color:{darkest}'>&#9632;</span>: {STRONGEST:g} times"
    )
    return _figure([over_grey(picture, layer)], f"{caption} its area", "")


def _example(group: AuditedGroup, i: int) -> str:
    drawn = [panel.drawn() for panel in panels(group.examples[i]) if panel.layer is not None]
    return _figure(drawn, f"a picture and its best match: {group.examples[i].similarity:.2f}", "pair")


def _figure(pictures: list[Image.Image], caption: str, kind: str) -> str:
    images = "".join(f"<img alt='' src='{_source(picture)}'>" for picture in pictures)
    below = f"<figcaption style='max-width:{MAP_PIXELS}px'>{caption}</figcaption>"
    return f"<figure><div class='{kind}'>{images}</div>{below}</figure>"


def _steady(audit: Audit) -> str:
    own, random = audit.steadiness, audit.random_steadiness
    return (
        "<h2>Do maps follow the reference?</h2><p>Two maps of one picture, against two of its matches, correlate by "
        f"{own.mean:.2f} (95% interval {_range(own)}); against two random pictures by {random.mean:.2f} ({_range(random)}). "
        "1 would mean that the same parts of a picture count whatever it is compared with.</p>"
        f"<p class=by>A region stands out if its interval lies above {LEAST_TIMES:g} times its area, of a group also above "
        f"{LEAST_TIMES:g} times what it is in all pictures; the {BACKGROUND} if it lies above its area. The intervals of a "
        f"table hold together. Seed {audit.seed}.</p>"
    )


def _range(interval: MeanInterval) -> str:
    return f"{interval.low:.2f} to {interval.high:.2f}"


def _percent(share: float) -> str:
    return f"{100 * share:.0f}%" if share >= 0.1 else f"{100 * share:.1f}%"


def _escaped(text: str) -> str:
    return html.escape(text.encode(errors="backslashreplace").decode())


def _source(picture: Image.Image) -> str:
    small = enlarged(np.asarray(picture.convert("RGB"))) if max(picture.size) > 300 else picture
    buffer = io.BytesIO()
    small.save(buffer, "PNG")
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()
