"""The log: lines of JSON on standard error."""

import contextlib
import json
import logging
import sys
import threading
import time
import traceback
from typing import Any

_WRITING = threading.Lock()


class LogLines(logging.Handler):
    """Other packages' log records as the same lines of JSON."""

    def emit(self, record: logging.LogRecord) -> None:
        """Print one line."""
        fields = {"traceback": "".join(traceback.format_exception(*record.exc_info))} if record.exc_info else {}
        log("log", logger=record.name, level=record.levelname.lower(), message=record.getMessage(), **fields)


def log(event: str, **fields: Any) -> None:
    """Print one line of JSON on standard error. Nothing that was sent in a body may be among the fields."""
    now = time.time()
    stamp = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(now)) + f".{int(now % 1 * 1000):03}Z"
    line = json.dumps({"time": stamp, "event": event, **fields})
    if sys.stderr is not None:
        with _WRITING, contextlib.suppress(OSError):  # nobody is left to be told
            sys.stderr.write(f"{line}\n")  # at once, so that no other process writes into the line
            sys.stderr.flush()
