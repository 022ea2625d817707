"""What several test files use: the demo's pictures, small pictures made here, spies, and commands run as processes."""

import json
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from engine.bundle import SUMS, checksums
from engine.bundle.external_data import files_and_operators
from engine.pictures.preprocessing import Preprocessing
from engine.runtime.session import Session

ROOT = Path(__file__).parent.parent
DATA = Path(__file__).parent / "data"
PICTURES = ROOT / "engine" / "data" / "pictures"
IMAGENET = Preprocessing(112, 112, mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))

NAMES = ("cat", "bandage", "couple", "gesture")
"""What the demo's pictures show; two vendors drew each of them."""
VENDORS = ("noto", "twemoji")
CAT, BANDAGE, COUPLE, GESTURE = (tuple(PICTURES / f"{name}-{vendor}.png" for vendor in VENDORS) for name in NAMES)
LABELS = {
    "cat": "Animals & Nature;animal; animal-mammal",
    "bandage": "Objects;odd",
    "couple": "People & Body;love",
    "gesture": "People & Body;person",
}
"""Attributes of the demo's pictures. No bundle names "odd"."""


def write_demo_labels(folder: Path, grouped: bool = True) -> Path:
    """Copy the demo's eight pictures into a folder and write `labels.csv` about them there; returns the CSV's path."""
    lines = ["image,group,attributes" if grouped else "image,attributes"]
    for name in NAMES:
        for vendor in VENDORS:
            shutil.copy(PICTURES / f"{name}-{vendor}.png", folder)
            lines.append(",".join([f"{name}-{vendor}.png", *([name] if grouped else []), LABELS[name]]))
    (folder / "labels.csv").write_text("\n".join(lines) + "\n")
    return folder / "labels.csv"


def write_demo_pairs(folder: Path) -> Path:
    """Copy the demo's pictures into a folder and write `pairs.csv` with three pairs of them there; returns its path."""
    for path in PICTURES.glob("*.png"):
        shutil.copy(path, folder)
    lines = [f"{name}-noto.png,{name}-twemoji.png" for name in ("cat", "couple", "gesture")]
    (folder / "pairs.csv").write_text("\n".join(["query,reference", *lines]) + "\n")
    return folder / "pairs.csv"


def views_of(page: str) -> list[dict[str, Any]]:
    """The data that a page about explanations draws."""
    (block,) = re.findall(r'<script type="application/json" id="views">(.*?)</script>', page, re.DOTALL)
    found: list[dict[str, Any]] = json.loads(block)
    return found


def noise(height: int, width: int, seed: int = 0) -> np.ndarray:
    """Return a picture (height, width, 3) uint8 of independent random values."""
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)


def write_blurred(folder: Path, count: int, size: int) -> Path:
    """Write `count` different smooth pictures of size x size, 00.png and so on; returns the folder."""
    random = np.random.default_rng(0)
    for i in range(count):
        small = Image.fromarray(random.integers(0, 256, (5, 5, 3), dtype=np.uint8))
        small.resize((size, size), Image.Resampling.BICUBIC).save(folder / f"{i:02}.png")
    return folder


def write_broken(folder: Path) -> dict[str, Path]:
    """Write files that are no picture into a folder; returns their paths by what is wrong with them."""
    files = {name: folder / f"{name}.png" for name in ("text", "empty", "truncated", "huge", "missing")}
    files["text"].write_text("hello, I am text")
    files["empty"].write_bytes(b"")
    Image.fromarray(noise(200, 200)).save(folder / "whole.jpg")
    files["truncated"].write_bytes((folder / "whole.jpg").read_bytes()[:9000])
    Image.new("1", (50_000, 50_000)).save(files["huge"])
    files["folder"] = folder
    return files


def copy_bundle(bundle: Path, folder: Path) -> Path:
    """Copy a bundle to a new folder, where it may be changed; returns that folder."""
    return Path(shutil.copytree(bundle, folder))


def seal(bundle: Path) -> None:
    """Write the checksums of a bundle's files anew, after a change that loading must not take for damage."""
    (bundle / SUMS).write_text(checksums(bundle))


class Trap:
    """Makes a folder when it is unpickled without care."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.folder),)


def count_rows(monkeypatch: pytest.MonkeyPatch, *kinds: type) -> list[int]:
    """Return a list to which every run of a session from now on adds its number of rows.

    kinds: classes of sessions (default: `Session`)
    """
    rows: list[int] = []
    for kind in kinds or (Session,):
        run = kind.run  # type: ignore[attr-defined]

        def spied(self: Any, batch: np.ndarray, *more: Any, run: Any = run) -> Any:
            rows.append(len(batch))
            return run(self, batch, *more)

        monkeypatch.setattr(kind, "run", spied)
    return rows


def external_files(model: bytes) -> set[str]:
    """Return the files in which a serialised graph keeps tensors."""
    return files_and_operators(model)[0]


def python(*arguments: str | Path, **options: Any) -> "subprocess.CompletedProcess[str]":
    """Run Python in a process of its own that can import this checkout. Its output is captured as text.

    options: of `subprocess.run`; `env` adds to the environment
    """
    environment = {**os.environ, "PYTHONPATH": str(ROOT), **options.pop("env", {})}
    streams = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **options}
    return subprocess.run([sys.executable, *arguments], text=True, check=False, env=environment, **streams)


def error_line(capsys: pytest.CaptureFixture[str]) -> str:
    """Return the one line that a failed command printed, after argparse's usage if it is an error of argparse's."""
    printed = capsys.readouterr()
    assert printed.out == ""
    lines = printed.err.splitlines()
    faults = [line for line in lines if "error: " in line]
    assert faults == lines[-1:], printed.err
    assert len(lines) == 1 or lines[0].startswith("usage: "), printed.err
    return faults[0]


def exit_status(main: Any, arguments: list[str]) -> int:
    """Return the exit status of a command's `main`, also if argparse ends it."""
    try:
        return int(main(arguments))
    except SystemExit as error:
        return int(error.code or 0)


def until(true: Callable[[], bool]) -> None:
    """Wait until something is true."""
    for _ in range(3000):
        if true():
            return
        time.sleep(0.01)
    pytest.fail("it never came true")
