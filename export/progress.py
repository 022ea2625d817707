"""A progress bar on standard error, if that is a terminal."""

import sys
from collections.abc import Iterable
from contextlib import AbstractContextManager
from typing import TypeVar

from tqdm import tqdm

Item = TypeVar("Item")


def progress_bar(
    items: Iterable[Item], what: str, *, total: int | None = None, done: int = 0, leave: bool = False, quiet: bool = False
) -> AbstractContextManager[Iterable[Item]]:
    """Return the items, to be used in a `with` statement, so that the bar is closed when a command is stopped.

    what: the text before the bar; total: how many items there are, if `items` has no length or is only the rest of them
    done: items that were done before; leave: keep the full bar on the screen; quiet: show nothing
    """
    hidden = True if quiet or sys.stderr is None else None  # None: hidden unless standard error is a terminal
    bar: AbstractContextManager[Iterable[Item]] = tqdm(
        items, desc=what, total=total, initial=done, leave=leave, disable=hidden
    )
    return bar
