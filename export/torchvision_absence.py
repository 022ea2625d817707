"""Use transformers and timm without torchvision, which they import if it is there.

PyPI's torchvision does not import beside PyTorch's build for CPUs: "operator torchvision::nms does not exist".
"""

import contextlib
import importlib.abc
import importlib.machinery
import sys
import types
from collections.abc import Iterator
from typing import Any

from export.runtime import silence

_PACKAGE = "torchvision"


def works() -> bool:
    """Say whether torchvision imports; if it does not, leave nothing of it behind."""
    try:
        with silence():
            import torchvision  # noqa: F401, PLC0415 - optional
    except Exception:  # whatever its parts raise
        _forget()
        return False
    return True


@contextlib.contextmanager
def hidden(broken: bool) -> Iterator[None]:
    """Let torchvision, if it is broken, not be found in the block."""
    if not broken:
        yield
        return
    modules: Any = sys.modules
    modules[_PACKAGE] = None  # which the import system takes for a package that is not there
    try:
        yield
    finally:
        _forget()


@contextlib.contextmanager
def replaced(broken: bool) -> Iterator[None]:
    """Let torchvision, if it is broken, import in the block as modules that have any class that is asked of them."""
    if not broken:
        yield
        return
    finder = _Finder()
    sys.meta_path.insert(0, finder)
    try:
        yield
    finally:
        sys.meta_path.remove(finder)
        _forget()


class _AnyClass(type):
    """The metaclass of classes that have any class that is asked of them."""

    def __getattr__(cls, name: str) -> type:
        if name.startswith("__"):
            raise AttributeError(name)
        return _AnyClass(name, (), {})


class _AnyModule(types.ModuleType):
    def __getattr__(self, name: str) -> type:
        if name.startswith("__"):
            raise AttributeError(name)
        made = _AnyClass(name, (), {})
        setattr(self, name, made)
        return made


class _Finder(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    def find_spec(self, fullname: str, path: Any = None, target: Any = None) -> importlib.machinery.ModuleSpec | None:
        if fullname.partition(".")[0] != _PACKAGE:
            return None
        return importlib.machinery.ModuleSpec(fullname, self, is_package=True)

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> types.ModuleType:
        return _AnyModule(spec.name)

    def exec_module(self, module: types.ModuleType) -> None:
        pass


def _forget() -> None:
    for name in [name for name in sys.modules if name.partition(".")[0] == _PACKAGE]:
        del sys.modules[name]
