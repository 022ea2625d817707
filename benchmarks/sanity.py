"""Can the maps be trusted? `python -m engine.evaluate --sanity` on three networks, a row for each and each method.

    python -m benchmarks.networks mobilenet vit     # once; vit trains for some minutes
    python -m benchmarks.sanity [NETWORK ...] [--methods M,M] [--out FILE]

demo        the embedded network on held-out emoji, one vendor's drawing against the other's
mobilenet   MobileNetV2, 112 x 112, on crops of photos, each against the most similar other crop
vit         a small vision transformer trained here on emoji, on the same emoji

The reports are kept below .cache/benchmarks/sanity, with a page each. `python -m tools.sanity` writes docs/sanity.md.
"""

import argparse
import json
from pathlib import Path
from typing import Any

from benchmarks import record
from benchmarks.emoji_pairs import write_pairs
from benchmarks.networks import made
from benchmarks.pictures import queries
from benchmarks.record import CACHE, COMMITTED, circumstances
from benchmarks.settings import chosen_names
from engine import Explainer
from engine.errors import EngineError
from engine.evaluate import sanity
from engine.evaluate.options import names_of
from engine.files import write_whole
from engine.terminal import CommandParser, run_command, say

OUT = COMMITTED / "sanity.json"
MASKS = 500
PAIRS = {"demo": 8, "mobilenet": 6, "vit": 8}
SEVERAL = tuple(name for name in sanity.SANITY_METHODS if name != "mask")
"""The methods for networks that are exported without a gradient."""


def main(arguments: list[str] | None = None) -> int:
    """Run the command; return its exit status (see `engine.terminal`)."""
    return run_command(lambda: _run(_parser().parse_args(arguments)))


def _parser() -> CommandParser:
    parser = CommandParser(prog="python -m benchmarks.sanity", description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("names", nargs="*", metavar="NETWORK", help=f"of {', '.join(PAIRS)} (default: all)")
    add(
        "--methods",
        type=names_of(sanity.SANITY_METHODS),
        metavar="M,M",
        help=f"of {','.join(sanity.SANITY_METHODS)} (default: all it can)",
    )
    add("--out", type=Path, default=OUT, metavar="FILE", help="the rows; others there stay")
    return parser


def _run(options: argparse.Namespace) -> None:
    for name in chosen_names(options.names, tuple(PAIRS)):
        for method in options.methods or (sanity.SANITY_METHODS if name == "demo" else SEVERAL):
            row = _row(name, method)
            kept = [r for r in record.read(options.out) if (r["network"], r["method"]) != (name, method)]
            record.write(options.out, sorted([*kept, row], key=_place))
            say(f"{name} {method}: " + ", ".join(f"{k} {v['verdict']}" for k, v in row["checks"].items()))


def _row(name: str, method: str) -> dict[str, Any]:
    folder = CACHE / "sanity" / name
    folder.mkdir(parents=True, exist_ok=True)
    report = folder / f"{method}.json"
    bundle = [] if name == "demo" else ["--bundle", str(made(name).bundle)]
    arguments = [str(_pairs(name, folder)), "--masks", str(MASKS), "--methods", method, "--out", str(report)]
    if sanity.main(["--sanity", *bundle, *arguments]):
        raise EngineError(f"the checks of {method} on {name} failed")
    found = json.loads(report.read_text())
    (result,) = found["results"]
    told = {key: found["settings"][key] for key in ("pairs", "layers", "seed", "precision")}
    return {"network": name, "method": method, "masks": MASKS, **told, "checks": result["checks"], **circumstances()}


def _pairs(name: str, folder: Path) -> Path:
    if name != "mobilenet":
        return write_pairs(PAIRS[name], CACHE / "sanity" / "emoji")
    lines = ["query,reference"]
    for number, query in enumerate(queries("photos", Explainer(made(name).bundle), PAIRS[name])):
        files = [f"{number}-query.png", f"{number}-reference.png"]
        for file, picture in zip(files, (query.picture, query.references[0]), strict=True):
            picture.save(folder / file)
        lines.append(",".join(files))
    write_whole(folder / "pairs.csv", ("\n".join(lines) + "\n").encode())
    return folder / "pairs.csv"


def _place(row: dict[str, Any]) -> tuple[int, int]:
    return list(PAIRS).index(row["network"]), sanity.SANITY_METHODS.index(row["method"])


if __name__ == "__main__":
    raise SystemExit(main())
