"""Jobs: slow calls that run after they were answered. Where several processes serve, a file about each tells the others."""

import contextlib
import dataclasses
import json
import os
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import CancelledError, Future
from pathlib import Path
from typing import Any

from engine.errors import OutputError
from engine.files import write_whole
from engine.service.executor import Executor
from engine.service.kept import KEY, Kept, new_key
from engine.service.limits import Limits, Refused
from engine.service.sentences import log_fault, status_and_sentence
from engine.service.tickets import Cancelled, Ticket

JOBS_FOLDER = "jobs"
JOB_BYTES = 2**17
"""What the result of a job is taken for: its numbers and its maps on tiles, for a few references."""
UNDECIDED = ("queued", "running")
WORKER_DIED = "the worker that ran this job died: send it again"
Answers = list[dict[str, Any]]


@dataclasses.dataclass(frozen=True, eq=False)
class SlowCall:
    """A job: its progress, and its answers when they are there."""

    ticket: Ticket
    future: Future[Answers]

    @property
    def state(self) -> dict[str, Any]:
        """What is known of it."""
        passes = {"passes": self.ticket.done, "passes_in_all": self.ticket.total}
        if not self.future.done():
            waits = "running" if self.future.running() else "queued"
            return {"status": "cancelled" if self.ticket.cancelled else waits, **passes}
        try:
            return {"status": "done", **passes, "explanations": self.future.result()}
        except (Cancelled, CancelledError):
            return {"status": "cancelled", **passes}
        except Exception as error:
            return {"status": "failed", **passes, "error": status_and_sentence(error)[1]}


class Jobs:
    """The jobs of a server. folder: where its processes tell each other of theirs; None: there is one process"""

    def __init__(self, executor: Executor, limits: Limits, folder: Path | None) -> None:
        self._executor, self._board = executor, None if folder is None else JobBoard(folder)
        self._seconds = limits.kept_seconds + limits.job_seconds
        self._own: Kept[SlowCall] = Kept("job", self._seconds, limits.kept_bytes, lambda _: JOB_BYTES)

    def begin(self, ticket: Ticket, work: Callable[[], Answers]) -> str:
        """Run work as a job; returns its id. Raises Refused if too many are not done."""
        key = new_key()
        job = self._submitted(ticket, work) if self._board is None else self._told(key, self._board, ticket, work)
        self._own.put(job, key)
        return key

    def _submitted(self, ticket: Ticket, work: Callable[[], Answers]) -> SlowCall:
        future = self._executor.submit(ticket, work, job=True)
        future.add_done_callback(log_fault)
        return SlowCall(ticket, future)

    def _told(self, key: str, board: "JobBoard", ticket: Ticket, work: Callable[[], Answers]) -> SlowCall:
        """Submit work that tells the other processes how it is, and listens to them."""

        def between_batches() -> None:
            if board.cancelled(key):
                ticket.cancel()
            board.tell(key, {"status": "running", "passes": ticket.done, "passes_in_all": ticket.total})

        def begun() -> Answers:
            between_batches()
            ticket.require_wanted()
            return work()

        ticket.between_batches = between_batches
        board.forget_older(self._seconds)
        with board.told_first(key):
            job = self._submitted(ticket, begun)
        job.future.add_done_callback(lambda _: board.tell(key, job.state))
        return job

    def state(self, key: str) -> dict[str, Any]:
        """What is known of a job. Raises Refused if nothing is."""
        found = None if self._board is None else self._board.read(key)
        return self._own.get(key).state if found is None else found

    def cancel(self, key: str) -> dict[str, Any]:
        """End a job before its next batch; returns its state. Raises Refused if there is none."""
        if self._board is not None and self._board.read(key) is not None:
            self._board.cancel(key)
        with contextlib.suppress(Refused):  # it is another process's
            job = self._own.get(key)
            job.ticket.cancel()
            job.future.cancel()
        return self.state(key)


class JobBoard:
    """A folder with a file about each job, and an empty one for each that is to end. Files appear whole."""

    def __init__(self, folder: Path) -> None:
        self._folder, self._lock = folder, threading.Lock()
        folder.mkdir(exist_ok=True)

    def forget_older(self, seconds: float) -> None:
        """Remove what was said so long ago."""
        for file in self._folder.iterdir():
            with contextlib.suppress(OSError):  # another process removed it
                if file.stat().st_mtime + seconds < time.time():
                    file.unlink()

    @contextlib.contextmanager
    def told_first(self, key: str) -> Iterator[None]:
        """Say that a job is queued before it is; if it is refused, it never was."""
        self.tell(key, {"status": "queued", "passes": 0, "passes_in_all": 0})
        try:
            yield
        except Refused:
            self._file(key).unlink(missing_ok=True)
            raise

    def tell(self, key: str, state: dict[str, Any]) -> None:
        """Say how a job of this process is. Raises OutputError."""
        with self._lock:
            write_whole(self._file(key), json.dumps({"pid": os.getpid(), "state": state}).encode())

    def read(self, key: str) -> dict[str, Any] | None:
        """What was last said of a job; None: nothing."""
        if KEY.fullmatch(key) is None:
            return None
        try:
            state: dict[str, Any] = json.loads(self._file(key).read_bytes())["state"]
        except FileNotFoundError:
            return None
        cancelled = state["status"] in UNDECIDED and self.cancelled(key)
        return state | {"status": "cancelled"} if cancelled else state

    def cancel(self, key: str) -> None:
        """Ask the process that runs a job to end it."""
        self._file(key).with_suffix(".cancel").touch()

    def cancelled(self, key: str) -> bool:
        """Whether that was asked for."""
        return self._file(key).with_suffix(".cancel").exists()

    def bury(self, pid: int) -> None:
        """Say of the jobs of a process that died that they failed."""
        for file in self._folder.glob("*.json"):
            with contextlib.suppress(OSError, OutputError):  # forgotten meanwhile, or a full disk: the server goes on
                said = json.loads(file.read_bytes())
                if said["pid"] == pid and said["state"]["status"] in UNDECIDED:
                    self.tell(file.stem, said["state"] | {"status": "failed", "error": WORKER_DIED})

    def _file(self, key: str) -> Path:
        return self._folder / f"{key}.json"
