"""What a long command says while it works, on standard error, and how long it may still work."""

import math
import time
from collections.abc import Iterable, Sized
from contextlib import AbstractContextManager

from engine.errors import OptionError
from engine.terminal import notice
from export.progress import Item, progress_bar

TIME_LIMIT = 600.0
"""Seconds that `python -m export quantize` takes at most, unless it is told otherwise: enough for ResNet-50 on two cores."""


class Timekeeper:
    """The time that is left of `limit` seconds from now, and the lines and bars that tell what is done in it.

    quiet: tell nothing. Raises OptionError unless `limit` is a finite number above 0.
    """

    def __init__(self, limit: float, quiet: bool) -> None:
        if isinstance(limit, bool) or not isinstance(limit, (int, float)) or not 0 < limit < math.inf:
            raise OptionError(f"the time limit must be a number of seconds above 0, got {limit!r}")
        self.limit, self._quiet, self._began = float(limit), quiet, time.monotonic()

    @property
    def spent(self) -> float:
        """Seconds since the beginning."""
        return time.monotonic() - self._began

    @property
    def left(self) -> float:
        """Seconds until the limit, below 0 after it."""
        return self.limit - self.spent

    def say(self, line: str) -> None:
        """Print one line on standard error, after the seconds spent."""
        if not self._quiet:
            notice(f"{self.spent:.0f} s: {line}")

    def bar(self, items: Iterable[Item], what: str) -> AbstractContextManager[Iterable[Item]]:
        """Return the items under a progress bar, to be used in a `with` statement."""
        total = len(items) if isinstance(items, Sized) else None
        return progress_bar(items, what, total=total, quiet=self._quiet)
