"""How close reliabilities from an index's records come to the direct ones, with what a record keeps, and with less.

    python -m benchmarks.index_reliability [--pictures N] [--masks N] [--out FILE]

Emoji on the demo network against their nearest ones, in a format and a basis as a build of all emoji takes. "as stored" is
what rows hold; "8 directions" keeps as much of the noise as larger bases do, and nothing of what storing took.
"""

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.index import emoji_folder
from benchmarks.record import circumstances
from engine import Explainer, Rise
from engine.files import write_whole
from engine.index import noise
from engine.index.algebra import MapAlgebra
from engine.index.building import HELD_OUT
from engine.index.codec import OperatorCodec, nearest
from engine.index.embeddings import ReferenceBasis
from engine.index.operators import OperatorFormat
from engine.index.sampling import EMBEDDED_AT_ONCE
from engine.saliency.regression import Regression
from engine.terminal import Bar, CommandParser, run_command, say

OUT = Path(__file__).parent / "results" / "index" / "reliability.json"
FORMAT = OperatorFormat(modes=36, basis=32, bits=4)
SEED = 0


def main(arguments: list[str] | None = None) -> int:
    """Run the command; return its exit status (see `engine.terminal`)."""
    return run_command(lambda: _run(_parser().parse_args(arguments)))


def _parser() -> CommandParser:
    parser = CommandParser(prog="python -m benchmarks.index_reliability", description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("--pictures", type=int, default=24, metavar="N", help="emoji that are prepared (default: %(default)s)")
    add("--masks", type=int, default=256, metavar="N", help="passes of each, about (default: %(default)s)")
    add("--out", type=Path, default=OUT, metavar="FILE", help="the row")
    return parser


def _run(options: argparse.Namespace) -> None:
    explainer, files = Explainer(provider="cpu", precision="fp32", threads=1), sorted(emoji_folder().iterdir())
    model = explainer.model
    starts = range(0, len(files), EMBEDDED_AT_ONCE)
    loaded = ([model.picture(file) for file in files[i : i + EMBEDDED_AT_ONCE]] for i in starts)
    features = model.reference_features(np.concatenate([model.embed(some) for some in loaded]), None)
    order = np.random.default_rng(SEED).permutation(len(files))
    size = model.manifest.embedding
    basis = ReferenceBasis.fitted(features[order[HELD_OUT:]], size, FORMAT)
    found: list[tuple[Regression, np.ndarray]] = []
    with Bar(False, "pictures", "picture") as bar:
        for i in order[: options.pictures]:
            prepared = explainer.prepare(files[i], Rise(masks=options.masks))
            assert prepared.fits is not None
            found.append((prepared.fits.regression(None), nearest(features[i], features, size)))
            bar.show(len(found), options.pictures)
    codec = OperatorCodec.of(FORMAT, basis, found[0][0].geometry)
    off = {"as stored": _off(codec, found)}
    noise.WHOLE_COLUMNS = 0
    off["8 directions"] = _off(codec, found, signal=False)
    row = {"pictures": options.pictures, "masks": options.masks, "precision": "fp32", "format": vars(FORMAT)}
    row |= {"off": off, "seed": SEED, **circumstances()}
    options.out.parent.mkdir(parents=True, exist_ok=True)
    write_whole(options.out, (json.dumps([row], indent=1) + "\n").encode())
    say(json.dumps(row))


def _off(codec: OperatorCodec, found: list[tuple[Regression, np.ndarray]], *, signal: bool = True) -> dict[str, Any]:
    """Return the bytes of a record's noise, and how far reliabilities are off. signal: with what storing took from it"""
    size, basis = codec.basis.size, codec.basis.basis
    algebra = MapAlgebra(codec, (len(codec.some.down), len(codec.some.across)), 1)
    kinds = [("operator", codec.kept.dtype(size)), ("noise", noise.noise_dtype(codec.kept.columns(size)))]
    off: list[float] = []
    for regression, references in found:
        stored, record = codec.stored(regression.weights), np.zeros(1, kinds)
        changed = codec.changed_form(regression.weights, stored) * signal
        record["operator"] = stored[0]
        record["noise"] = noise.MapNoise.of(regression, basis, size, changed).record()
        estimates = algebra.estimates(
            np.broadcast_to(record, len(references)), references, algebra.coefficients(record, references)
        )
        direct = regression.estimates(references)
        off += [abs((a.reliability or 0) - (b.reliability or 0)) for a, b in zip(estimates, direct, strict=True)]
    median, decile = np.quantile(off, [0.5, 0.9]).tolist()
    kept = kinds[1][1]
    left_out = 0 if signal else sum(kept[name].itemsize for name in ("lost", "signs", "lost_unit"))
    return {"bytes": kept.itemsize - left_out, "median": median, "ninth_decile": decile}


if __name__ == "__main__":
    raise SystemExit(main())
