"""A server in a process of its own."""

import json
import os
import queue
import signal
import subprocess
import sys
import threading
from typing import Any

import httpx
from helpers import ROOT


class Served:
    """A server that runs in a process of its own, on a port that was free."""

    def __init__(self, *arguments: str, before: tuple[str, ...] = ()) -> None:
        command = [*before, sys.executable, "-m", "engine.serve", "--port", "0", *arguments]
        environment = {**os.environ, "PYTHONPATH": str(ROOT)}
        self.process = subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True)
        self.lines: queue.Queue[dict[str, Any]] = queue.Queue()
        self.log: list[str] = []
        threading.Thread(target=self._read, daemon=True).start()
        self.url = self.wait_for("listening")["url"]

    def _read(self) -> None:
        for line in self.process.stderr or ():
            self.log.append(line)
            self.lines.put(json.loads(line) if line.startswith("{") else {"event": line})
        self.lines.put({"event": "end"})

    def wait_for(self, event: str) -> dict[str, Any]:
        """The next line about an event."""
        while True:
            line = self.lines.get(timeout=60)
            if line["event"] == event:
                return line
            assert line["event"] != "end", "".join(self.log)

    def __enter__(self) -> "Served":
        return self

    def __exit__(self, *_: object) -> None:
        self.process.terminate()
        self.process.wait(60)

    def post(self, path: str, **request: Any) -> Any:
        return httpx.post(self.url + path, timeout=60, **request)

    def get(self, path: str) -> Any:
        return httpx.get(self.url + path, timeout=60)

    def end(self, sig: int = signal.SIGTERM) -> int:
        self.process.send_signal(sig)
        return self.process.wait(60)
