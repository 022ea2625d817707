"""The one CUDA device of this process, shared by all its sessions."""

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
    """Return the process's CUDA device, opened at the first call. Raises ProviderError, which says what is missing."""
    with _sharing, as_provider_error("cannot be used"):
        if not _shared:
            _shared.append(Device())
        return _shared[0]


def close_device() -> None:
    """Free everything on the device; sessions that use it cannot run any more."""
    with _sharing:
        while _shared:
            _shared.pop().close()


@contextlib.contextmanager
def as_provider_error(what: str) -> Iterator[None]:
    """Turn a DeviceError into a ProviderError that reads "the GPU {what}: {error}"."""
    try:
        yield
    except DeviceError as error:
        raise ProviderError(f"the GPU {what}: {error}") from error


def close_with(holder: object, device: Device, close: Callable[[], None]) -> None:
    """Run `close` on the worker thread when `holder` is garbage collected or the device closes, whichever comes first."""
    weakref.finalize(holder, device.later, functools.partial(device.release, device.attach(close)))
