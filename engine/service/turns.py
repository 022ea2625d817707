"""Who runs the network next: concurrent explanations take turns, or hand over rows and share runs."""

import dataclasses
import itertools
import threading
import time
from collections.abc import Callable

import numpy as np

from engine.protocol import Runner
from engine.runtime.host_stage import full_batch


@dataclasses.dataclass(eq=False)
class WaitingRows:
    """Rows of one explanation that wait to be run, with those of others.

    session: runs them, always `batch` at once; rows: (n, ...) float32, n from 1 to `batch`
    wanted: asked before each run whether anybody still waits for them
    done: so many of them were run; embeddings: (n, D) float32, of which so many are there
    began: time.perf_counter() when their first run began; padded: rows that only filled runs which their own thread made
    """

    session: Runner
    rows: np.ndarray
    batch: int
    wanted: Callable[[], bool]
    done: int = 0
    embeddings: np.ndarray | None = None
    began: float | None = None
    padded: int = 0
    alone: bool = False
    """Whether a run that they shared failed: in the next they are alone, so that who caused it is told, and nobody else."""

    @property
    def left(self) -> int:
        """Rows that were not run yet."""
        return len(self.rows) - self.done

    def keep(self, found: np.ndarray) -> None:
        """Keep the embeddings (n, D) float32 of the next rows."""
        if self.embeddings is None:
            self.embeddings = np.empty((len(self.rows), *found.shape[1:]), found.dtype)
        self.embeddings[self.done : self.done + len(found)] = found
        self.done += len(found)


@dataclasses.dataclass(eq=False)
class Place:
    """Where a thread stands in the queue. rows: what it waits to have run; None: it wants the turn itself

    called: the turn is its own now, or all of its rows were run, or it has left; running: a run with some of its rows is
        under way; leaves: its time is over, so that it leaves when that run has ended, with rows that were not run
    """

    urgent: bool
    order: int
    rows: WaitingRows | None
    called: threading.Event = dataclasses.field(default_factory=threading.Event)
    running: bool = False
    leaves: bool = False


class Turns:
    """One turn at a time: to make one run. Whoever waits longest is next, but first turns that are urgent come first."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._taken = False
        self._order = itertools.count()
        self._waiting: list[Place] = []

    def take(self, urgent: bool = False, timeout: float | None = None, rows: WaitingRows | None = None) -> bool:
        """Wait for a turn; returns whether it came within `timeout` seconds.

        urgent: come before all that are not; rows: others may run them meanwhile; if they ran all, there is no turn to give
        """
        with self._lock:
            if not self._taken:
                self._taken = True
                return True
            mine = Place(urgent, next(self._order), rows)
            self._waiting.append(mine)
            self._waiting.sort(key=lambda place: (not place.urgent, place.order))
        if mine.called.wait(timeout):
            return True
        with self._lock:
            if mine.called.is_set():  # at the last moment
                return True
            if not mine.running:
                self._waiting.remove(mine)
                return False
            mine.leaves = True
        mine.called.wait()  # after the run under way
        return rows is None or not rows.left

    def give(self) -> None:
        """End the turn that was taken: the next one begins."""
        with self._lock:
            if self._waiting:
                self._waiting.pop(0).called.set()
            else:
                self._taken = False

    def run(self, mine: WaitingRows, urgent: bool = False, timeout: float | None = None) -> bool:
        """Have rows run by whoever has the turn, perhaps this thread, which then fills its run with rows of those who wait.

        Returns whether they all were: not if their last run did not begin within `timeout` seconds, or if nobody wants them
        any longer. Raises what the network raises for them.
        """
        if not self.take(urgent, timeout, mine):
            return False
        if mine.left:
            try:
                while mine.left and mine.wanted():
                    self._run_together(mine)
            finally:
                self.give()
        return not mine.left

    def _run_together(self, mine: WaitingRows) -> None:
        """Make one run, in the turn of this thread."""
        shares = self._shares(mine)
        parts = [rows.rows[rows.done : rows.done + count] for rows, count, _ in shares]
        mine.padded += mine.batch - sum(map(len, parts))
        try:
            found = mine.session.run(full_batch(parts, mine.batch))
        except Exception:
            if len(shares) == 1:
                raise
            # not swallowed: each runs alone next, and is told then what its own rows raise
            with self._lock:
                for rows, _, place in shares:
                    rows.alone = True
                    self._ran(place)
            return
        with self._lock:
            for rows, count, place in shares:
                rows.keep(found[:count])
                found = found[count:]
                self._ran(place)

    def _ran(self, place: Place) -> None:
        """A run with rows of this place has ended: let its thread go on if all were run, or its time is over."""
        place.running = False
        if place in self._waiting and (place.leaves or (place.rows is not None and not place.rows.left)):
            self._waiting.remove(place)
            place.called.set()

    def _shares(self, mine: WaitingRows) -> list[tuple[WaitingRows, int, Place]]:
        """What the next run takes, and from where: this thread's rows first, then those of who is next in the queue."""
        found, left = [], mine.batch
        with self._lock:
            for place in (Place(False, 0, mine), *self._waiting):
                rows = place.rows
                if rows is None or not left or (rows is not mine and not _together(mine, rows)):
                    continue
                count = min(rows.left, left)
                found.append((rows, count, place))
                left, place.running = left - count, True
                rows.began = rows.began or time.perf_counter()
        return found


def _together(mine: WaitingRows, rows: WaitingRows) -> bool:
    """Whether rows may be in one run."""
    return rows.session is mine.session and not (mine.alone or rows.alone) and rows.wanted()
