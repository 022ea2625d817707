"""Pictures of catalogues in tests: the demo's, and smooth ones."""

import shutil
from pathlib import Path

from helpers import PICTURES, write_blurred


def write_catalogue(folder: Path, blurred: int = 0) -> Path:
    """Write the demo's eight pictures into two folders below `folder`, and some smooth ones beside them; returns it."""
    for picture in sorted(PICTURES.glob("*.png")):
        name, vendor = picture.stem.rsplit("-", 1)
        (folder / vendor).mkdir(parents=True, exist_ok=True)
        shutil.copy(picture, folder / vendor / f"{name}.png")
    return write_blurred(folder, blurred, 64) if blurred else folder
