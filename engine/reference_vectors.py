"""References given as embeddings: arrays, lists and tensors in Python, .npy and .npz files on the command line."""

import dataclasses
import re
import sys
import typing
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from engine.errors import ImageError, OutputError, first_line, shortened
from engine.npz import NPY, open_npz, read_npy
from engine.pictures.loading import ImageLike


@dataclasses.dataclass(frozen=True, eq=False)
class StoredReference:
    """A reference as an index stores it.

    embedding: D floating-point numbers, as `Explainer.embed` gives them
    confidences: (A,), a number in [0, 1] per attribute, as `Explainer.confidences` gives them; None: not stored
    """

    embedding: npt.ArrayLike
    confidences: npt.ArrayLike | None = None


ReferenceLike = ImageLike | npt.ArrayLike | StoredReference
"""A picture, or an embedding: D floating-point numbers in an array, a tensor or a list; or what an index stored."""

_PICTURES = tuple(typing.get_origin(kind) or kind for kind in typing.get_args(ImageLike))
_FILE_AND_KEY = re.compile(r"(.+?\.np[yz]):(.+)", re.IGNORECASE | re.DOTALL)

MOST_KEYS = 8
"""Arrays of a file that a message names."""


def as_vector(reference: ImageLike | npt.ArrayLike, size: int) -> np.ndarray | None:
    """Return a reference as an embedding, (size,) float32; None if it is a picture, or a path or an array to load as one.

    reference: an embedding is (size,) or (1, size) floating-point numbers: a numpy array, a torch tensor or another
        array that numpy can read, a list or a tuple (which may also have whole numbers)
    Raises ImageError if it is neither.
    """
    if not isinstance(reference, np.ndarray) and isinstance(reference, _PICTURES):
        return None
    array = reference if isinstance(reference, np.ndarray) else _read_array(reference, size)
    if isinstance(reference, np.ndarray) and array.dtype == np.uint8:
        return None
    listed = isinstance(reference, (list, tuple)) and array.dtype.kind in "iu"
    if array.shape not in ((size,), (1, size)) or not (array.dtype.kind == "f" or listed):
        several = array.ndim == 2 and len(array) > 1 and array.shape[1] == size
        advice = "; give each row as a reference of its own" if several else ""
        got = f"{type(reference).__name__} of {getattr(reference, 'dtype', array.dtype)}, shape {array.shape}"
        raise ImageError(f"{_wanted(size)}; got {got}{advice}")
    with np.errstate(over="ignore"):  # what float32 cannot hold is refused below
        vector = array.reshape(size).astype(np.float32)
    if not np.isfinite(vector).all():
        raise ImageError(f"a reference's embedding must be finite in float32; number {_first_bad(vector)} of it is not")
    return vector


def _wanted(size: int) -> str:
    return (
        "a reference must be a picture (a path, a PIL image or a uint8 array (H, W, 3)) or an embedding "
        f"(a float array, tensor or list of shape ({size},) or (1, {size}))"
    )


def _read_array(reference: object, size: int) -> np.ndarray:
    """Return what may be an embedding as an array. Raises ImageError if numpy cannot read it."""
    torch = sys.modules.get("torch")  # whoever has a tensor has imported it
    try:
        if torch is not None and isinstance(reference, torch.Tensor):
            values = reference.detach().cpu()
            values = values.float() if values.dtype == torch.bfloat16 else values  # numpy has no such type
            return np.asarray(values.numpy())
        if isinstance(reference, (list, tuple)) or hasattr(reference, "__array__"):
            return np.asarray(reference)
    except Exception as error:  # other people's arrays may raise anything; numpy does for rows of different lengths
        raise ImageError(
            f"{_wanted(size)}; got {type(reference).__name__} that is no array ({first_line(error)})"
        ) from error
    raise ImageError(f"{_wanted(size)}; got {type(reference).__name__}")


def read_embedding_file(given: str) -> np.ndarray:
    """Read the array of a .npy or .npz file, without executing anything in it; returns it as it is.

    given: the file's name, or FILE.npz:KEY for one of several arrays
    Raises ImageError.
    """
    path, key = _file_and_key(given)
    if not is_embedding_file(given):
        raise ImageError(f"cannot read embeddings from {path}: the name must end in .npy or .npz, as numpy.save writes them")
    try:
        if path.suffix.lower() == NPY:
            if key is not None:
                raise ImageError(f"{path} holds one array without a name: leave out :{key}")
            return read_npy(path)
        with open_npz(path) as file:
            return file.read(_chosen_key(path, key, file.names))  # arrays of other names are not read
    except OutputError as error:
        raise ImageError(str(error)) from error


def file_of(given: str) -> Path:
    """Return the file that a name, FILE or FILE.npz:KEY, is about."""
    return _file_and_key(given)[0]


def is_embedding_file(given: str) -> bool:
    """Whether a name, FILE or FILE:KEY, is that of a file of embeddings: it ends in .npy or .npz."""
    return file_of(given).suffix.lower() in (".npy", ".npz")


def _file_and_key(given: str) -> tuple[Path, str | None]:
    split = _FILE_AND_KEY.fullmatch(given)
    if split is None or Path(given).exists():
        return Path(given), None
    return Path(split[1]), split[2]


def _chosen_key(path: Path, key: str | None, keys: Sequence[str]) -> str:
    names = shortened(", ".join(keys[:MOST_KEYS])) + (", ..." if len(keys) > MOST_KEYS else "")
    if not keys:
        raise ImageError(f"{path} holds no array")
    if key is None:
        if len(keys) > 1:
            raise ImageError(f"{path} holds {len(keys)} arrays: name one of {names}, as in {path.name}:{shortened(keys[0])}")
        return keys[0]
    if key not in keys:
        raise ImageError(f"{path} has no array {key!r}: name one of {names}")
    return key


def named_vectors(given: str, array: np.ndarray, size: int) -> list[tuple[str, np.ndarray]]:
    """Return the embeddings (size,) float32 of an array that was read, with names: FILE, or FILE[row] for several rows.

    given: the file's name, as `read_embedding_file` takes it
    Raises ImageError if the array does not hold embeddings of this size.
    """
    wanted = f"an embedding of this model has {size} numbers"
    if array.dtype.kind != "f":
        raise ImageError(f"{wanted}, float16, float32 or float64; {given} holds {array.dtype}")
    if array.shape != (size,) and (array.ndim != 2 or array.shape[1] != size or not len(array)):
        raise ImageError(f"{wanted}, {given} holds {array.shape}: shape ({size},) or (n, {size}) is needed")
    with np.errstate(over="ignore"):
        rows = array.reshape(-1, size).astype(np.float32)
    path, key = _file_and_key(given)
    name = path.name if key is None else f"{path.name}:{key}"
    names = [name] if len(rows) == 1 else [f"{name}[{row}]" for row in range(len(rows))]
    for row, own in zip(rows, names, strict=True):
        if not np.isfinite(row).all():
            raise ImageError(f"{own} in {path.parent} is not finite in float32 at number {_first_bad(row)}: leave it out")
    return list(zip(names, rows, strict=True))


def _first_bad(vector: np.ndarray) -> int:
    return int(np.flatnonzero(~np.isfinite(vector))[0])
