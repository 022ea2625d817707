"""Threads that compute explanations, and how much may wait for them."""

import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

from engine.service.limits import Limits, Refused
from engine.service.tickets import Cancelled, Ticket
from engine.service.turns import Turns

T = TypeVar("T")

QUICK, HURRIED, JOBS = LANES = ("quick", "hurried", "jobs")
"""Requests, requests with a deadline, and jobs: each has threads of its own, so that none waits for another kind."""


class Executor:
    """Runs work in threads. The work of all of them queues for the network."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._turns = Turns()
        self._lock = threading.Lock()
        self._accepted = dict.fromkeys(LANES, 0)
        self._most = {
            QUICK: limits.concurrency + limits.queue,
            HURRIED: limits.concurrency + limits.queue,
            JOBS: limits.jobs,
        }
        self._running: set[Ticket] = set()
        self._pools = {
            lane: ThreadPoolExecutor(1 if lane == JOBS else limits.concurrency, thread_name_prefix=lane) for lane in LANES
        }

    def accept(self, deadline: float | None = None, *, job: bool = False) -> Ticket:
        """Return a ticket for work that begins to count now. deadline: seconds from now"""
        return Ticket(self._turns, deadline, self._limits.job_seconds if job else self._limits.seconds)

    def submit(self, ticket: Ticket, work: Callable[[], T], *, job: bool = False) -> Future[T]:
        """Run `work` in a thread. Raises Refused if too much waits already."""
        lane = JOBS if job else HURRIED if ticket.hurried else QUICK
        with self._lock:
            if self._accepted[lane] >= self._most[lane]:
                waiting = f"{self._accepted[lane]} requests of this kind wait or run, as many as this server takes"
                raise Refused(429, f"{waiting}: send it again later", 1)
            self._accepted[lane] += 1
            self._running.add(ticket)
        future = self._pools[lane].submit(_begun, ticket, work)
        future.add_done_callback(lambda _: self._left(lane, ticket))
        return future

    def waiting(self) -> dict[str, int]:
        """Requests that were accepted and are not done, by lane."""
        with self._lock:
            return dict(self._accepted)

    def wait_until_empty(self, seconds: float, poll: float) -> None:
        """Return when nothing waits or runs, at the latest after `seconds`."""
        until = time.monotonic() + seconds
        while any(self.waiting().values()) and time.monotonic() < until:
            time.sleep(poll)

    def close(self) -> None:
        """Forget what waits, cancel what runs, and return when it has ended."""
        with self._lock:
            running = list(self._running)
        for ticket in running:
            ticket.cancel()
        for pool in self._pools.values():
            pool.shutdown(wait=True, cancel_futures=True)

    def _left(self, lane: str, ticket: Ticket) -> None:
        with self._lock:
            self._running.discard(ticket)
            self._accepted[lane] -= 1


def _begun(ticket: Ticket, work: Callable[[], T]) -> T:
    if ticket.cancelled:
        raise Cancelled
    ticket.add("queue", time.perf_counter() - ticket.accepted)
    with ticket.at_work():
        return work()
