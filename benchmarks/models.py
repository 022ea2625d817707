"""Every family of models at the first try: exported, compared with the library's own pipeline, explained once.

    pip install '.[cpu,hf,timm]' scikit-image scikit-learn
    python -m benchmarks.models [--only NAME ...] [--small] [--check] [--gradient] [--quantize] [--out rows.json]

Each model is built from its configuration with seeded random weights (`benchmarks.model_families`). A row of results has
    export_s, export_peak_mb   of `python -m export similarity`, wall seconds and resident memory
    least_cosine               of `Explainer.embed` against the library's own pictures and model, over 24 pictures
    least_centred_cosine       the same after the mean of the 24 is taken off, which random networks share
    neighbours                 pictures of 24 that keep their nearest neighbour
    explain_cpu_s, explain_peak_mb, passes   of one explanation at defaults, in a process of its own
    gradient                   with --gradient: "accepted", or the line with which the export left it out; seconds, memory
    quantize                   with --quantize: the precision that auto takes then, and why; its seconds
or `error`, the line with which one of these failed.
"""

import argparse
import importlib.metadata
import importlib.util
import json
import re
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from benchmarks.model_families import FAMILIES, Built
from benchmarks.peak import measured
from benchmarks.pictures import OTHER_PHOTOS, PHOTOS, photo
from benchmarks.record import circumstances
from benchmarks.settings import chosen_names
from engine import Explainer
from engine.terminal import CommandParser, notice, run_command, say

LIBRARIES = ("torch", "transformers", "timm")
LEAST_COSINE = 0.9999
PICTURES = 24
"""14 photos, and parts of them in other proportions."""
PARTS = ((0.1, 0.2, 0.7, 0.6), (0.0, 0.0, 0.45, 1.0), (0.3, 0.1, 1.0, 0.5))
"""left, top, right and bottom of a part, as shares of the photo's width and height."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; return its exit status (see `engine.terminal`)."""
    return run_command(lambda: _run(_parser().parse_args(arguments)))


