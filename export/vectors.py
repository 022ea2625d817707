"""Attributes by vector: text embeddings, class means or directions of one's own become a bundle's attributes."""

from pathlib import Path

import numpy as np

from engine.attributes.table import AttributeTable
from engine.attributes.vectors import AttributeVectors
from engine.bundle import load_bundle
from engine.errors import OptionError, OutputError, shortened
from engine.npz import open_npz
from export.attribute_files import write_attributes
from export.probes import PROBE_THRESHOLD
from export.write import check_free


def export_vectors(
    bundle: Path, file: Path, *, confidence: str = "sigmoid", threshold: float = PROBE_THRESHOLD
) -> AttributeTable:
    """Write the attributes of a file of vectors into a bundle, in place of those it has; return them.

    file: .npz with `names` (A,) text, `vectors` (A, D) float of the embedding's size and, if wanted, `scale` and `bias`,
        each (A,) or one number: an attribute's score is scale * <unit embedding, vector> + bias, the vector as it is
    confidence: "sigmoid" (the default) or "softmax" of the scores, as the vectors' model was trained; threshold: lowest
        probability of an attribute that is named

    Raises an EngineError, and leaves the bundle as it was, if they do not fit.
    """
    bundle, file = Path(bundle), Path(file)
    check_free(bundle)
    before = load_bundle(bundle)
    if before.manifest.base.second_input is not None:
        raise OptionError(f"{bundle} takes two pictures and has no embedding: it can have no attributes by vector")
    arrays = _read(file)
    names = tuple(str(name) for name in np.atleast_1d(arrays["names"]))
    count, size = len(names), before.manifest.embedding
    vectors = arrays["vectors"]
    if vectors.dtype.kind not in "fiu" or vectors.shape != (count, size):
        raise OptionError(
            f"{file}: vectors must be numbers ({count}, {size}), a row for each of its names, as long as the bundle's "
            f"embedding; got {vectors.dtype} {vectors.shape}"
        )
    scale, bias = (_each(file, arrays, name, default, count) for name, default in (("scale", 1.0), ("bias", 0.0)))
    with np.errstate(over="ignore"):  # what float32 cannot hold is refused by AttributeVectors
        vectors, scale, bias = (array.astype(np.float32) for array in (vectors, scale, bias))
    made = AttributeVectors(vectors, scale, bias, confidence)
    table = AttributeTable(names, confidence, np.zeros(count, np.float32), threshold)
    write_attributes(before, table, None, made)
    return table


def _read(file: Path) -> dict[str, np.ndarray]:
    wanted, known = {"names", "vectors"}, {"names", "vectors", "scale", "bias"}
    try:
        with open_npz(file) as stored:
            if not wanted <= set(stored.names) <= known:
                got = shortened(", ".join(sorted(stored.names))) or "nothing"
                raise OptionError(f"{file} must hold names and vectors and, if wanted, scale and bias; got {got}")
            arrays = {name: stored.read(name) for name in stored.names}
    except OutputError as error:
        raise OptionError(str(error)) from error
    if arrays["names"].dtype.kind not in "US":
        raise OptionError(f'{file}: names must be text, got {arrays["names"].dtype}: numpy.array(["red", "round"])')
    return arrays


def _each(file: Path, arrays: dict[str, np.ndarray], name: str, default: float, count: int) -> np.ndarray:
    """Return one number for each attribute."""
    value = np.asarray(arrays.get(name, default))
    if value.dtype.kind not in "fiu" or value.shape not in ((), (1,), (count,)):
        raise OptionError(
            f"{file}: {name} must be one number or {count}, one for each name; got {value.dtype} {value.shape}"
        )
    return np.broadcast_to(value, (count,))
