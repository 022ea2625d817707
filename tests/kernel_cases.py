"""What the kernels of kernels/masks.cu are tested on: random pictures and plans, numpy's masks, and the comparison.

The kernels run on the CPU, compiled with the host shim in tests/cuda_host. `python -m tests.kernel_cases LIBRARY` runs the
cases of `FIXED` and exits with 1 at the first difference. It is a process of its own because sanitizers must be loaded
before Python.
"""

import ctypes
import dataclasses
import shutil
import struct
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from kernels.blend import blend
from kernels.driver import BLOCK_THREADS, THREAD_VALUES
from kernels.rank import RankRenderer
from kernels.rise import RiseRenderer, cell_size
from kernels.segments import SegmentRenderer
from kernels.window import WindowRenderer

KINDS = ("rise", "window", "segments", "rank")
HOST = Path(__file__).parent / "cuda_host"
SANITIZERS = ("-fsanitize=address,undefined,float-cast-overflow,float-divide-by-zero", "-fno-sanitize-recover=all", "-g")
UNTOUCHED = 0xA5
"""Every byte of the output before a kernel runs."""


def compiler() -> str | None:
    """Return the path of a C++ compiler, or None if there is none."""
    return shutil.which("g++") or shutil.which("clang++")


def host_library(folder: Path, flags: Sequence[str] = ("-O1",), source: Path | None = None) -> Path:
    """Compile masks.cu, or another `source`, to a library for ctypes. As in numpy, no multiply-add is fused."""
    library = folder / "kernels.so"
    given = [] if source is None else [f'-DSOURCE="{source}"']
    warnings = ["-Wall", "-Wextra", "-Werror", "-Wno-unknown-pragmas", "-Wno-missing-field-initializers"]
    fixed = ["-std=c++17", "-shared", "-fPIC", "-ffp-contract=off", *warnings, "-o", str(library)]
    subprocess.run([str(compiler()), *flags, *given, *fixed, str(HOST / "kern_host.cpp")], check=True)
    return library


def sanitized() -> dict[str, str] | None:
    """Return the environment variables under which Python can load a library built with `SANITIZERS`; None if it cannot."""
    command = [str(compiler()), "-print-file-name=libasan.so"]
    library = subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    if not Path(library).is_absolute():
        return None
    return {"LD_PRELOAD": library, "ASAN_OPTIONS": "detect_leaks=0"}  # Python itself leaks


@dataclasses.dataclass(frozen=True, eq=False)
class Case:
    """One launch of a kernel, and the masks that it should draw.

    picture, baseline: (C, H, W) or (H, W, C) float32; baseline None: a null pointer
    arguments: the kernel's own, after the common ones; masks: (first + count, H, W) float32, drawn by numpy
    shifted: names of the arrays that start 4 bytes after a multiple of 16 bytes; blocks: along x; None: as many as needed
    """

    kind: str
    picture: np.ndarray
    baseline: np.ndarray | None
    channels_last: bool
    first: int
    count: int
    arguments: tuple[np.ndarray | int, ...]
    masks: np.ndarray
    shifted: frozenset[str] = frozenset()
    blocks: int | None = None


def case(
    kind: str,
    seed: int,
    shape: tuple[int, int, int],
    channels_last: bool = False,
    hidden: bool = True,
    first: int = 0,
    count: int = 2,
    grid: int = 8,
    shifted: frozenset[str] = frozenset(),
    blocks: int | None = None,
) -> Case:
    """Draw a random picture of (C, H, W) = `shape` and a random plan of first + count masks.

    hidden: whether there is a baseline; grid: cells a side of RISE's grid, or number of segments
    """
    random, masks_in_all = np.random.default_rng(seed), first + count
    channels, height, width = shape
    renderer = _renderer(kind, random, masks_in_all, height, width, grid)
    drawn = np.empty((masks_in_all, height, width), np.float32)
    renderer.masks(0, masks_in_all, drawn)
    whole = (height, width, channels) if channels_last else shape
    picture, baseline = random.normal(size=(2, *whole)).astype(np.float32)
    arguments = renderer.kernel_plan().arguments
    return Case(kind, picture, baseline if hidden else None, channels_last, first, count, arguments, drawn, shifted, blocks)


