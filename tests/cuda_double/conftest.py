"""Every test over the double ends with nothing held."""

import gc
from collections.abc import Iterator

import pytest
from double import held

from engine.device import close_device
from kernels.device import Device


@pytest.fixture(autouse=True)
def nothing_is_left() -> Iterator[None]:
    yield
    close_device()
    gc.collect()
    assert held() == {}


@pytest.fixture
def device() -> Iterator[Device]:
    with Device() as device:
        yield device
