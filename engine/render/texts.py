"""What a picture and a page say about an explanation, in words."""

import contextlib
import functools

from PIL import ImageFont

from engine.findings import Findings
from engine.saliency.steadiness import steadiness

HIDDEN = {
    "mean": "hidden parts in the mean colour",
    "black": "hidden parts in black",
    "white": "hidden parts in white",
    "blur": "hidden parts blurred",
}
NO_LINK = "no region matches reliably"
PLAIN_TRUST = {
    "steady": "Steady: other random masks would draw nearly the same map.",
    "fairly steady": "Fairly steady: the main parts would stay with other random masks; details might move.",
    "rough": "Rough: the strongest parts are a hint, details are chance; more passes would change them.",
    "faint": "Faint: what matters here is large, or there more than once: hiding one part leaves the rest.",
    "flat": "Flat: no part matters more than chance; read nothing into the colours.",
}
"""What the first words of `map_trust` mean, for a reader who knows no statistics."""
FONTS = ("DejaVuSans.ttf", "NotoSans-Regular.ttf", "Arial Unicode.ttf", "arial.ttf")
"""Fonts of machines that have more characters than the one that comes with Pillow, which has ASCII."""
INK = "#1c1c1e"
"""The colour of words."""
MISSING = "\ufffe"
"""A code that no font has: it is drawn as the sign for a missing character."""


def headline(explanation: Findings) -> str:
    """Return the title of an explanation: its similarity, and that to the reference it is told from."""
    other = explanation.rather_than_similarity
    return f"Similarity {explanation.similarity:.3f}" + ("" if other is None else f" rather than {other:.3f}")


def byline(explanation: Findings) -> str:
    """Return the line below the title: how the explanation was made."""
    condition = f", condition {explanation.condition}" if explanation.condition is not None else ""
    profiles = {"query": explanation.query_profile, "reference": explanation.reference_profile}
    coloured = "".join(f"; colour profile of the {which}: {text}" for which, text in profiles.items() if text is not None)
    hidden = HIDDEN.get(explanation.baseline, f"hidden parts: {explanation.baseline}")
    return (
        f"{explanation.method}, {explanation.passes} passes, {hidden}; {explanation.model.name} "
        f"({explanation.precision}, {explanation.provider}){condition}{coloured}"
    )


def query_map_text(explanation: Findings) -> str:
    """Return what the query's map shows."""
    return "what matters in the query" if explanation.rather_than_similarity is None else "what speaks for the reference"


def map_trust(explanation: Findings, *, of_reference: bool = False) -> str:
    """Return how far one of the maps can be trusted, with its reliability: "" where nothing tells."""
    e = explanation
    reliability = e.reference_saliency_reliability if of_reference else e.saliency_reliability
    saliency, error = (e.reference_saliency, e.reference_saliency_error) if of_reference else (e.saliency, e.saliency_error)
    partner = e.saliency if of_reference else e.reference_saliency
    return "" if saliency is None else steadiness(saliency, error, reliability, partner) or ""


def plain_trust(trust: str) -> str:
    """Return in a sentence what `map_trust` means; "" where it says nothing."""
    return next((text for word, text in PLAIN_TRUST.items() if trust.startswith(word)), "")


def links_text(explanation: Findings) -> str | None:
    """Return the caption of the links; None where regions were not matched."""
    if explanation.correspondence is None:
        return None
    if explanation.links is None:
        return "which regions match is not in this file of an older version: explain the pair again"
    if not explanation.links:
        few = explanation.correspondence_reliability is None
        return f"{NO_LINK}: too few masks to tell" if few else NO_LINK
    least, most = (f(link.reliability for link in explanation.links) for f in (min, max))
    between = f"{most:.2f}" if f"{least:.2f}" == f"{most:.2f}" else f"{least:.2f} to {most:.2f}"
    return f"equal numbers: regions that match, the strongest first (reliability {between})"


@functools.cache
def font(size: int) -> ImageFont.FreeTypeFont:
    """Return the font of pictures at a size in pixels."""
    found = ImageFont.load_default(size)
    assert isinstance(found, ImageFont.FreeTypeFont)
    return found


def font_of(text: str, size: int) -> ImageFont.FreeTypeFont:
    """Return the font of pictures, or one of the machine's if only that has all characters of the text."""
    if text.isascii():
        return font(size)
    for candidate in (font(size), *_fonts_of_the_machine(size)):
        if _has_all(candidate, text):
            return candidate
    return font(size)


def fitted(text: str, size: int, width: float) -> str:
    """Return a text, shortened with three dots until it is at most so wide in pixels."""
    chosen = font_of(text, size)
    if chosen.getlength(text) <= width:
        return text
    while text and chosen.getlength(text + "...") > width:
        text = text[:-1]
    return text.rstrip() + "..."


def drawable(name: str, number: int) -> str:
    """Return a name, or its number where no font has all of its characters: the page and JSON have it."""
    return name if _has_all(font_of(name, 16), name) else f"attribute {number} (its name is in the page)"


@functools.cache
def _fonts_of_the_machine(size: int) -> tuple[ImageFont.FreeTypeFont, ...]:
    found = []
    for file in FONTS:
        with contextlib.suppress(OSError):
            found.append(ImageFont.truetype(file, size))
    return tuple(found)


def _has_all(chosen: ImageFont.FreeTypeFont, text: str) -> bool:
    missing = bytes(chosen.getmask(MISSING))
    return all(c.isspace() or bytes(chosen.getmask(c)) != missing for c in set(text))
