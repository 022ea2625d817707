"""Concurrent explanations share the network batch by batch, so that a long one never holds up a short one."""

import heapq
import itertools
import threading


class Turns:
    """One turn at a time: to run one batch. Whoever waits longest is next, but first turns that are urgent come first."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._taken = False
        self._order = itertools.count()
        self._waiting: list[tuple[bool, int, threading.Event]] = []

    def take(self, urgent: bool = False, timeout: float | None = None) -> bool:
        """Wait for a turn; returns whether it came within `timeout` seconds. urgent: come before all that are not"""
        with self._lock:
            if not self._taken:
                self._taken = True
                return True
            mine = threading.Event()
            entry = (not urgent, next(self._order), mine)
            heapq.heappush(self._waiting, entry)
        if mine.wait(timeout):
            return True
        with self._lock:
            if mine.is_set():  # at the last moment
                return True
            self._waiting.remove(entry)
            heapq.heapify(self._waiting)
            return False

    def give(self) -> None:
        """End the turn that was taken: the next one begins."""
        with self._lock:
            if self._waiting:
                heapq.heappop(self._waiting)[2].set()
            else:
                self._taken = False
