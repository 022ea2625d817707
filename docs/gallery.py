"""Draws docs/gallery/*.png and writes docs/gallery.md: every method in both modes on the demo pairs.

Run `python -m docs.gallery` from the checkout root, with the packages of `.[cpu,lime]` installed.
"""

import io
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from engine import Explainer, Explanation
from engine.explainer import MODES
from engine.files import write_whole
from engine.methods import METHODS
from engine.render.matched_regions import reliability_text
from engine.render.png import draw_explanation, enlarged, heat_map

HERE = Path(__file__).parent
PICTURES = HERE.parent / "engine" / "data" / "pictures"
PAIRS = ("cat", "gesture", "couple")
CELL, GAP, LINE = 170, 10, 22

METHOD_WORDS = {
    "rise": "random masks; a pixel matters as far as pictures that show it are similar",
    "window": "one window hidden at a time; what lowers the similarity when hidden matters",
    "lime": "a linear model over superpixels shown or hidden; each superpixel is painted with its coefficient",
    "mask": "a coarse mask learned so that blurring what it hides lowers the similarity",
}

Explained = dict[tuple[str, str], Explanation]
"""By method and mode, of one pair."""


def main() -> None:
    explainer = Explainer()
    pairs = {name: explained(explainer, name) for name in PAIRS}
    for name, explanations in pairs.items():
        write_whole(HERE / "gallery" / f"{name}.png", small_png(sheet(explanations)))
    write_whole(HERE / "gallery" / "regions.png", small_png(draw_explanation(pairs[PAIRS[0]]["rise", "both"])))
    write_whole(HERE / "gallery.md", text(pairs).encode())


def explained(explainer: Explainer, name: str) -> Explained:
    """One pair by every method in every mode, with the methods' own settings."""
    query, reference = (PICTURES / f"{name}-{style}.png" for style in ("noto", "twemoji"))
    return {(m, mode): explainer.explain(query, reference, m, mode) for m in METHODS for mode in MODES}


def sheet(explanations: Explained) -> Image.Image:
    """A column per method after one of the pictures; rows: the query's map in each mode, the reference's in mode "both"."""
    first = next(iter(explanations.values()))
    assert first.reference_image is not None
    cells = {"": [enlarged(pixels) for pixels in (first.query_image, first.query_image, first.reference_image)]}
    for method in METHODS:
        fixed, both = explanations[method, "fixed"], explanations[method, "both"]
        assert both.reference_image is not None
        assert both.reference_saliency is not None
        cells[method] = [
            heat_map(fixed.query_image, fixed.saliency),
            heat_map(both.query_image, both.saliency),
            heat_map(both.reference_image, both.reference_saliency),
        ]
    rows = ("fixed: the query", "both: the query", "both: the reference")
    canvas = Image.new("RGB", (GAP + len(cells) * (CELL + GAP), LINE + len(rows) * (CELL + LINE + GAP)), "white")
    draw, font = ImageDraw.Draw(canvas), ImageFont.load_default(14)
    for column, (heading, panels) in enumerate(cells.items()):
        left = GAP + column * (CELL + GAP)
        draw.text((left, 3), heading, fill="black", font=font)
        for row, panel in enumerate(panels):
            top = LINE + row * (CELL + LINE + GAP)
            if column == 0:
                draw.text((left, top), rows[row], fill="#6e6e73", font=font)
            canvas.paste(panel.resize((CELL, CELL)), (left, top + LINE))
    return canvas


def small_png(picture: Image.Image) -> bytes:
    """With a palette of 256 colours, about a third of the size."""
    buffer = io.BytesIO()
    picture.quantize(256).save(buffer, "PNG", optimize=True)
    return buffer.getvalue()


def text(pairs: dict[str, Explained]) -> str:
    """gallery.md, every number in it from this run."""
    table = "\n".join(
        f"| {method} | {METHOD_WORDS.get(method, '')} | "
        + " | ".join(" / ".join(sorted({str(e[method, mode].passes) for e in pairs.values()})) for mode in MODES)
        + " |"
        for method in METHODS
    )
    pictures = "\n\n".join(
        f"### {name}\n\nSimilarity {e['rise', 'fixed'].similarity:.3f}.\n\n"
        f"![{name}: the heat maps of {', '.join(METHODS)} in modes {' and '.join(MODES)}](gallery/{name}.png)"
        for name, e in pairs.items()
    )
    reliabilities = "\n".join(f"- {name}: {reliability_text(e['rise', 'both'])}" for name, e in pairs.items())
    return f"""# Gallery

Written by `python -m docs.gallery`: the embedded demo (emoji, Google's drawing as query, Twitter's as reference), every
method with its own settings. Passes are network rows behind one explanation, the whole pictures included.

| method | what it does | passes, fixed | passes, both |
| --- | --- | --- | --- |
{table}

Mode `fixed` shows the reference whole and maps the query. Mode `both` masks the reference as well: the query's map is
against the mean of the masked references, and the reference gets a map of its own. Both pictures get the same masks or
windows here; the paper masks the reference more coarsely, and defines no such mode for LIME.

Colours run from the least to the most salient pixel of each map alone, so strengths cannot be compared between maps.
These maps are for looking at by eye: few pairs, picked for the demo, say nothing about which method is better.

{pictures}

## Regions that match

With `rise` in mode `both`, tiles of the two pictures are also matched with each other. The strongest pairs of tiles that
are each other's best match are numbered in the picture; in the `.html` page, pointing at a tile lights up all that it
matches. The split-half reliability compares what every other mask finds with what the rest find:

{reliabilities}

![The {PAIRS[0]} pair with numbered regions on both drawings](gallery/regions.png)
"""


if __name__ == "__main__":
    main()
