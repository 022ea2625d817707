"""Write held-out emoji and a file of pairs for `python -m engine.evaluate`.

    python -m benchmarks.emoji_pairs [COUNT] [--out DIR]

The query is Google's drawing, the reference is Twitter's drawing of the same emoji. The file is pairs.csv.
"""

import argparse
from pathlib import Path

import numpy as np
from PIL import Image

from benchmarks import pictures
from engine.files import write_whole
from engine.pictures.loading import load_picture
from engine.protocol import require_whole
from engine.terminal import CommandParser, run_command, say
from export.write import as_output_error
from training.datasets import emoji as emoji_data

OUT = Path(".cache/benchmarks/pairs")


def main(arguments: list[str] | None = None) -> int:
    """Run the command; return its exit status (see `engine.terminal`)."""
    return run_command(lambda: _run(_parser().parse_args(arguments)))


def _parser() -> CommandParser:
    parser = CommandParser(prog="python -m benchmarks.emoji_pairs", description=__doc__.splitlines()[0])
    parser.add_argument("count", nargs="?", type=int, default=60, metavar="COUNT", help="pairs (default: %(default)s)")
    parser.add_argument("--out", type=Path, default=OUT, metavar="DIR", help="folder to write to (default: %(default)s)")
    return parser


def _run(options: argparse.Namespace) -> None:
    require_whole("COUNT", options.count, 1, 10**6)
    say(f"wrote {write_pairs(options.count, options.out)}")


def write_pairs(count: int, folder: Path) -> Path:
    """Write pictures and the file of pairs, and return the file. A larger count begins with the pairs of a smaller one."""
    data = emoji_data.load_pair(pictures.EMOJI)
    chosen = np.random.RandomState(pictures.SEED).permutation(data.held_out)[:count]
    with as_output_error(folder):
        folder.mkdir(parents=True, exist_ok=True)
    lines = ["query,reference"]
    for number, index in enumerate(chosen):
        names = [f"{number:03}-{vendor}.png" for vendor in ("noto", "twemoji")]
        for name, vendor in zip(names, ("google", "twitter"), strict=True):
            load_picture(Image.fromarray(data.pictures[vendor][data.base[index]])).save(folder / name)
        lines.append(",".join(names))
    file = folder / "pairs.csv"
    write_whole(file, ("\n".join(lines) + "\n").encode())
    return file


if __name__ == "__main__":
    raise SystemExit(main())
