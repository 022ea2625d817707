"""Serving with one process, or with several that are watched: one that dies is replaced."""

import contextlib
import dataclasses
import multiprocessing
import multiprocessing.connection
import os
import signal
import socket
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from multiprocessing.context import SpawnProcess
from pathlib import Path

from prometheus_client.multiprocess import mark_process_dead

from engine.bundle import demo_bundle, load_bundle
from engine.errors import EngineError, OptionError
from engine.index.store import IndexStore
from engine.protocol import ignore_notice, require_whole
from engine.service.guard import read_keys
from engine.service.limits import Limits
from engine.service.log import log
from engine.service.metrics import SEVERAL
from engine.service.opening import Settings, open_index, opened_explainer
from engine.service.server import listen_on, run_server
from engine.service.slow_calls import JOBS_FOLDER, JobBoard
from engine.terminal import BAD_INPUT, fail

MOST_WORKERS = 256
LOOK = 0.5
"""Seconds between two looks at signals; a worker that ends is seen at once."""
PAUSE = 1.0
"""Seconds before a worker that ended is replaced, so that one that cannot live does not take the whole machine."""


def serve(settings: Settings) -> None:
    """Serve until told to end. Raises OptionError, BundleError, ProviderError, OutputError before it listens."""
    require_whole("workers", settings.workers, 1, MOST_WORKERS)
    limits = Limits.of(list(settings.limits))
    listening = listen_on(settings.host, settings.port)
    if settings.workers == 1:
        run_server(settings, listening)
        return
    if settings.index is None:
        load_bundle(demo_bundle() if settings.bundle is None else Path(settings.bundle))
    else:
        IndexStore(settings.index)
    if settings.api_key_file is not None:
        read_keys(settings.api_key_file)
    threads = settings.threads or max((os.cpu_count() or 1) // settings.workers, 1)
    with tempfile.TemporaryDirectory(prefix="sane-serve-") as folder:
        counted = Path(folder) / "metrics"
        counted.mkdir()
        os.environ[SEVERAL] = str(counted)  # before a worker imports what reads it
        Crew(dataclasses.replace(settings, threads=threads), listening, Path(folder)).run(limits.drain_seconds)


class Crew:
    """The workers of a server. SIGTERM and SIGINT end them when they are drained; SIGHUP makes each open the bundle anew."""

    def __init__(self, settings: Settings, listening: socket.socket, shared: Path) -> None:
        self._settings, self._listening, self._shared = settings, listening, shared
        self._told: list[int] = []
        self._workers: list[SpawnProcess] = []
        self._replaced: set[int] = set()
        self._jobs = JobBoard(shared / JOBS_FOLDER)

    def run(self, drain_seconds: float) -> None:
        """Watch the workers until told to end. Raises OptionError if one says that it cannot work."""
        self._measure()
        with self._signals():
            self._workers = [self._begun() for _ in range(self._settings.workers)]
            try:
                while not {signal.SIGTERM, signal.SIGINT} & set(self._told):
                    multiprocessing.connection.wait([w.sentinel for w in self._workers], LOOK)
                    self._pass_on()
                    self._replace()
            finally:
                self._end(drain_seconds)

    def _measure(self) -> None:
        """Open the bundle once before any worker does: what "auto" measures is kept, so that all workers take the same."""
        first = multiprocessing.get_context("spawn").Process(target=open_once, args=[self._settings])
        first.start()
        first.join()
        if first.exitcode:
            raise OptionError("the bundle cannot be opened: the line before this one says why")

    def _replace(self) -> None:
        for i, worker in enumerate(self._workers):
            if worker.exitcode is None:
                continue
            if worker.exitcode == BAD_INPUT and i not in self._replaced:  # a bundle that is being changed ends no service
                raise OptionError("a worker cannot work: the line before this one says why")
            self._replaced.add(i)
            log("worker replaced", pid=worker.pid, status=worker.exitcode)
            self._jobs.bury(worker.pid or 0)
            mark_process_dead(worker.pid, os.environ[SEVERAL])  # type: ignore[no-untyped-call]
            time.sleep(PAUSE)
            self._workers[i] = self._begun()

    def _begun(self) -> SpawnProcess:
        arguments = (self._settings, self._listening, self._shared)
        worker = multiprocessing.get_context("spawn").Process(target=work, args=arguments)
        worker.start()
        return worker

    def _pass_on(self) -> None:
        while signal.SIGHUP in self._told:
            self._told.remove(signal.SIGHUP)
            self._tell(signal.SIGHUP)

    def _tell(self, sig: int) -> None:
        for worker in self._workers:
            if worker.exitcode is None and worker.pid is not None:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(worker.pid, sig)

    def _end(self, drain_seconds: float) -> None:
        self._tell(signal.SIGTERM)
        until = time.monotonic() + drain_seconds + 10
        for worker in self._workers:
            worker.join(max(until - time.monotonic(), 0))
            worker.kill()

    @contextlib.contextmanager
    def _signals(self) -> Iterator[None]:
        watched = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
        before = [signal.signal(sig, lambda number, _: self._told.append(number)) for sig in watched]
        try:
            yield
        finally:
            for sig, handler in zip(watched, before, strict=True):
                signal.signal(sig, handler)


def open_once(settings: Settings) -> None:
    """Open the bundle and the index as a worker will."""
    try:
        explainer = opened_explainer(settings, Limits.of(list(settings.limits)), ignore_notice)
        if settings.index is not None:
            open_index(settings.index, explainer)
    except EngineError as error:
        sys.exit(fail(str(error)))


def work(settings: Settings, listening: socket.socket, shared: Path) -> None:
    """What a worker does: serve until told to end, or until the process that watches it is gone."""
    watcher = multiprocessing.parent_process()
    if watcher is not None:
        threading.Thread(target=_end_after, args=[watcher.sentinel], daemon=True).start()
    try:
        run_server(settings, listening, shared)
    except EngineError as error:
        sys.exit(fail(str(error)))


def _end_after(sentinel: int) -> None:
    multiprocessing.connection.wait([sentinel])
    os.kill(os.getpid(), signal.SIGTERM)
