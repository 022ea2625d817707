"""Jobs of several processes: each knows how those of the others are, ends them, and a dead process's have failed."""

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("fastapi", reason="the service needs the extra serve")

from helpers import until

from engine.errors import OptionError
from engine.service.executor import Executor
from engine.service.limits import Limits, Refused
from engine.service.slow_calls import WORKER_DIED, JobBoard, Jobs
from engine.service.tickets import Ticket

LIMITS = Limits(jobs=2)


class Process:
    """What one of the processes has."""

    def __init__(self, folder: Path) -> None:
        self.executor = Executor(LIMITS)
        self.jobs = Jobs(self.executor, LIMITS, folder)
        self.batch, self.go_on = threading.Event(), threading.Event()

    def begin(self, error: Exception | None = None) -> str:
        """A job that says how far it is whenever it may go on."""
        ticket = self.executor.accept(job=True)

        def work() -> list[dict[str, Any]]:
            with ticket.network():
                self.run(ticket)
            if error is not None:
                raise error
            return [{"similarity": 1.0}]

        return self.jobs.begin(ticket, work)

    def run(self, ticket: Ticket) -> None:
        for done in range(1, 4):
            ticket.progress(done, 3)
            self.batch.set()
            assert self.go_on.wait(30)


@pytest.fixture
def processes(tmp_path: Path) -> Iterator[tuple[Process, Process]]:
    found = Process(tmp_path / "jobs"), Process(tmp_path / "jobs")
    yield found
    for process in found:
        process.go_on.set()
        process.executor.close()


def test_another_process_knows_how_a_job_is(processes: tuple[Process, Process]) -> None:
    own, other = processes
    key = own.begin()
    waiting = own.begin()
    assert own.batch.wait(30)
    assert other.jobs.state(key) == own.jobs.state(key) == {"status": "running", "passes": 1, "passes_in_all": 3}
    assert other.jobs.state(waiting)["status"] == "queued"
    own.go_on.set()
    until(lambda: other.jobs.state(key)["status"] == "done")
    assert other.jobs.state(key)["explanations"] == [{"similarity": 1.0}]
    failing = own.begin(OptionError("no such method"))
    until(lambda: other.jobs.state(failing)["status"] == "failed")
    assert other.jobs.state(failing)["error"] == "no such method"


def test_another_process_ends_a_job_before_its_next_batch(processes: tuple[Process, Process]) -> None:
    own, other = processes
    running, waiting = own.begin(), own.begin()
    assert own.batch.wait(30)
    for key in (running, waiting):
        assert other.jobs.cancel(key)["status"] == "cancelled"
        assert own.jobs.state(key)["status"] == "cancelled"
    own.go_on.set()
    until(lambda: not any(own.executor.waiting().values()))
    assert own.jobs.state(running)["passes"] < 3
    assert own.jobs.state(waiting)["passes"] == 0


def test_what_no_process_knows_is_not_found_and_what_is_refused_never_was(
    processes: tuple[Process, Process], tmp_path: Path
) -> None:
    own, other = processes
    for key in ("nobody", "../secret", "x" * 22):
        for asked in (other.jobs.state, other.jobs.cancel):
            with pytest.raises(Refused, match="no job with this id"):
                asked(key)
    for _ in range(2):
        own.begin()
    with pytest.raises(Refused, match="send it again later"):
        own.begin()
    assert len(list((tmp_path / "jobs").glob("*.json"))) == 2


def test_jobs_of_a_process_that_died_have_failed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    board = JobBoard(tmp_path / "jobs")
    monkeypatch.setattr("os.getpid", lambda: 7)
    for key, status in (("a" * 22, "running"), ("b" * 22, "queued"), ("c" * 22, "done")):
        board.tell(key, {"status": status, "passes": 0, "passes_in_all": 0})
    monkeypatch.setattr("os.getpid", lambda: 8)
    board.tell("d" * 22, {"status": "running", "passes": 0, "passes_in_all": 0})
    board.bury(7)
    found = [board.read(key * 22) for key in "abcd"]
    assert [state and state["status"] for state in found] == ["failed", "failed", "done", "running"]
    assert found[0] is not None
    assert found[0]["error"] == WORKER_DIED
    board.forget_older(0)
    assert board.read("a" * 22) is None
