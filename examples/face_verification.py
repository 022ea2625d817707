"""The same person, or not? Says what speaks for it and what against it, beside the threshold that decides.

    python examples/face_verification.py one.jpg two.jpg --bundle models/face --threshold 0.35

Each face is mapped against the other, in units of similarity, which are those of the threshold.
Red raises the similarity: why they may be the same. Blue lowers it: why they may not. Needs sane-engine[cpu], and two faces
that are aligned as your model wants them; --tolerance 0.99 runs more passes, for decisions near the threshold.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from engine import Explainer, Explanation
from engine.terminal import run_command, say

PARTS = 4
"""Rows and columns into which a face is cut to say where something is."""


def parts(explanation: Explanation, of_reference: bool = False) -> np.ndarray:
    """Return the map's means over PARTS x PARTS parts of a face, in units of similarity: above 0 for, below 0 against."""
    saliency = explanation.reference_saliency if of_reference else explanation.saliency
    assert saliency is not None  # mode "pair" maps both
    rows = np.array_split(saliency, PARTS, axis=0)
    return np.array([[part.mean() for part in np.array_split(row, PARTS, axis=1)] for row in rows])


def for_and_against(values: np.ndarray) -> tuple[str, str]:
    """Return which part speaks most for a match, and which most against it: it lowers the similarity, or helps least."""
    most, least = float(values.max()), float(values.min())
    against = "lowers it most" if least < 0 else "helps least"
    return f"raises it most: {place(values.argmax())}, {most:+.3f}", f"{against}: {place(values.argmin())}, {least:+.3f}"


def place(part: np.integer) -> str:
    row, column = divmod(int(part), PARTS)
    return f"row {row + 1}, column {column + 1} of {PARTS} x {PARTS}"


def verify(options: argparse.Namespace) -> None:
    found = Explainer(options.bundle).explain(options.one, options.two, mode="pair", tolerance=options.tolerance)
    margin = found.similarity - options.threshold
    accepted = margin >= 0
    side = "above" if accepted else "below"
    say(f"{'the same' if accepted else 'not the same'}: {found.similarity:.3f}, {abs(margin):.3f} {side} the threshold")
    for face, of_reference in ((options.one, False), (options.two, True)):
        reasons = for_and_against(parts(found, of_reference))
        for reason in reasons if accepted else reversed(reasons):  # why the decision is so comes first
            say(f"  {face.name} {reason}")
    found.save(options.out)
    say(f"wrote {options.out}")


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Verify two faces, and say what speaks for and against it.")
    add = parser.add_argument
    add("one", type=Path, metavar="FACE")
    add("two", type=Path, metavar="FACE")
    add("--bundle", type=Path, metavar="DIR", help="a face model of yours (default: the embedded demo, which knows emoji)")
    add("--threshold", type=float, required=True, metavar="T", help="the similarity from which your system accepts")
    add("--tolerance", type=float, metavar="R", help="how well the maps must correlate with their limit, such as 0.99")
    add("--out", type=Path, default=Path("faces.html"), metavar="FILE", help="(default: %(default)s)")
    options = parser.parse_args(arguments)
    return run_command(lambda: verify(options))


if __name__ == "__main__":
    sys.exit(main())
