"""The folder of TensorRT's engines: each is built beside its place and put there when it is whole, with what was learnt
about the device's speed.

ONNX Runtime itself writes them under their final names: what a kill, or another process at the same time, left there it
would refuse at every load to come.
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
"""How the options of TensorRT's caches begin."""
DAMAGED = "could not deserialize engine"
"""What ONNX Runtime says of an engine that it cannot read."""

Open = Callable[[Path, tuple[str, ...]], T]
"""Opens a session with its caches in this folder, without the options that begin so."""


def kept_or_built(folder: Path, key: str, opened: Open[T], notice: Callable[[str], None]) -> T:
    """What `opened` gives with the engine folder/key: the one that is there, or one that is built now and put there.

    Where `folder` cannot be written the session is opened without caches. notice: told what will take long for a reason
    that the user can mend. Raises what `opened` does.
    """
    if any((folder / key).glob("*.engine")):
        try:
            return opened(folder, (TIMINGS,))
        except ProviderError as error:
            if DAMAGED not in str(error):
                raise
        notice(f"TensorRT cannot read its engine in {folder / key}: it is built anew")
    with contextlib.ExitStack() as stack:
        try:
            place = stack.enter_context(staging(folder))
        except OSError as error:
            notice(f"TensorRT's engines are not kept, and built at every load: {error}")
            return opened(folder, (ENGINES, TIMINGS))
        session = opened(place, ())
        with contextlib.suppress(OSError):  # the session is good: the next load builds again
            publish(place, folder, key)
        return session


@contextlib.contextmanager
def staging(folder: Path) -> Iterator[Path]:
    """A folder inside `folder`, with the timings that are known, that goes when the block ends. Raises OSError."""
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
            with contextlib.suppress(OSError):  # unless something is in it
                folder.rmdir()


def publish(place: Path, folder: Path, key: str) -> None:
    """Put an engine and the timings from a staging folder in their places; an engine that is there goes. Raises OSError."""
    with contextlib.suppress(FileNotFoundError):
        (folder / key).rename(place / f"{key}.old")
    (place / key).rename(folder / key)
    for timing in place.glob("timing-*"):
        (folder / timing.name).mkdir(exist_ok=True)
        for file in timing.iterdir():
            copy = Path(shutil.copyfile(file, place / file.name))
            copy.replace(folder / timing.name / file.name)
