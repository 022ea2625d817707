"""NVRTC and nvFatbin from NVIDIA's wheels, called with ctypes. They need no CUDA toolkit, no GPU and no driver."""

import ctypes
import importlib.util
import re
from collections.abc import Sequence
from pathlib import Path

from kernels.cubins import KernelError


def compile_cuda(source: bytes, name: str, options: Sequence[str]) -> tuple[bytes, str]:
    """Compile CUDA source with NVRTC; return the code and the compiler's log.

    The code is machine code for `--gpu-architecture=sm_..`, PTX for `compute_..`.
    Raises KernelError if NVRTC is not found or the source does not compile; then with the first error of the log.
    """
    nvrtc, program, length = _library("nvrtc"), ctypes.c_void_p(), ctypes.c_size_t()
    _require(nvrtc, nvrtc.nvrtcCreateProgram(ctypes.byref(program), source, name.encode(), 0, None, None))
    try:
        flags = (ctypes.c_char_p * len(options))(*(option.encode() for option in options))
        status = nvrtc.nvrtcCompileProgram(program, len(options), flags)
        log = _text(nvrtc, program, "ProgramLog").decode(errors="replace")
        if status:
            errors = [line for line in log.splitlines() if "error" in line] or [_error_text(nvrtc, status)]
            raise KernelError(f"NVRTC does not compile {name}: {errors[0]}")
        kind = "PTX" if any("=compute_" in option for option in options) else "CUBIN"
        _require(nvrtc, getattr(nvrtc, f"nvrtcGet{kind}Size")(program, ctypes.byref(length)))
        return _text(nvrtc, program, kind), log
    finally:
        nvrtc.nvrtcDestroyProgram(ctypes.byref(program))


def version() -> str:
    """Return NVRTC's version, such as 13.0. Raises KernelError if NVRTC is not found."""
    nvrtc, major, minor = _library("nvrtc"), ctypes.c_int(), ctypes.c_int()
    _require(nvrtc, nvrtc.nvrtcVersion(ctypes.byref(major), ctypes.byref(minor)))
    return f"{major.value}.{minor.value}"


def make_fatbin(cubins: dict[int, bytes], ptx: tuple[int, bytes], name: str) -> bytes:
    """Put machine code, by architecture, and the PTX of one architecture into one fatbin. name: of the source, for debuggers

    Raises KernelError if nvFatbin is not found or refuses the code.
    """
    library, handle, size = _library("nvfatbin"), ctypes.c_void_p(), ctypes.c_size_t()
    options = (ctypes.c_char_p * 2)(b"-64", b"-compress-all")  # compressed to a fifth; drivers load both forms
    _require(library, library.nvFatbinCreate(ctypes.byref(handle), options, ctypes.c_size_t(2)))
    try:
        for architecture, code in cubins.items():
            added = library.nvFatbinAddCubin(
                handle, code, ctypes.c_size_t(len(code)), str(architecture).encode(), name.encode()
            )
            _require(library, added)
        architecture, code = ptx
        added = library.nvFatbinAddPTX(
            handle, code, ctypes.c_size_t(len(code)), str(architecture).encode(), name.encode(), None
        )
        _require(library, added)
        _require(library, library.nvFatbinSize(handle, ctypes.byref(size)))
        buffer = ctypes.create_string_buffer(size.value)
        _require(library, library.nvFatbinGet(handle, buffer))
        return buffer.raw
    finally:
        library.nvFatbinDestroy(ctypes.byref(handle))


def _text(nvrtc: ctypes.CDLL, program: ctypes.c_void_p, what: str) -> bytes:
    size = ctypes.c_size_t()
    _require(nvrtc, getattr(nvrtc, f"nvrtcGet{what}Size")(program, ctypes.byref(size)))
    buffer = ctypes.create_string_buffer(size.value)
    _require(nvrtc, getattr(nvrtc, f"nvrtcGet{what}")(program, buffer))
    return buffer.raw


def _library(name: str) -> ctypes.CDLL:
    """Load libNAME.so.N from NVIDIA's wheel, whose folders have had several names, or else from the loader's path."""
    spec = importlib.util.find_spec("nvidia")
    folders = [] if spec is None else [Path(place) for place in spec.submodule_search_locations or ()]
    pattern = re.compile(rf"lib{name}\.so\.\d+")
    found = [path for folder in folders for path in folder.glob(f"*/lib/lib{name}.so.*") if pattern.fullmatch(path.name)]
    newest = sorted(found, key=lambda path: int(path.suffix[1:]), reverse=True)
    for path in [*map(str, newest), f"lib{name}.so.13", f"lib{name}.so.12"]:
        for part in Path(path).parent.glob(f"lib{name}-builtins.so.*"):
            ctypes.CDLL(str(part))  # NVRTC opens it by its bare name, which works once it is loaded
        try:
            library = ctypes.CDLL(path)
        except OSError:
            continue
        getattr(library, _ERRORS[name]).restype = ctypes.c_char_p
        return library
    wheel = {"nvrtc": "nvidia-cuda-nvrtc", "nvfatbin": "nvidia-nvfatbin"}[name]
    raise KernelError(f"lib{name} was not found: run pip install {wheel}")


_ERRORS = {"nvrtc": "nvrtcGetErrorString", "nvfatbin": "nvFatbinGetErrorString"}


def _error_text(library: ctypes.CDLL, status: int) -> str:
    name = next(function for function in _ERRORS.values() if hasattr(library, function))
    return str(getattr(library, name)(status).decode())


def _require(library: ctypes.CDLL, status: int) -> None:
    if status:
        raise KernelError(f"{Path(library._name).name}: {_error_text(library, status)}")