def _parser() -> CommandParser:
    parser = CommandParser(prog="python -m benchmarks.models", description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("--only", nargs="+", default=[], metavar="NAME", help=f"families (default: all): {', '.join(FAMILIES)}")
    add("--small", action="store_true", help="fewer layers, and no explanation")
    add("--check", action="store_true", help="end with status 1 if a family fails or its embeddings are not the library's")
    add("--gradient", action="store_true", help="export with --gradient, too")
    add("--quantize", action="store_true", help="quantize on the 24 pictures, too: up to ten minutes each")
    add("--out", type=Path, metavar="FILE", help="write the rows as JSON; rows of other families there are kept")
    add("--keep", type=Path, metavar="DIR", help="keep the bundles in this folder")
    return parser


def _run(options: argparse.Namespace) -> None:
    names = chosen_names(options.only, list(FAMILIES))
    pictures = sample_pictures()
    for name in names:
        with tempfile.TemporaryDirectory() as folder:
            kept = Path(folder) / "bundle" if options.keep is None else options.keep / name
            kept.parent.mkdir(parents=True, exist_ok=True)
            row = {"model": name, **_row(name, Path(folder), kept, pictures, options)}
        say(json.dumps(row))
        if options.out is not None:
            save_rows(options.out, [row])
        if options.check and not passes(row):
            notice(f"{name} does not get in as its own library sees it")
            raise SystemExit(1)


def passes(row: dict[str, Any]) -> bool:
    """Whether a model was exported, and its embeddings are the library's own."""
    same = row.get("least_cosine", 0) >= LEAST_COSINE and row.get("neighbours") == row.get("pictures")
    return same and "error" not in row


def _row(
    name: str, folder: Path, bundle: Path, pictures: Sequence[Image.Image], options: argparse.Namespace
) -> dict[str, Any]:
    """Return one family's figures, or the line with which it failed."""
    row: dict[str, Any] = {"small": options.small}
    try:
        built = FAMILIES[name](folder, options.small, pictures)
        row |= exported(built, bundle) | compared(built, bundle, pictures)
        if not options.small:
            row |= explained(bundle, folder, pictures)
        if options.gradient:
            row |= with_gradient(built, folder / "with-gradient")
        if options.quantize:
            row |= quantized(bundle, folder / "pictures", pictures)
    except Exception as error:  # a family that fails is a row, whatever it raises
        notice(f"{name}: {error}")
        row["error"] = f"{type(error).__name__}: {str(error).splitlines()[0]}"
    return (
        row
        | circumstances()
        | {name: importlib.metadata.version(name) for name in LIBRARIES if importlib.util.find_spec(name)}
    )


def exported(built: Built, bundle: Path) -> dict[str, Any]:
    """Export a model by the command line."""
    lines, took = measured("export.commands", ["similarity", *built.options, "--out", bundle.resolve()], built.folder)
    weights = sum(path.stat().st_size for path in bundle.glob("similarity*"))
    return {
        "said": lines[0] if len(lines) > 1 else "",
        "export_s": round(took["wall_s"], 1),
        "export_peak_mb": round(took["peak_bytes"] / 1e6),
        "weights_mb": round(weights / 1e6, 1),
    }


def compared(built: Built, bundle: Path, pictures: Sequence[Image.Image]) -> dict[str, Any]:
    """Compare the engine's embeddings with the library's own."""
    expected = np.concatenate([built.embed([picture]) for picture in pictures]).astype(np.float64)
    got = Explainer(bundle).embed(list(pictures)).astype(np.float64)
    mean = expected.mean(0)
    nearest = [_nearest(vectors) for vectors in (expected, got)]
    return {
        "embedding": expected.shape[1],
        "least_cosine": float(_cosines(expected, got).min()),
        "least_centred_cosine": float(_cosines(expected - mean, got - mean).min()),
        "neighbours": int((nearest[0] == nearest[1]).sum()),
        "pictures": len(pictures),
    }


def explained(bundle: Path, folder: Path, pictures: Sequence[Image.Image]) -> dict[str, Any]:
    """Explain one picture against another at defaults, in a new process."""
    files = [folder / "query.png", folder / "reference.png"]
    for path, picture in zip(files, pictures, strict=False):
        picture.save(path)
    lines, took = measured("engine.explain", [*files, "--bundle", bundle, "--quiet", "--out", folder / "why.png"])
    passes = re.search(r"after (\d+) passes", "\n".join(lines))
    return {
        "explain_cpu_s": round(took["cpu_s"], 1),
        "explain_peak_mb": round(took["peak_bytes"] / 1e6),
        "passes": int(passes[1]) if passes else None,
    }


def with_gradient(built: Built, bundle: Path) -> dict[str, Any]:
    """Export a model once more, with its gradient."""
    _, took = measured("export.commands", ["similarity", *built.options, "--gradient", "--out", bundle], built.folder)
    warnings = [line.removeprefix("warning: ") for line in took["notices"] if line.startswith("warning: ")]
    accepted = any(bundle.glob("gradient*"))
    return {
        "gradient": "accepted" if accepted else " ".join(warnings),
        "gradient_s": round(took["wall_s"], 1),
        "gradient_peak_mb": round(took["peak_bytes"] / 1e6),
    }


def quantized(bundle: Path, folder: Path, pictures: Sequence[Image.Image]) -> dict[str, Any]:
    """Add int8 for CPUs to a bundle; what auto takes then."""
    folder.mkdir()
    for number, picture in enumerate(pictures):
        picture.save(folder / f"{number:02}.png")
    lines, took = measured(
        "export.commands", ["quantize", bundle.resolve(), "--images", folder, "--targets", "cpu", "--quiet"]
    )
    explainer = Explainer(bundle)
    return {
        "quantize": explainer.precision,
        "quantize_reason": explainer.precision_reason,
        "quantize_said": lines[:-1],
        "quantize_s": round(took["wall_s"], 1),
    }


def sample_pictures() -> list[Image.Image]:
    """Return 24 pictures of many sizes and proportions."""
    photos = [photo(name) for name in (*PHOTOS, *OTHER_PHOTOS)]
    parts = [
        whole.crop((int(left * whole.width), int(top * whole.height), int(right * whole.width), int(bottom * whole.height)))
        for left, top, right, bottom in PARTS
        for whole in photos[::3]
    ]
    return [*photos, *parts][:PICTURES]


def save_rows(path: Path, rows: Sequence[dict[str, Any]]) -> None:
    """Write rows into a file, in place of those of the same models."""
    before = json.loads(path.read_text()) if path.is_file() else []
    new = {row["model"] for row in rows}
    kept = [row for row in before if row["model"] not in new]
    path.write_text(json.dumps([*kept, *rows], indent=1) + "\n")


def _cosines(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return (a * b).sum(1) / (np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1))


def _nearest(vectors: np.ndarray) -> np.ndarray:
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    similarity = unit @ unit.T
    np.fill_diagonal(similarity, -np.inf)
    return similarity.argmax(1)


if __name__ == "__main__":
    sys.exit(main())
