"""One accepted piece of work: until when it is wanted, how far it is, and its turns at the network."""

import contextlib
import math
import threading
import time
from collections.abc import Callable, Iterator

from engine.service.limits import Refused
from engine.service.spans import stage_spans
from engine.service.turns import Turns

LEAST_DEADLINE = 0.001
"""Seconds left of a deadline that is over: the engine runs one batch in any case."""


class Cancelled(Exception):
    """Nobody waits for this work any longer."""


class Ticket:
    """Made when a request is accepted; the engine's progress is told to it between any two batches.

    deadline: seconds from now after which the answer is wanted as it is then; limit: seconds that it may take at all
    stages: seconds by stage so far; done, total: passes of the picture that is masked now; rows, batches: of all
    between_batches: called after each of them
    """

    def __init__(self, turns: Turns, deadline: float | None, limit: float) -> None:
        self.accepted = time.perf_counter()
        self.until = self.accepted + min(math.inf if deadline is None else deadline, limit)
        self.hurried = deadline is not None
        self.limit = limit
        self.stages: dict[str, float] = {}
        self.done = self.total = self.rows = self.batches = 0
        self.between_batches: Callable[[], None] = _nothing
        self._turns, self._span = turns, stage_spans()
        self._holds = False
        self._batch_began = self._slowest = 0.0
        self._unwanted = threading.Event()

    def cancel(self) -> None:
        """End the work before its next batch; from any thread."""
        self._unwanted.set()

    @property
    def cancelled(self) -> bool:
        return self._unwanted.is_set()

    def left(self) -> float:
        """Seconds until the deadline, or until the limit; above 0."""
        return max(self.until - time.perf_counter(), LEAST_DEADLINE)

    @contextlib.contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Count the time inside as that of a stage."""
        began = time.perf_counter()
        try:
            yield
        finally:
            self.add(name, time.perf_counter() - began)

    def add(self, name: str, seconds: float) -> None:
        """Count seconds of a stage that has just ended."""
        self._span(name, seconds)
        self.stages[name] = self.stages.get(name, 0.0) + seconds

    @contextlib.contextmanager
    def network(self) -> Iterator[None]:
        """Begin with a turn at the network, which `progress` passes on after every batch. Raises Cancelled, Refused."""
        self._take(urgent=self.hurried, timeout=None)
        try:
            yield
        finally:
            if self._holds:
                self._turns.give()
                self._holds = False

    def progress(self, done: int, total: int) -> None:
        """Passes are done: let others have their turn, and wait for the next. Raises Cancelled, Refused."""
        self._slowest = max(self._slowest, time.perf_counter() - self._batch_began)
        self.add("network", time.perf_counter() - self._batch_began)
        self.rows += done - self.done if done > self.done else done  # of another picture
        self.batches += 1
        self.done, self.total = done, total
        self.between_batches()
        if self._holds:
            self._turns.give()
            self._holds = False
        # without a turn in time the engine has none left for a batch either, and ends the passes
        self._take(urgent=False, timeout=max(self.until - self._slowest - time.perf_counter(), 0.0))

    def require_wanted(self) -> None:
        """Raise Cancelled if nobody waits for this, Refused if it took too long."""
        if self.cancelled:
            raise Cancelled
        if time.perf_counter() > self.accepted + self.limit + 1:  # what can end early has done so by now
            raise Refused(
                503, f"this took longer than the {self.limit:g} s allowed: ask for fewer passes, or send it as a job", 1
            )

    def _take(self, urgent: bool, timeout: float | None) -> None:
        self.require_wanted()
        began = time.perf_counter()
        self._holds = self._turns.take(urgent, timeout)
        self._batch_began = time.perf_counter()
        self.add("queue", self._batch_began - began)
        try:
            self.require_wanted()
        except (Cancelled, Refused):
            if self._holds:
                self._turns.give()
                self._holds = False
            raise


def _nothing() -> None:
    pass
