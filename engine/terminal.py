"""The shell around every command: its options, how it ends, what it prints, and the progress bar that it shows."""

import argparse
import contextlib
import json
import os
import sys
from collections.abc import Callable
from typing import Any, NoReturn, TextIO

from engine.errors import EngineError, OutputError

BAD_INPUT, INTERRUPTED, BROKEN_PIPE = 2, 130, 141
"""Exit statuses: bad usage or bad input; stopped from the keyboard; the reader of standard output went away."""


def run_command(run: Callable[[], None], stopped: str = "stopped") -> int:
    """Run a command and return its exit status: 0 or one of the above. Never ends in a traceback for what is not a bug.

    run: prints with `say` and `notice` alone; raises an EngineError for bad input, and SystemExit as `CommandParser` does
    stopped: the line to print if the command is stopped from the keyboard
    """
    _occupy_closed_streams()
    try:
        run()
    except EngineError as error:
        return fail(str(error))
    except KeyboardInterrupt:
        notice(stopped)
        return INTERRUPTED
    except BrokenPipeError:
        _forget(sys.stdout)
        return BROKEN_PIPE
    finally:
        if sys.stderr is not None:
            try:
                sys.stderr.flush()  # of what `notice` could not print
            except OSError:
                _forget(sys.stderr)
    return 0


class CommandParser(argparse.ArgumentParser):
    """The options of a command. Help and errors are printed like everything else here: escaped, and with no traceback."""

    def print_help(self, file: Any = None) -> None:
        """Print the help on standard output, or to a file. Raises what `say` raises."""
        if file is None:
            say(self.format_help().rstrip("\n"))
        else:
            super().print_help(file)

    def error(self, message: str) -> NoReturn:
        """Print the usage and one line on standard error, and exit."""
        if sys.stderr is not None:
            with contextlib.suppress(OSError):  # Python before 3.11.5 raises where it cannot print
                self.print_usage(sys.stderr)
        notice(f"{self.prog}: error: {message}")
        self.exit(BAD_INPUT)


def fail(message: str) -> int:
    """Print the one line of a command that cannot go on, on standard error; returns its exit status."""
    notice(f"error: {message}")
    return BAD_INPUT


def notice(line: str) -> None:
    """Print one line on standard error, if there is one."""
    if sys.stderr is not None:
        with contextlib.suppress(OSError):  # nobody is left to be told
            print(printable(line.strip()), file=sys.stderr, flush=True)


def say(text: str) -> None:
    """Print a text on standard output, in characters that the terminal can show.

    Raises OutputError if standard output is closed or full, BrokenPipeError if its reader went away.
    """
    if sys.stdout is None:
        raise OutputError("cannot write to standard output: it is closed")
    encoding = sys.stdout.encoding or "utf-8"
    try:
        print("\n".join(printable(line, encoding) for line in text.split("\n")), flush=True)
    except BrokenPipeError:
        raise
    except OSError as error:
        _forget(sys.stdout)
        raise OutputError(f"cannot write to standard output: {error.strerror or error}") from error


def printable(line: str, encoding: str = "utf-8") -> str:
    r"""Return `line` with control and other invisible characters as \uXXXX, so that no name can steer a terminal.

    Characters that the encoding lacks are escaped too. Inside a JSON text the escapes mean the same characters.
    """

    def shown(text: str) -> bool:
        try:
            text.encode(encoding)
        except UnicodeEncodeError:
            return False
        return text.isprintable()

    return line if shown(line) else "".join(c if shown(c) else json.dumps(c)[1:-1] for c in line)


class Bar:
    """A progress bar on standard error, if that is a terminal.

    quiet: show nothing; what: the word before the bar; unit: what is counted
    """

    def __init__(self, quiet: bool, what: str, unit: str) -> None:
        from tqdm import tqdm  # noqa: PLC0415 - `import engine` runs without it

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


def _occupy_closed_streams() -> None:
    """Keep files from getting the number of a closed stream: what other libraries print would be written into them."""
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # gets the lowest number that is free


def _forget(stream: TextIO) -> None:
    """Keep the interpreter from flushing a stream at its end, where it would fail once more."""
    with contextlib.suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
