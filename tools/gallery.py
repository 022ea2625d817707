"""Draw docs/gallery/*.png and write docs/gallery.md: every method in both modes on the demo pairs.

Run `python -m tools.gallery` from the root of the checkout; it needs the packages of `.[cpu,lime]`.
"""

import argparse
import io
from collections.abc import Sequence
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from engine import Explainer, Explanation
from engine.files import write_whole
from engine.protocol import MODES
from engine.render.panels import enlarged, panels
from engine.render.png import draw_explanation
from engine.render.texts import links_text

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs"
PICTURES = ROOT / "engine" / "data" / "pictures"
PAIRS = ("cat", "gesture", "couple")
CELL, GAP, LINE = 170, 10, 22

METHOD_TEXTS = {  # of the methods that the demo has graphs for
    "rise": "random masks; a pixel matters if pictures that show it are more similar",
    "window": "one window hidden at a time; a region matters if hiding it lowers the similarity",
    "lime": "a linear model over superpixels shown or hidden; each superpixel is painted with its coefficient",
    "mask": "a coarse mask is learned: blurring what it hides lowers the similarity",
}

Explained = dict[tuple[str, str], Explanation]
"""The explanations of one pair, by method and mode."""


def main(arguments: Sequence[str] | None = None) -> None:
    argparse.ArgumentParser(prog="python -m tools.gallery", description=__doc__).parse_args(arguments)
    explainer = Explainer()
    pairs = {name: explained(explainer, name) for name in PAIRS}
    for name, explanations in pairs.items():
        write_whole(DOCS / "gallery" / f"{name}.png", small_png(sheet(explanations)))
    write_whole(DOCS / "gallery" / "regions.png", small_png(draw_explanation(pairs[PAIRS[0]]["rise", "pair"])))
    write_whole(DOCS / "gallery.md", text(pairs).encode())


def explained(explainer: Explainer, name: str) -> Explained:
    """Explain one pair by every method in every mode, with the methods' own settings."""
    query, reference = (PICTURES / f"{name}-{style}.png" for style in ("noto", "twemoji"))
    return {(m, mode): explainer.explain(query, reference, m, mode) for m in METHOD_TEXTS for mode in MODES}


def sheet(explanations: Explained) -> Image.Image:
    """Draw a column of pictures, then one a method; rows: the query's map in mode "fixed", then both maps of the others."""
    first = explanations["rise", "pair"]
    assert first.reference_image is not None
    query, reference = enlarged(first.query_image), enlarged(first.reference_image)
    cells = {"": [query, *[query, reference] * 2]}
    for method in METHOD_TEXTS:
        cells[method] = [map_ for mode in MODES for map_ in maps(explanations[method, mode])]
    rows = ("fixed: the query", "pair: the query", "pair: the reference", "both: the query", "both: the reference")
    canvas = Image.new("RGB", (GAP + len(cells) * (CELL + GAP), LINE + len(rows) * (CELL + LINE + GAP)), "white")
    draw, font = ImageDraw.Draw(canvas), ImageFont.load_default(14)
    for column, (heading, drawn) in enumerate(cells.items()):
        left = GAP + column * (CELL + GAP)
        draw.text((left, 3), heading, fill="black", font=font)
        for row, panel in enumerate(drawn):
            top = LINE + row * (CELL + LINE + GAP)
            if column == 0:
                draw.text((left, top), rows[row], fill="#5f5f64", font=font)
            canvas.paste(panel.resize((CELL, CELL)), (left, top + LINE))
    return canvas


def maps(explanation: Explanation) -> list[Image.Image]:
    """Return the maps of an explanation as they are drawn, the query's first."""
    return [panel.drawn() for panel in panels(explanation) if panel.layer is not None]


def small_png(picture: Image.Image) -> bytes:
    """Return a PNG file with a palette of 256 colours, about a third of the size."""
    buffer = io.BytesIO()
    picture.quantize(256).save(buffer, "PNG", optimize=True)
    return buffer.getvalue()


def text(pairs: dict[str, Explained]) -> str:
    """Return gallery.md, with every number from this run."""
    table = "\n".join(
        f"| {method} | {METHOD_TEXTS[method]} | "
        + " | ".join(" / ".join(sorted({str(e[method, mode].passes) for e in pairs.values()})) for mode in MODES)
        + " |"
        for method in METHOD_TEXTS
    )
    pictures = "\n\n".join(
        f"### {name}\n\nSimilarity {e['rise', 'fixed'].similarity:.3f}.\n\n"
        f"![{name}: the heat maps of {', '.join(METHOD_TEXTS)} in modes {' and '.join(MODES)}](gallery/{name}.png)"
        for name, e in pairs.items()
    )
    linked = "\n".join(f"- {name}: {links_text(e['rise', 'pair'])}" for name, e in pairs.items())
    return f"""# Gallery

[Index](README.md) · [method](method.md) · [which maps are faithful](evaluation.md)

Every method on the embedded demo: Google's drawing of an emoji is the query, Twitter's the reference. Each method has
its default settings. The passes of an explanation are the network rows behind it, the whole pictures included.
`python -m tools.gallery` writes this page.

| method | what it does | passes, {" | passes, ".join(MODES)} |
| --- | --- |{" --- |" * len(MODES)}
{table}

Mode `fixed` shows the reference whole and maps the query. Mode `pair` maps both pictures, each against the other
shown whole. Mode `both`, the paper's, masks the partner too: each map is against the mean of the masked partners.
Both pictures get the same masks or windows here; the paper masks the reference more coarsely, and defines no such
mode for LIME ([method](method.md#both-pictures-masked)).

Maps of `rise` are in units of similarity: red raises it, blue with hatching lowers it, and where a map is within its
error it is dotted. The other methods have scores of their own, above the least of each map. The maps of one
explanation share their scale; those of different methods do not. These maps are only for looking at: a few pairs,
picked for the demo, do not show which method is better.

{pictures}

## Regions that match

With `rise`, modes `pair` and `both` also match regions of the two pictures ([method](method.md#links)). The picture
numbers and joins those that match reliably; a wider line is a stronger link. In the `.html` page, pointing at a tile
lights up the tiles that it matches.

{linked}

![The {PAIRS[0]} pair with numbered regions on both drawings](gallery/regions.png)
"""


if __name__ == "__main__":
    main()
