"""The process's one CUDA device, shared by every session on it."""

import contextlib
import functools
import threading
import weakref
from collections.abc import Callable, Iterator

from engine.errors import ProviderError
from kernels.device import Device, DeviceError

_shared: list[Device] = []
_sharing = threading.Lock()


def shared_device() -> Device:
    """The process's CUDA device, opened when it is first asked for. Raises ProviderError, saying what is missing."""
    with _sharing, as_provider_error("cannot be used"):
        if not _shared:
            _shared.append(Device())
        return _shared[0]


def close_device() -> None:
    """Give everything on it back; sessions that use it are of no use after that."""
    with _sharing:
        while _shared:
            _shared.pop().close()


@contextlib.contextmanager
def as_provider_error(what: str) -> Iterator[None]:
    """Turn errors of the device into a ProviderError that reads: the GPU, then `what`, then the error."""
    try:
        yield
    except DeviceError as error:
        raise ProviderError(f"the GPU {what}: {error}") from error


def close_with(holder: object, device: Device, close: Callable[[], None]) -> None:
    """Run `close` on the worker when `holder` is no longer used, or when the device closes, if that is sooner."""
    weakref.finalize(holder, device.later, functools.partial(device.release, device.attach(close)))
