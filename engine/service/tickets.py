"""One accepted piece of work: until when it is wanted, how far it is, and its turns at the network."""

import contextlib
import contextvars
import math
import threading
import time
from collections.abc import Callable, Iterator

import numpy as np

from engine.protocol import Runner
from engine.service.limits import Refused
from engine.service.spans import stage_spans
from engine.service.turns import Turns, WaitingRows

LEAST_DEADLINE = 0.001
"""Seconds left of a deadline that is over: the engine runs one batch in any case."""


class Cancelled(Exception):
    """Nobody waits for this work any longer."""


class Ticket:
    """Made when a request is accepted; the engine's progress is told to it between any two batches.

    deadline: seconds from now after which the answer is wanted as it is then; limit: seconds that it may take at all
    stages: seconds by stage so far; done, total: passes of the picture that is masked now; rows: of all pictures that ran
    batches: runs that it made for itself; padded: rows that only filled the runs that it made for others too
    between_batches: called after each batch of passes; waited: seconds that the last rows waited for their run to begin
    """

    def __init__(self, turns: Turns, deadline: float | None, limit: float) -> None:
        self.accepted = time.perf_counter()
        self.until = self.accepted + min(math.inf if deadline is None else deadline, limit)
        self.hurried = deadline is not None
        self.limit = limit
        self.stages: dict[str, float] = {}
        self.done = self.total = self.rows = self.batches = self.padded = 0
        self.between_batches: Callable[[], None] = _nothing
        self._turns, self._span = turns, stage_spans()
        self._holds = self._shares = self._urgent = False
        self._batch_began = self._slowest = self.waited = 0.0
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
    def at_work(self) -> Iterator[None]:
        """Be the `current_ticket` of this thread."""
        before = _CURRENT.set(self)
        try:
            yield
        finally:
            self._give()
            _CURRENT.reset(before)

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
        """Begin with a turn at the network, which `progress` passes on after every batch. Raises Cancelled, Refused.

        Passes that share runs hold no turn from their first run on, see `share_runs`.
        """
        self._shares, self._urgent = False, self.hurried
        self._take(timeout=None)
        try:
            yield
        finally:
            self._give()

    @contextlib.contextmanager
    def turn(self) -> Iterator[None]:
        """Have a turn for one run, unless this work has one: it comes at once for work with a deadline."""
        if self._holds:
            yield
            return
        self._urgent = self.hurried
        self._take(timeout=None)
        try:
            yield
        finally:
            self._give()

    def share_runs(self) -> None:
        """Hold no turn from now on: rows are drawn, and maps made, beside the network; rows are run by `run_shared`."""
        now = time.perf_counter()
        self.add("network", now - self._batch_began)  # what came before is no batch of passes
        self._shares, self._batch_began = True, now
        self._give()

    def run_shared(self, session: Runner, rows: np.ndarray, batch: int, until: float | None) -> np.ndarray | None:
        """Have rows (n, ...) float32 run with those of other work; returns (n, D) float32, None: not in time.

        session: always runs `batch` rows; until: time.perf_counter() by which to have them
        Raises Cancelled, Refused, and what the network raises.
        """
        self.require_wanted()
        mine, asked = WaitingRows(session, rows, batch, lambda: not self.cancelled), time.perf_counter()
        urgent = self._urgent or (self.hurried and until is None)  # without these rows there is no map
        self._turns.run(mine, urgent, None if until is None else max(until - self._slowest - asked, 0.0))
        self.waited = (mine.began or time.perf_counter()) - asked
        self._waited(self.waited)
        self.rows += mine.done
        self.padded += mine.padded
        self.require_wanted()
        return None if mine.left else mine.embeddings

    def progress(self, done: int, total: int) -> None:
        """Passes are done: let others have their turn, and wait for the next. Raises Cancelled, Refused."""
        self._slowest = max(self._slowest, time.perf_counter() - self._batch_began)
        self.add("network", time.perf_counter() - self._batch_began)
        if not self._shares and (done != self.done or total >= self.total):  # else the engine says that those were all
            self.rows += done - self.done if done > self.done else done  # of another picture
            self.batches += 1
        self.done, self.total, self._urgent = done, total, False
        self.between_batches()
        if self._shares:
            self._batch_began = time.perf_counter()
            self.require_wanted()
            return
        self._give()
        # without a turn in time the engine has none left for a batch either, and ends the passes
        self._take(timeout=max(self.until - self._slowest - time.perf_counter(), 0.0))

    def require_wanted(self) -> None:
        """Raise Cancelled if nobody waits for this, Refused if it took too long."""
        if self.cancelled:
            raise Cancelled
        if time.perf_counter() > self.accepted + self.limit + 1:  # what can end early has done so by now
            raise Refused(
                503, f"this took longer than the {self.limit:g} s allowed: ask for fewer passes, or send it as a job", 1
            )

    def _take(self, timeout: float | None) -> None:
        self.require_wanted()
        self._batch_began = time.perf_counter()
        self._holds = self._turns.take(self._urgent, timeout)
        self._waited(time.perf_counter() - self._batch_began)
        try:
            self.require_wanted()
        except (Cancelled, Refused):
            self._give()
            raise

    def _waited(self, seconds: float) -> None:
        """Count seconds as those of the queue, and not of the batch that was begun."""
        self._batch_began += seconds
        self.add("queue", seconds)

    def _give(self) -> None:
        if self._holds:
            self._turns.give()
            self._holds = False


_CURRENT: contextvars.ContextVar[Ticket | None] = contextvars.ContextVar("ticket", default=None)


def current_ticket() -> Ticket | None:
    """The ticket of the work that this thread does; None: it does none of a request."""
    return _CURRENT.get()


def _nothing() -> None:
    pass
