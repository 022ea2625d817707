"""A fork has none of its parent's threads: what waits for them is used, and freed, only in the process that made it."""

import ctypes
import os
from typing import Generic, TypeVar

from engine.errors import ProcessError

T = TypeVar("T")


def require_process(process: int) -> None:
    """Raise ProcessError unless this is the process of that number."""
    if os.getpid() != process:
        raise ProcessError(
            f"the model was loaded in process {process} and is used in its fork {os.getpid()}, which lacks the threads "
            "that it runs on: load it after the fork, in each process"
        )


class Threaded(Generic[T]):
    """An object of another library that keeps threads, such as a session. Raises ProcessError when it is used in a fork.

    Freeing it there would wait for its threads for ever, so a fork keeps it to its end.
    """

    def __init__(self, made: T) -> None:
        self._made, self._process = made, os.getpid()

    def get(self) -> T:
        """Return the object. Raises ProcessError in a fork."""
        require_process(self._process)
        return self._made

    def __del__(self, getpid=os.getpid, keep=ctypes.pythonapi.Py_IncRef, reference=ctypes.py_object) -> None:  # type: ignore[no-untyped-def]
        # as defaults, because at the interpreter's end the module's names may be gone
        if getpid() != self._process:
            keep(reference(self._made))
