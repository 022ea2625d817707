"""A search of your own in numpy; the index says why each of its results matched, and leaves their order alone.

    python examples/numpy_search.py CATALOGUE PICTURE

CATALOGUE is what `python -m engine.index build` made; PICTURE is one of its ids, or a file. Needs sane-engine[index].
"""

import sys
from collections.abc import Sequence

import numpy as np

from engine.index import Index
from engine.terminal import run_command, say

RESULTS = 5


def unit(vectors: np.ndarray) -> np.ndarray:
    """Return rows of length 1."""
    return vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)


def main(arguments: Sequence[str]) -> None:
    """Search, and explain what was found."""
    catalogue, query = arguments
    index = Index.open(catalogue)
    ids = index.ids
    vectors = unit(index.embeddings(ids))  # what your own database holds already

    own = unit(index.embedding(query))
    order = np.argsort(-(vectors @ own), kind="stable")[:RESULTS]
    found = [ids[i] for i in order]

    for id_, why in zip(found, index.annotate(query, found), strict=True):
        named = ", ".join(a.name for a in why.attributes[:3]) if why else "not in the index"
        say(f"{id_}: {named}")


if __name__ == "__main__":
    sys.exit(run_command(lambda: main(sys.argv[1:])))
