"""Read the embeddings of an index that somebody made, and find the pictures that it names."""

import dataclasses
from pathlib import Path, PureWindowsPath

import numpy as np

from engine.errors import ImageError, OptionError, OutputError, shortened
from engine.npz import open_npz
from engine.pictures.folders import file_is_there, named_file, other_place, pictures_below
from engine.reference_vectors import read_embedding_file

EMBEDDINGS_KEY, FILES_KEY = "embeddings", "files"
_SAVE = "numpy.savez('index.npz', embeddings=embeddings, files=numpy.array(files)) writes both"


@dataclasses.dataclass(frozen=True, eq=False)
class IndexRows:
    """The rows of an index whose pictures were found.

    files: n of them; rows: (n,) int, their rows in `embeddings` (m, D) float64, which are all of the index
    """

    files: tuple[Path, ...]
    rows: np.ndarray
    embeddings: np.ndarray


def read_index(path: Path, images: Path, size: int) -> IndexRows:
    """Read an .npz with `embeddings` (m, D) and `files` (m,), or a .npy with embeddings of all pictures in sorted order.

    images: the folder that the names are below; absolute names count by their end, so that the folder may have moved
    size: D of the model to compare with
    Raises OptionError or ImageError if the file is something else, or no picture that it names is there.
    """
    named = path.suffix.lower() == ".npz"
    embeddings, listed = _read_arrays(path) if named else (read_embedding_file(str(path)), np.empty(0))
    if embeddings.ndim != 2 or embeddings.dtype.kind != "f" or not len(embeddings):
        raise OptionError(
            f"the embeddings of {path} must be floating-point (n, D), got {embeddings.dtype} {embeddings.shape}"
        )
    if embeddings.shape[1] != size:
        raise OptionError(
            f"the embeddings of {path} have {embeddings.shape[1]} numbers each, this bundle's have {size}: they are another "
            "network's, or another layer's; export that one"
        )
    with np.errstate(over="ignore"):
        bad = np.flatnonzero(~np.isfinite(embeddings.astype(np.float32)).all(1))
    if len(bad):
        raise OptionError(f"row {bad[0]} of the embeddings of {path} is not finite in float32: leave it out")
    if not images.is_dir():
        raise OptionError(f"there is no folder {images}")
    if not named:
        return _in_order(path, images, embeddings)
    names = _names(path, listed, len(embeddings))
    found = {row: file for row, name in enumerate(names) if (file := _find(images, name)) is not None}
    if not found:
        raise OptionError(
            f"none of the {len(names)} files that {path} names is below {images}; the first is {shortened(names[0])}"
            f"{other_place(images, names[0])}"
        )
    return IndexRows(tuple(found.values()), np.array(list(found)), embeddings.astype(np.float64))


def _in_order(path: Path, images: Path, embeddings: np.ndarray) -> IndexRows:
    files = pictures_below(images)
    if len(files) != len(embeddings):
        raise OptionError(
            f"{path} has {len(embeddings)} rows, and {images} has {len(files)} pictures: save the files' names too; {_SAVE}"
        )
    return IndexRows(tuple(files), np.arange(len(files)), embeddings.astype(np.float64))


def _read_arrays(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Return the two arrays of an .npz."""
    try:
        with open_npz(path) as file:
            for key in (EMBEDDINGS_KEY, FILES_KEY):
                if key not in file.names:
                    raise OptionError(
                        f"{path} has no array {key!r}, it has {shortened(', '.join(file.names)) or 'none'}: {_SAVE}"
                    )
            return file.read(EMBEDDINGS_KEY), file.read(FILES_KEY)  # arrays of other names are not read
    except OutputError as error:
        raise ImageError(f"{error}: {_SAVE}") from error


def _names(path: Path, files: np.ndarray, count: int) -> list[str]:
    if files.shape != (count,) or files.dtype.kind not in "US":
        got = f"{files.dtype} {files.shape}"
        raise OptionError(f"the array {FILES_KEY!r} of {path} must be {count} names, one per embedding, got {got}: {_SAVE}")
    return [name.decode(errors="replace") if isinstance(name, bytes) else name for name in files.tolist()]


def _find(images: Path, name: str) -> Path | None:
    """Return the picture that an index names: below `images`, or an absolute path, or one that goes on after the folder."""
    whole = named_file(images, name)  # an absolute path stays as it is
    if file_is_there(whole):
        return whole
    parts = PureWindowsPath(name).parts
    absolute = bool(PureWindowsPath(name).root)
    for start in range(1, len(parts)):
        if absolute or parts[start - 1] == images.resolve().name:
            path = named_file(images, "/".join(parts[start:]))
            if file_is_there(path):
                return path
    return None
