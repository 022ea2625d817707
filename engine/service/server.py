"""The process: opens the bundle, listens, and ends without losing what it accepted."""

import asyncio
import functools
import logging
import signal
import socket
import threading
from pathlib import Path
from types import FrameType

import uvicorn
from fastapi import FastAPI

from engine.errors import EngineError, OptionError
from engine.service.app import create_app
from engine.service.guard import read_keys
from engine.service.limits import Limits
from engine.service.log import LogLines, log
from engine.service.opening import Settings, compute_on_one_thread, open_index, opened_explainer
from engine.service.service import Service

POLL = 0.05
"""Seconds between two looks whether everything is answered."""
LAST_SECONDS = 5
"""That connections have to end in when the time to drain is over."""


def run_server(settings: Settings, listening: socket.socket, shared: Path | None = None) -> None:
    """Open the bundle and serve on a socket until told to end. shared: as in `Service`

    Raises OptionError, BundleError, ProviderError, OutputError before it listens.
    """
    logging.basicConfig(handlers=[LogLines()], level=logging.WARNING, force=True)
    logging.captureWarnings(True)
    app = opened_app(settings, shared)
    config = uvicorn.Config(
        app,
        log_config=None,
        access_log=False,
        server_header=False,
        lifespan="on",
        timeout_graceful_shutdown=LAST_SECONDS,
    )
    DrainingServer(config, app.state.service).run([listening])


def opened_app(settings: Settings, shared: Path | None = None) -> FastAPI:
    """Open the bundle; returns the application that serves it. shared: as in `Service`

    Raises OptionError, BundleError, ProviderError, OutputError.
    """
    compute_on_one_thread()
    limits = Limits.of(list(settings.limits))
    keys = () if settings.api_key_file is None else read_keys(settings.api_key_file)
    index = None if settings.index is None else functools.partial(open_index, settings.index)
    service = Service(functools.partial(opened_explainer, settings, limits, _notice), limits, shared, index)
    return create_app(service, keys, settings.cors)


class DrainingServer(uvicorn.Server):
    """Told to end, it refuses new work, answers what it accepted, and ends. By SIGHUP it opens the bundle anew."""

    def __init__(self, config: uvicorn.Config, service: Service) -> None:
        super().__init__(config)
        self._service = service

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Begin to listen, and say so."""
        await super().startup(sockets)
        for one in sockets or ():
            host, port = one.getsockname()[:2]
            name = self._service.explainer.model.manifest.name
            log("listening", url=f"http://{f'[{host}]' if ':' in host else host}:{port}", model=name)

    async def serve(self, sockets: list[socket.socket] | None = None) -> None:
        """Serve on sockets that listen already."""
        if hasattr(signal, "SIGHUP") and threading.current_thread() is threading.main_thread():
            loop = asyncio.get_running_loop()
            loop.add_signal_handler(signal.SIGHUP, lambda: threading.Thread(target=reload, args=[self._service]).start())
        await super().serve(sockets)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Begin to drain; a second signal ends at once."""
        if self._service.draining:
            self.should_exit = self.force_exit = True
            return
        self._service.draining = True
        threading.Thread(target=self._end_when_drained, daemon=True).start()

    def _end_when_drained(self) -> None:
        log("draining", waiting=self._service.executor.waiting())
        self._service.executor.wait_until_empty(self._service.limits.drain_seconds, POLL)
        self.should_exit = True


def reload(service: Service) -> None:
    """Open the bundle again, and say in the log how that went."""
    try:
        service.reload()
    except EngineError as error:
        log("reload failed", error=str(error))
        return
    log("reloaded", identity=service.explainer.model.bundle.identity)


def _notice(line: str) -> None:
    log("notice", message=line)


def listen_on(host: str, port: int) -> socket.socket:
    """Listen before the bundle is opened, so that a port in use is known at once. Raises OptionError."""
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        listening = socket.socket(family)
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind((host, port))
        listening.listen()
    except (OSError, OverflowError, UnicodeError) as error:
        reason = getattr(error, "strerror", None) or error
        raise OptionError(f"cannot listen on {host}, port {port}: {reason}; choose others by --host and --port") from error
    return listening
