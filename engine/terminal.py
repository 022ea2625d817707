"""The shell around every command: how it ends, what it prints, and the progress bar that it shows."""

import contextlib
import json
import os
import sys
from collections.abc import Callable

from engine.errors import EngineError, OutputError

BAD_INPUT, INTERRUPTED, BROKEN_PIPE = 2, 130, 141
"""Exit statuses: bad usage or bad input; stopped from the keyboard; the reader of standard output went away."""


def run_command(run: Callable[[], None], stopped: str = "stopped") -> int:
    """Run a command and return its exit status: 0 or one of the above. Never ends in a traceback for what is not a bug.

    run: raises an EngineError for bad input; may raise SystemExit, as argparse does
    stopped: the line to print where the command is stopped from the keyboard
    """
    try:
        run()
        _flush()
    except EngineError as error:
        return fail(str(error))
    except KeyboardInterrupt:
        notice(stopped)
        return INTERRUPTED
    except BrokenPipeError:
        _forget_output()
        return BROKEN_PIPE
    except SystemExit:
        try:
            _flush()  # of --help
        except OSError:
            _forget_output()
        raise
    return 0


def fail(message: str) -> int:
    """Print one line on standard error, as every command does that cannot go on; returns the exit status."""
    notice(f"error: {message}")
    return BAD_INPUT


def notice(line: str) -> None:
    """Print one line on standard error, if there is one."""
    if sys.stderr is not None:
        with contextlib.suppress(OSError):  # nobody is left to be told
            print(printable(" ".join(line.split())), file=sys.stderr, flush=True)


def say(text: str) -> None:
    """Print on standard output, in characters that the terminal can show.

    Raises OutputError where standard output is closed or full, BrokenPipeError where its reader went away.
    """
    if sys.stdout is None:
        raise OutputError("cannot write to standard output: it is closed")
    encoding = sys.stdout.encoding or "utf-8"
    text = "\n".join(printable(line) for line in text.split("\n"))
    try:
        print(text.encode(encoding, "backslashreplace").decode(encoding), flush=True)
    except BrokenPipeError:
        raise
    except OSError as error:
        _forget_output()
        raise OutputError(f"cannot write to standard output: {error.strerror or error}") from error


def printable(line: str) -> str:
    r"""`line` with control and other invisible characters as \uXXXX, so that no name can steer a terminal.

    Inside a JSON text the escapes mean the same characters.
    """
    return line if line.isprintable() else "".join(c if c.isprintable() else json.dumps(c)[1:-1] for c in line)


class Bar:
    """A progress bar on standard error, where that is a terminal.

    quiet: show nothing; what: the word before the bar; unit: what is counted
    """

    def __init__(self, quiet: bool, what: str, unit: str) -> None:
        from tqdm import tqdm  # noqa: PLC0415 - `import engine` does without it

        hidden = True if quiet or sys.stderr is None else None  # None: unless it is a terminal
        self._bar = tqdm(disable=hidden, unit=unit, desc=what, leave=False)

    def __enter__(self) -> "Bar":
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.close()

    def show(self, done: int, total: int) -> None:
        """Move the bar to `done` of `total`."""
        self._bar.total = total
        self._bar.update(done - self._bar.n)


def _flush() -> None:
    if sys.stdout is not None:
        sys.stdout.flush()


def _forget_output() -> None:
    """Keep the interpreter from flushing standard output at its end, where it would fail once more."""
    with contextlib.suppress(OSError, ValueError, AttributeError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
