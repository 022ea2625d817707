"""Qdrant searches; the index says why each of its results matched, and leaves their order alone.

    python examples/qdrant_search.py CATALOGUE PICTURE

CATALOGUE is what `python -m engine.index build` made; PICTURE is one of its ids, or a file. Needs sane-engine[index] and
qdrant-client, whose local mode runs in this process; with a server, only the first line of `fill` changes.
"""

import sys
from collections.abc import Sequence

from qdrant_client import QdrantClient
from qdrant_client.models import Distance, PointStruct, VectorParams

from engine.index import Index
from engine.terminal import run_command, say

COLLECTION, RESULTS = "pictures", 5


def fill(index: Index) -> QdrantClient:
    """Put the index's embeddings into a collection; yours may hold them already."""
    client = QdrantClient(":memory:")
    size = VectorParams(size=index.settings.embedding, distance=Distance.COSINE)
    client.create_collection(COLLECTION, vectors_config=size)
    ids = index.ids
    rows = zip(ids, index.embeddings(ids).tolist(), strict=True)
    points = [PointStruct(id=number, vector=vector, payload={"id": id_}) for number, (id_, vector) in enumerate(rows)]
    client.upsert(COLLECTION, points)
    return client


def main(arguments: Sequence[str]) -> None:
    """Search, and explain what was found."""
    catalogue, query = arguments
    index = Index.open(catalogue)
    answer = fill(index).query_points(COLLECTION, query=index.embedding(query).tolist(), limit=RESULTS)
    found = [(str((point.payload or {})["id"]), point.score) for point in answer.points]

    for (id_, score), why in zip(found, index.annotate(query, [id_ for id_, _ in found]), strict=True):
        named = ", ".join(a.name for a in why.attributes[:3]) if why else "not in the index"
        say(f"{id_} {score:.3f}: {named}")


if __name__ == "__main__":
    sys.exit(run_command(lambda: main(sys.argv[1:])))
