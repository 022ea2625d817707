"""What the kernels of kernels/masks.cu are tried on: pictures and plans at random, numpy's masks, and the comparison.

The kernels run on the CPU, compiled with the host shim in tests/cuda_host. `python -m tests.kernel_cases LIBRARY` tries
`FIXED` and exits 1 at the first difference: for builds with sanitizers, which must be loaded before Python.
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

from engine.methods.window import corners_aligned
from kernels.blend import blend
from kernels.rank import RankRenderer
from kernels.rise import RiseRenderer, cell_size
from kernels.segments import SegmentRenderer
from kernels.window import WindowRenderer

KINDS = ("rise", "window", "segments", "rank", "learned")
PER_THREAD = {"f32": 4, "f16": 8, "bf16": 8}
STORED = {"f32": np.uint32, "f16": np.uint16, "bf16": np.uint16}
HOST = Path(__file__).parent / "cuda_host"
SANITIZERS = ("-fsanitize=address,undefined,float-cast-overflow,float-divide-by-zero", "-fno-sanitize-recover=all", "-g")
UNTOUCHED = 0xA5
NANS = (0x7FC00000, 0xFFC00000, 0x7FFFFFFF, 0xFFFFFFFF)
"""As stored; rounded as a number the last two would become zeros."""
ROUNDED_NAN = 0x7FFF
"""The one that the kernels have in f16 and in bf16."""


def compiler() -> str | None:
    """A C++ compiler, if there is one."""
    return shutil.which("g++") or shutil.which("clang++")


def host_library(folder: Path, flags: Sequence[str] = ("-O1",), source: Path | None = None) -> Path:
    """The kernels, or those of another `source`, for ctypes. Numpy fuses no multiply-add, nor does the shim."""
    library = folder / "kernels.so"
    given = [] if source is None else [f'-DSOURCE="{source}"']
    warnings = ["-Wall", "-Wextra", "-Werror", "-Wno-unknown-pragmas", "-Wno-missing-field-initializers"]
    fixed = ["-std=c++17", "-shared", "-fPIC", "-ffp-contract=off", *warnings, "-o", str(library)]
    subprocess.run([str(compiler()), *flags, *given, *fixed, str(HOST / "kern_host.cpp")], check=True)
    return library


def sanitized() -> dict[str, str] | None:
    """What the environment of a Python that opens a library built with `SANITIZERS` needs, None where that cannot be."""
    command = [str(compiler()), "-print-file-name=libasan.so"]
    library = subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    if not Path(library).is_absolute():
        return None
    return {"LD_PRELOAD": library, "ASAN_OPTIONS": "detect_leaks=0"}  # Python's own leaks are no matter here


@dataclasses.dataclass(frozen=True, eq=False)
class Case:
    """image, baseline: (C, H, W) or (H, W, C) float32, one for every row of a learned mask; noise: theirs, or None

    arguments: those of the kernel's kind; masks: (first + count, H, W) float32 as numpy draws them; shifted: the arrays
    that start 4 bytes, or one value, after a multiple of 16 bytes; blocks: along x, None for as many as there is work for
    """

    kind: str
    image: np.ndarray
    baseline: np.ndarray | None
    noise: np.ndarray | None
    channels_last: bool
    first: int
    count: int
    arguments: tuple[np.ndarray | int | None, ...]
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
    nans: bool = False,
) -> Case:
    """A picture of (C, H, W) = `shape` and a plan of first + count masks at random; without `hidden` the baseline is zero.

    grid: cells a side of RISE's grid, segments, or cells a side of a learned mask; nans: the picture begins with some
    """
    random, masks_in_all = np.random.default_rng(seed), first + count
    channels, height, width = shape
    whole = (height, width, channels) if channels_last else shape
    noise: np.ndarray | None = None
    if kind == "learned":
        sides = 2 - masks_in_all % 2
        pairs = masks_in_all // sides
        learned = random.random((pairs, grid, grid * sides), np.float32)
        drawn = _learned_masks(learned, sides, height, width)
        noises = 1 if seed % 2 else pairs
        noise = random.normal(size=(sides, noises, *whole)).astype(np.float32) if seed % 4 < 3 else None
        whole = (masks_in_all, *whole)
        arguments: tuple[np.ndarray | int | None, ...] = (learned, grid, sides, pairs, noise, noises)
    else:
        renderer = _renderer(kind, random, masks_in_all, height, width, grid)
        drawn = np.empty((masks_in_all, height, width), np.float32)
        renderer.masks(0, masks_in_all, drawn)
        arguments = renderer.kernel_plan().arguments
    image, baseline = random.normal(size=(2, *whole)).astype(np.float32)
    if nans:
        image.view(np.uint32).flat[: len(NANS)] = NANS
    return Case(
        kind, image, baseline if hidden else None, noise, channels_last, first, count, arguments, drawn, shifted, blocks
    )


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


def _learned_masks(masks: np.ndarray, sides: int, height: int, width: int) -> np.ndarray:
    """(pairs, side, sides * side) -> (sides * pairs, H, W) float32, as engine/methods/learned_mask.py has them."""
    down, across = corners_aligned(height, masks.shape[1]), corners_aligned(sides * width, masks.shape[2])
    whole = (down @ masks.astype(np.float64) @ across.T).astype(np.float32)
    return np.concatenate(np.split(whole, sides, axis=2))


class Host:
    """The kernels of a host library, each launched as a driver would: a packed buffer of arguments."""

    def __init__(self, library: Path | str) -> None:
        self.library = ctypes.CDLL(str(library))

    def rows(self, case: Case, suffix: str, spare: int = 0) -> np.ndarray:
        """(count, ...), and `spare` further rows that no kernel may touch, in the stored type: uint32 or uint16."""
        shape = case.image.shape[case.kind == "learned" :]
        channels, height, width = (shape[2], *shape[:2]) if case.channels_last else shape
        kept: list[np.ndarray] = []  # until the kernel has run

        def pointer(array: np.ndarray | None, name: str) -> int:
            if array is None:
                return 0
            kept.append(_placed(array, name in case.shifted))
            return int(kept[-1].ctypes.data)

        filled = np.full((case.count + spare, *shape), UNTOUCHED * 0x01010101 & np.iinfo(STORED[suffix]).max, STORED[suffix])
        out = _placed(filled, "out" in case.shifted)
        packed = _packed(
            np.uint64(pointer(case.image, "image")),
            np.uint64(pointer(case.baseline, "baseline")),
            np.uint64(out.ctypes.data),
            *(case.first, case.count, channels, height, width, int(case.channels_last)),
            *(
                value if isinstance(value, int) else np.uint64(pointer(value, "noise" if value is case.noise else ""))
                for value in case.arguments
            ),
        )
        per_block = 256 * PER_THREAD[suffix]
        blocks = -(-height * width // per_block) if case.blocks is None else case.blocks
        # a row more than is to be written, as a launch for a whole batch has
        launch, threads = (ctypes.c_uint * 3)(blocks, case.count + 1, 1), (ctypes.c_uint * 3)(256, 1, 1)
        getattr(self.library, f"host_{case.kind}_{suffix}")(launch, threads, packed, ctypes.c_size_t(len(packed)))
        return out

    def masks(self, case: Case) -> np.ndarray:
        """(count, H, W) float32: what the kernel makes of a picture of ones and no baseline."""
        height, width = case.masks.shape[1:]
        ones = np.ones((len(case.masks), 1, height, width)[case.kind != "learned" :], np.float32)
        arguments = tuple(None if value is case.noise else value for value in case.arguments)
        plain = dataclasses.replace(
            case, image=ones, baseline=None, noise=None, channels_last=False, arguments=arguments, shifted=frozenset()
        )
        return self.rows(plain, "f32").view(np.float32)[:, 0]


def _placed(array: np.ndarray, shifted: bool) -> np.ndarray:
    """A copy that ends where its memory ends, for AddressSanitizer to see what lies behind; malloc starts at 16 bytes."""
    before = min(4, array.itemsize) if shifted else 0
    memory = np.empty(before + array.nbytes, np.uint8)
    if memory.ctypes.data % 16:
        raise RuntimeError("memory does not start at a multiple of 16 bytes")
    placed = memory[before:].view(array.dtype).reshape(array.shape)
    placed[...] = array
    return placed


def _packed(*values: int | np.uint64) -> bytes:
    """int: 4 bytes; uint64: a pointer, 8 bytes at a multiple of 8."""
    buffer = b""
    for value in values:
        wide = isinstance(value, np.uint64)
        buffer += bytes(-len(buffer) % 8 if wide else 0) + struct.pack("<Q" if wide else "<i", int(value))
    return buffer


def numpy_rows(case: Case, masks: np.ndarray, suffix: str) -> np.ndarray:
    """What numpy makes of the picture and `masks` (count, H, W) float32, rounded to nearest even, in the stored type."""
    part = slice(case.first, case.first + case.count)
    baseline = np.zeros_like(case.image) if case.baseline is None else case.baseline
    if case.kind == "learned":
        out = np.empty((case.count, *case.image.shape[1:]), np.float32)
        for row, picture, behind, mask in zip(out, case.image[part], baseline[part], masks, strict=True):
            blend(picture, behind, mask[None], case.channels_last, row[None])
        if case.noise is not None:
            pairs = len(case.masks) // len(case.noise)
            out += np.repeat(case.noise, pairs // case.noise.shape[1], axis=1).reshape(-1, *out.shape[1:])[part]
    else:
        out = np.empty((case.count, *case.image.shape), np.float32)
        blend(case.image, baseline, masks, case.channels_last, out)
    if suffix == "f16":
        with np.errstate(over="ignore"):  # infinity, as the kernel has it
            rounded = out.astype(np.float16).view(np.uint16)
    else:
        words = out.view(np.uint32)
        if suffix == "f32":
            return words
        rounded = ((words + 0x7FFF + (words >> 16 & 1)) >> 16).astype(np.uint16)
    rounded[np.isnan(out)] = ROUNDED_NAN
    return rounded


def _same(rows: np.ndarray, expected: np.ndarray) -> bool:
    """Bit by bit; of NaNs in f32, which processors choose, that they are there."""
    if rows.dtype == np.uint32:
        rows, expected = (np.where(np.isnan(r.view(np.float32)), np.uint32(NANS[0]), r) for r in (rows, expected))
    return np.array_equal(rows, expected)


def difference(host: Host, case: Case, spare: int = 0) -> str | None:
    """What a kernel does otherwise than numpy, or None: masks to 1e-6, and, given the mask, every bit of every type."""
    masks = host.masks(case)
    worst = np.abs(masks - case.masks[case.first : case.first + case.count]).max(initial=0)
    if not worst <= 1e-6:
        return f"{case.kind}: masks differ by {worst}"
    for suffix in PER_THREAD:
        rows = host.rows(case, suffix, spare)
        if not _same(rows[: case.count], numpy_rows(case, masks, suffix)):
            return f"{case.kind}_{suffix}: differs from numpy, given the same mask"
        if (rows[case.count :].view(np.uint8) != UNTOUCHED).any():
            return f"{case.kind}_{suffix}: wrote behind its last row"
    return None


FIXED = [
    *(case(kind, 0, (3, 16, 16), channels_last=last, first=2, count=2) for kind in KINDS for last in (False, True)),
    *(case(kind, 1, (2, 9, 7), channels_last=last, hidden=False, count=3) for kind in KINDS for last in (False, True)),
    *(case("rise", 2, (1, 21, 34), grid=grid, first=1, count=3) for grid in (1, 2, 3, 7, 9, 12, 37, 64)),
    case("segments", 3, (1, 8, 24), grid=130),
    *(
        case("learned", 4, (1, height, width), count=3, grid=grid)
        for height, width, grid in ((1, 1, 3), (1, 8, 1), (8, 1, 2))
    ),
    *(case("learned", 5, (3, 8, 16), shifted=frozenset([name])) for name in ("image", "baseline", "out", "noise")),
    case("rise", 6, (3, 40, 40), blocks=1),
    case("window", 7, (1, 24, 24), first=10, count=14),  # windows with all four edges inside the picture
    *(case("rank", 8, (2, 9, 8), hidden=hidden, nans=True) for hidden in (False, True)),
]
"""Small, and enough to tell every mutant of tests/kernel_mutants.py from the kernels."""


def main(library: str) -> int:
    """Exit status."""
    host = Host(library)
    found = next((said for said in (difference(host, one) for one in FIXED) if said), None)
    print(found or f"{len(FIXED)} cases agree")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
