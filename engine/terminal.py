"""What commands show, progress on standard error, where that is a terminal, and text on standard output; how they end."""

import sys
from collections.abc import Callable

from engine.errors import EngineError, OutputError, failed

INTERRUPTED = 130
"""Exit status of a command that was stopped from the keyboard."""


def ended(run: Callable[[], None], stopped: str) -> int:
    """Run a command that may take long; gives its exit status: 0, 2 after one line about bad input, or INTERRUPTED.

    stopped: what is told where it was stopped from the keyboard
    """
    try:
        run()
    except EngineError as error:
        return failed(str(error))
    except KeyboardInterrupt:
        print(stopped, file=sys.stderr)
        return INTERRUPTED
    return 0


class Bar:
    """A progress bar that shows (done, total)."""

    def __init__(self, quiet: bool, what: str, unit: str) -> None:
        from tqdm import tqdm  # noqa: PLC0415 - `import engine` stays without it

        self._bar = tqdm(disable=True if quiet else None, unit=unit, desc=what, leave=False)

    def __enter__(self) -> "Bar":
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.close()

    def show(self, done: int, total: int) -> None:
        self._bar.total = total
        self._bar.update(done - self._bar.n)


def notice(line: str) -> None:
    """One line on standard error, for what takes long or did not work."""
    print(" ".join(line.split()), file=sys.stderr, flush=True)


def say(text: str) -> None:
    """Print, whatever the terminal can show; raises OutputError where standard output is full or closed."""
    encoding = sys.stdout.encoding or "utf-8"
    try:
        print(text.encode(encoding, "backslashreplace").decode(encoding), flush=True)
    except OSError as error:
        sys.stdout = None  # or the interpreter fails at its end, flushing it once more
        raise OutputError(f"cannot write to standard output: {error.strerror or error}") from error
