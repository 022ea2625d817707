"""The folder of TensorRT's engines and kernel timings. An engine is built in a staging folder and moved in when complete.

ONNX Runtime itself writes engines under their final names: if it were killed, or two processes wrote at the same time, every
later load would fail on the damaged file.
"""

import contextlib
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

from engine.errors import ProviderError

T = TypeVar("T")

TIMINGS, ENGINES = "trt_timing_cache", "trt_engine_cache"
"""Beginnings of the names of TensorRT's cache options."""
DAMAGED = "could not deserialize engine"
"""ONNX Runtime's words for an engine that it cannot read."""

Open = Callable[[Path, tuple[str, ...]], T]
"""Called with (folder for the caches, beginnings of options to leave out); opens a session."""


def load_or_build(folder: Path, key: str, open_in: Open[T], notice: Callable[[str], None]) -> T:
    """Return `open_in`'s session with the engine in folder/key; if there is none, build it now and keep it there.

    If `folder` cannot be written, the session is opened without caches.
    notice: called with one line if building takes time for a reason that the user can fix
    Raises what `open_in` raises.
    """
    if any((folder / key).glob("*.engine")):
        try:
            return open_in(folder, (TIMINGS,))
        except ProviderError as error:
            if DAMAGED not in str(error):
                raise
        notice(f"TensorRT cannot read its engine in {folder / key}; building it again")
    with contextlib.ExitStack() as stack:
        try:
            place = stack.enter_context(staging(folder))
        except OSError as error:
            notice(f"TensorRT's engines cannot be kept, so every load builds them again: {error}")
            return open_in(folder, (ENGINES, TIMINGS))
        session = open_in(place, ())
        with contextlib.suppress(OSError):  # the session works; only the next load has to build again
            publish(place, folder, key)
        return session


@contextlib.contextmanager
def staging(folder: Path) -> Iterator[Path]:
    """Give a temporary folder inside `folder`, with copies of the known timings. Raises OSError."""
    new = not folder.exists()
    folder.mkdir(parents=True, exist_ok=True)
    place = Path(tempfile.mkdtemp(prefix=".building-", dir=folder)).resolve()
    try:
        for timing in folder.glob("timing-*"):
            shutil.copytree(timing, place / timing.name)
        yield place
    finally:
        shutil.rmtree(place, ignore_errors=True)
        if new:
            with contextlib.suppress(OSError):  # not empty: keep it
                folder.rmdir()


def publish(place: Path, folder: Path, key: str) -> None:
    """Move an engine and timings from a staging folder to their final places, replacing an older engine. Raises OSError."""
    with contextlib.suppress(FileNotFoundError):
        (folder / key).rename(place / f"{key}.old")
    (place / key).rename(folder / key)
    for timing in place.glob("timing-*"):
        (folder / timing.name).mkdir(exist_ok=True)
        for file in timing.iterdir():
            copy = Path(shutil.copyfile(file, place / file.name))
            copy.replace(folder / timing.name / file.name)