def _renderer(
    kind: str, random: np.random.Generator, count: int, height: int, width: int, grid: int
) -> RiseRenderer | WindowRenderer | SegmentRenderer | RankRenderer:
    if kind == "rise":
        cells = (cell_size(height, grid), cell_size(width, grid))
        return RiseRenderer(random.random((count, grid, grid)) < 0.5, random.integers(0, cells, (count, 2)), height, width)
    if kind == "window":
        columns = 1 + grid % 3
        rows = -(-count // columns)
        tops, lefts = (np.arange(n) * random.integers(1, 4) - random.integers(0, 4) for n in (rows, columns))
        return WindowRenderer(tops, lefts, (int(random.integers(1, 9)), int(random.integers(1, 9))), height, width)
    if kind == "segments":
        return SegmentRenderer(random.integers(0, grid, (height, width)), random.random((count, grid)) < 0.5)
    ranks = random.permutation(height * width).reshape(height, width)
    return RankRenderer(ranks, random.integers(0, height * width + 1, count), random.random(count) < 0.5)


class Host:
    """The kernels of a host library. Each is launched as a driver would, with a packed buffer of arguments."""

    def __init__(self, library: Path | str) -> None:
        self.library = ctypes.CDLL(str(library))

    def rows(self, case: Case, spare: int = 0) -> np.ndarray:
        """Return what the kernel writes: (count, ...) float32, and `spare` further rows that it must not touch."""
        shape = case.picture.shape
        channels, height, width = (shape[2], *shape[:2]) if case.channels_last else shape
        kept: list[np.ndarray] = []  # until the kernel has run

        def pointer(array: np.ndarray | None, name: str = "") -> np.uint64:
            if array is None:
                return np.uint64(0)
            kept.append(_placed(array, name in case.shifted))
            return np.uint64(kept[-1].ctypes.data)

        untouched = np.full((case.count + spare, *shape), UNTOUCHED * 0x01010101, np.uint32)
        out = _placed(untouched.view(np.float32), "out" in case.shifted)
        packed = _packed(
            pointer(case.picture, "picture"),
            pointer(case.baseline, "baseline"),
            np.uint64(out.ctypes.data),
            *(case.first, case.count, channels, height, width, int(case.channels_last)),
            *(value if isinstance(value, int) else pointer(value) for value in case.arguments),
        )
        blocks = -(-height * width // (BLOCK_THREADS * THREAD_VALUES)) if case.blocks is None else case.blocks
        # one row of blocks too many, as in a launch for a whole batch: the kernel must not write that row
        launch, threads = (ctypes.c_uint * 3)(blocks, case.count + 1, 1), (ctypes.c_uint * 3)(BLOCK_THREADS, 1, 1)
        getattr(self.library, f"host_{case.kind}")(launch, threads, packed, ctypes.c_size_t(len(packed)))
        return out

    def masks(self, case: Case) -> np.ndarray:
        """Return the masks, (count, H, W) float32: what the kernel makes of a picture of ones without a baseline."""
        ones = np.ones((1, *case.masks.shape[1:]), np.float32)
        plain = dataclasses.replace(case, picture=ones, baseline=None, channels_last=False, shifted=frozenset())
        return self.rows(plain)[:, 0]


def _placed(array: np.ndarray, shifted: bool) -> np.ndarray:
    """Copy an array to the very end of its memory, so that AddressSanitizer notices reads and writes after it."""
    before = 4 if shifted else 0
    memory = np.empty(before + array.nbytes, np.uint8)
    if memory.ctypes.data % 16:
        raise RuntimeError("memory does not start at a multiple of 16 bytes")
    placed = memory[before:].view(array.dtype).reshape(array.shape)
    placed[...] = array
    return placed


def _packed(*values: int | np.uint64) -> bytes:
    """Pack arguments as C does. int: 4 bytes; uint64: a pointer, 8 bytes at a multiple of 8."""
    buffer = b""
    for value in values:
        wide = isinstance(value, np.uint64)
        buffer += bytes(-len(buffer) % 8 if wide else 0) + struct.pack("<Q" if wide else "<i", int(value))
    return buffer


def numpy_rows(case: Case, masks: np.ndarray) -> np.ndarray:
    """Return the picture as numpy shows it through `masks` (count, H, W) float32: (count, ...) float32."""
    baseline = np.zeros_like(case.picture) if case.baseline is None else case.baseline
    out = np.empty((case.count, *case.picture.shape), np.float32)
    blend(case.picture, baseline, masks, case.channels_last, out)
    return out


def difference(host: Host, case: Case, spare: int = 0) -> str | None:
    """Compare a kernel with numpy: the masks to 1e-6 and, given the masks, every bit of the output.

    Return what differs, or None.
    """
    masks = host.masks(case)
    worst = np.abs(masks - case.masks[case.first : case.first + case.count]).max(initial=0)
    if not worst <= 1e-6:
        return f"{case.kind}: masks differ by {worst}"
    rows = host.rows(case, spare)
    if not np.array_equal(rows[: case.count].view(np.uint32), numpy_rows(case, masks).view(np.uint32)):
        return f"{case.kind}: the output differs from numpy's, given the same mask"
    if (rows[case.count :].view(np.uint8) != UNTOUCHED).any():
        return f"{case.kind}: wrote after its last row"
    return None


FIXED = [
    *(case(kind, 0, (3, 16, 16), channels_last=last, first=2, count=2) for kind in KINDS for last in (False, True)),
    *(case(kind, 1, (2, 9, 7), channels_last=last, hidden=False, count=3) for kind in KINDS for last in (False, True)),
    *(case("rise", 2, (1, 21, 34), grid=grid, first=1, count=3) for grid in (1, 2, 3, 7, 9, 12, 37, 64)),
    case("segments", 3, (1, 8, 24), grid=130),
    *(case("rank", 5, (3, 8, 16), shifted=frozenset([name])) for name in ("picture", "baseline", "out")),
    case("rise", 6, (3, 40, 40), blocks=1),
    case("window", 7, (1, 24, 24), first=10, count=14),  # windows with all four edges inside the picture
]
"""Small, and enough to catch every mutant of tests/kernel_mutants.py."""


def main(library: str) -> int:
    """Return the exit status."""
    host = Host(library)
    found = next((text for text in (difference(host, one) for one in FIXED) if text), None)
    print(found or f"{len(FIXED)} cases agree")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
