"""The npm packages of the emoji pair: fetched once with `npm pack`, and read from their archives."""

import contextlib
import io
import os
import subprocess
import tarfile
import tempfile
import zlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image

from engine.errors import OptionError
from engine.files import write_npz
from engine.npz import read_npz
from export.write import as_output_error

SIZE = 64
VENDORS = ("google", "twitter")
PACKAGES = {
    "google": ("emoji-datasource-google", "16.0.0"),
    "twitter": ("emoji-datasource-twitter", "16.0.0"),
    "tags": ("emojibase-data", "17.0.0"),
}


def fetch(cache: Path) -> dict[str, Path]:
    """Return the package archives in the folder `cache`, by the keys of PACKAGES; `npm pack` fetches missing ones.

    Raises OptionError if npm fails, OutputError if `cache` cannot be written.
    """
    archives = {key: cache / f"{name}-{version}.tgz" for key, (name, version) in PACKAGES.items()}
    for key, (name, version) in PACKAGES.items():
        if not archives[key].exists():
            with as_output_error(cache):
                cache.mkdir(parents=True, exist_ok=True)
                with tempfile.TemporaryDirectory(dir=cache) as folder:  # an archive appears complete or not at all
                    _npm_pack(f"{name}@{version}", folder, archives[key])
                    os.replace(Path(folder) / archives[key].name, archives[key])
    return archives


def _npm_pack(package: str, folder: str, wanted: Path) -> None:
    command = ["npm", "pack", "--silent", "--pack-destination", folder, package]
    try:
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    except (OSError, subprocess.CalledProcessError) as error:
        raise OptionError(
            f"npm is needed to fetch {package}, and `npm pack` failed ({error}): install npm, or put the archive at {wanted}"
        ) from error


@contextlib.contextmanager
def _opened_archive(archive: Path) -> Iterator[tarfile.TarFile]:
    """Open an archive; raises OptionError if it, or a file in it, cannot be read inside the block."""
    try:
        with tarfile.open(archive) as tar:
            yield tar
    except (OSError, EOFError, KeyError, tarfile.TarError, zlib.error) as error:
        raise OptionError(f"cannot read {archive} ({error}): delete it, and it will be fetched again") from error


def read_member(archive: Path, name: str) -> bytes:
    """Read a file from an archive; raises OptionError if it cannot be read."""
    with _opened_archive(archive) as tar:
        return _member(tar, name)


def _member(tar: tarfile.TarFile, entry: str | tarfile.TarInfo) -> bytes:
    handle = tar.extractfile(entry)
    if handle is None:
        raise tarfile.ReadError(f"{entry} in it is not a file")
    return handle.read()


def decoded_pictures(cache: Path, archives: dict[str, Path]) -> dict[str, tuple[np.ndarray, list[str]]]:
    """Return, for each vendor, pictures (P, 64, 64, 4) uint8 and their file names.

    Decoding 2 x 3,786 PNGs takes seconds, so the result is kept in a file.
    """
    result = {}
    for vendor in VENDORS:
        kept = cache / f"{vendor}-{SIZE}.npz"
        if not kept.exists():
            names, arrays = [], []
            with _opened_archive(archives[vendor]) as tar:
                for entry in tar:
                    if entry.name.startswith(f"package/img/{vendor}/{SIZE}/") and entry.name.endswith(".png"):
                        picture = Image.open(io.BytesIO(_member(tar, entry))).convert("RGBA")
                        names.append(Path(entry.name).name)
                        arrays.append(np.asarray(picture.resize((SIZE, SIZE)) if picture.width != SIZE else picture))
                if not arrays:
                    raise tarfile.ReadError(f"it holds no pictures of {SIZE} x {SIZE}")
            write_npz(kept, {"pictures": np.stack(arrays), "names": np.array(names)})
        data = read_npz(kept)
        result[vendor] = (data["pictures"], data["names"].tolist())
    return result
