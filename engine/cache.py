"""Prepared pictures kept in memory, up to a number of bytes; the least recently used go first."""

import collections
import dataclasses
import threading
from collections.abc import Hashable

from engine.prepared import Prepared


@dataclasses.dataclass(frozen=True)
class CacheInfo:
    """What a cache did and holds.

    hits, misses: lookups since the cache was made; entries, bytes: what it holds; limit: bytes it may hold
    """

    hits: int
    misses: int
    entries: int
    bytes: int
    limit: int

    @property
    def hit_rate(self) -> float:
        """Hits by lookups; 0 before the first lookup."""
        return self.hits / max(self.hits + self.misses, 1)


class PreparedCache:
    """At most `limit` bytes of prepared pictures; the least recently used go first. Threads may share it."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self._kept: collections.OrderedDict[Hashable, Prepared] = collections.OrderedDict()
        self._bytes = self._hits = self._misses = 0
        self._lock = threading.Lock()

    def get(self, key: Hashable) -> Prepared | None:
        """What was put under this key, if it is still here."""
        with self._lock:
            found = self._kept.get(key)
            if found is None:
                self._misses += 1
            else:
                self._hits += 1
                self._kept.move_to_end(key)
            return found

    def put(self, key: Hashable, prepared: Prepared) -> None:
        """Keep a prepared picture, unless it is larger than the whole cache."""
        size = prepared.nbytes
        with self._lock:
            if key in self._kept or size > self.limit:
                return
            self._kept[key] = prepared
            self._bytes += size
            while self._bytes > self.limit:
                self._bytes -= self._kept.popitem(last=False)[1].nbytes

    def info(self) -> CacheInfo:
        """Counts and sizes as they are now."""
        with self._lock:
            return CacheInfo(self._hits, self._misses, len(self._kept), self._bytes, self.limit)
