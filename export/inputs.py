"""Read the small files that a user gives to the export: condition weights and attribute names."""

import re
from pathlib import Path

import numpy as np

from engine.bundle.manifest import Conditions
from engine.errors import OptionError, OutputError, shortened
from engine.npz import NpzFile, open_npz

CONDITION_WEIGHTS = "condition_weights"
CONDITION_NAMES = "condition_names"
NUMBERED_LINE = re.compile(r"\s*\d+\t(.*)")


def load_conditions(path: Path) -> Conditions:
    """Read condition weights (C, D), before relu, from an .npz file; raises OptionError if it does not hold them.

    They are the array `condition_weights`, or else the file's only 2-D floating-point array. The array `condition_names`
    (C,) of strings may name them; otherwise they are numbered.
    """
    try:
        with open_npz(path) as file:
            weights = file.read(_weights_key(path, file))
            if CONDITION_NAMES in file.names:
                names = file.read(CONDITION_NAMES).tolist()
            else:
                names = [str(i) for i in range(len(np.atleast_1d(weights)))]
    except OutputError as error:
        raise OptionError(str(error)) from error
    if weights.ndim != 2 or weights.dtype.kind != "f":
        raise OptionError(f"{path}: {CONDITION_WEIGHTS} must be floating-point (C, D), got {weights.dtype} {weights.shape}")
    if not isinstance(names, list) or len(names) != len(weights) or not all(isinstance(n, str) for n in names):
        raise OptionError(f"{path}: {CONDITION_NAMES} must be {len(weights)} strings, one per condition")
    with np.errstate(over="ignore"):  # what float32 cannot hold is refused by `Manifest`
        return Conditions(tuple(names), weights.astype(np.float32))


def load_names(path: Path) -> tuple[str, ...]:
    """Read names, one per line, without their numbers if every line is 'number<TAB>name' as in AwA's predicates.txt.

    Raises OptionError if the file cannot be read or is empty.
    """
    try:
        lines = [line for line in path.read_text(encoding="utf-8-sig").splitlines() if line.strip()]
    except UnicodeDecodeError as error:
        raise OptionError(f"{path} is not UTF-8 text ({error.reason})") from error
    except OSError as error:
        raise OptionError(f"cannot read {path}: {error.strerror or error}") from error
    if not lines:
        raise OptionError(f"{path} is empty; write one name on each line")
    numbered = [NUMBERED_LINE.fullmatch(line) for line in lines]
    return tuple(
        (match[1] if match and all(numbered) else line).strip() for match, line in zip(numbered, lines, strict=True)
    )


def _weights_key(path: Path, file: NpzFile) -> str:
    if CONDITION_WEIGHTS in file.names:
        return CONDITION_WEIGHTS
    headers = {name: file.header(name) for name in file.names}
    fitting = [name for name, header in headers.items() if len(header.shape) == 2 and header.dtype.kind == "f"]
    if len(fitting) != 1:
        found = shortened(", ".join(fitting)) or "none"
        raise OptionError(
            f"{path} must hold an array {CONDITION_WEIGHTS}, or exactly one 2-D floating-point array; found: {found}"
        )
    return fitting[0]
