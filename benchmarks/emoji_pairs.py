"""Held-out emoji as a file of pairs for `python -m engine.evaluate`: python -m benchmarks.emoji_pairs [COUNT] [--out DIR].

Google's drawing is the query, Twitter's of the same code point the reference. Writes pairs.csv and the pictures.
"""

import argparse
from pathlib import Path

import numpy as np
from PIL import Image

from benchmarks import pictures
from engine.pictures.loading import load_picture
from training.datasets import emoji as emoji_data

OUT = Path(".cache/benchmarks/pairs")


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.emoji_pairs", description=__doc__.splitlines()[0])
    parser.add_argument("count", nargs="?", type=int, default=60, help="pairs (default: %(default)s)")
    parser.add_argument("--out", type=Path, default=OUT, metavar="DIR", help="default: %(default)s")
    options = parser.parse_args(arguments)
    print(write_pairs(options.count, options.out))


def write_pairs(count: int, folder: Path) -> Path:
    """The file of pairs. The first ones stay the same for any count."""
    data = emoji_data.load(pictures.EMOJI)
    chosen = np.random.RandomState(pictures.SEED).permutation(data.held_out)[:count]
    folder.mkdir(parents=True, exist_ok=True)
    lines = ["query,reference"]
    for number, index in enumerate(chosen):
        names = [f"{number:03}-{vendor}.png" for vendor in ("noto", "twemoji")]
        for name, vendor in zip(names, ("google", "twitter"), strict=True):
            load_picture(Image.fromarray(data.pictures[vendor][data.base[index]])).save(folder / name)
        lines.append(",".join(names))
    file = folder / "pairs.csv"
    file.write_text("\n".join(lines) + "\n")
    return file


if __name__ == "__main__":
    main()
