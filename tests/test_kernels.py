"""The CUDA kernels, compiled for the CPU by the host shim, against the numpy renderers; the fatbin against its source."""

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kernels import build, cubins
from kernels.rise import RiseRenderer
from tests.kernel_cases import (
    FIXED,
    KINDS,
    SANITIZERS,
    Case,
    Host,
    case,
    compiler,
    difference,
    host_library,
    sanitized,
)

needs_compiler = pytest.mark.skipif(compiler() is None, reason="no C++ compiler: the kernels cannot run on the CPU")
SPARE = 1
"""Rows after the last one, which kernels must not touch."""


@pytest.fixture(scope="session")
def host(tmp_path_factory: pytest.TempPathFactory) -> Host:
    return Host(host_library(tmp_path_factory.mktemp("kernels")))


cases = st.builds(
    case,
    st.sampled_from(KINDS),
    st.integers(0, 2**32 - 1),
    st.tuples(st.integers(1, 4), st.integers(1, 40), st.integers(1, 40)),
    channels_last=st.booleans(),
    hidden=st.booleans(),
    first=st.integers(0, 3),
    count=st.integers(1, 4),
    grid=st.integers(1, 12),
    shifted=st.frozensets(st.sampled_from(["picture", "baseline", "out"]), max_size=2),
    blocks=st.sampled_from([None, 1, 2]),
)


@needs_compiler
@settings(max_examples=200, deadline=None)  # test machines are busy
@given(cases)
def test_kernels_equal_numpy(host: Host, drawn: Case) -> None:
    assert difference(host, drawn, SPARE) is None


@needs_compiler
@pytest.mark.parametrize("width", [224, 299])
@pytest.mark.parametrize(("kind", "grid"), [("rise", 8), ("rise", 13), ("rise", 33), ("rise", 64), ("segments", 130)])
def test_large_pictures_and_grids(host: Host, kind: str, grid: int, width: int) -> None:
    assert difference(host, case(kind, grid, (3, 224, width), grid=grid), SPARE) is None


@needs_compiler
def test_golden_rise_masks(host: Host, golden: dict[str, np.ndarray]) -> None:
    renderer = RiseRenderer(golden["rise_grids"], golden["rise_shifts"], 112, 112)
    plan, ones = renderer.kernel_plan(), np.ones((1, 112, 112), np.float32)
    some = Case("rise", ones, None, False, 0, 4, plan.arguments, golden["rise_masks_first4"])
    np.testing.assert_allclose(host.rows(some)[:, 0], golden["rise_masks_first4"], atol=1e-5, rtol=0)


@needs_compiler
def test_an_argument_buffer_of_the_wrong_size_is_refused(tmp_path: Path) -> None:
    library = host_library(tmp_path)
    call = f"import ctypes; n = (ctypes.c_uint * 3)(1, 1, 1); ctypes.CDLL({str(library)!r}).host_rise(n, n, b'x' * 96, 96)"
    ran = subprocess.run([sys.executable, "-c", call], capture_output=True, text=True, check=False)
    assert ran.returncode != 0
    assert "argument buffer of 96 bytes" in ran.stderr


@needs_compiler
def test_under_sanitizers(tmp_path: Path) -> None:
    environment = sanitized()
    if environment is None:
        pytest.skip("the compiler has no AddressSanitizer library")
    library = host_library(tmp_path, SANITIZERS)
    command = [sys.executable, "-m", "tests.kernel_cases", str(library)]
    ran = subprocess.run(command, env=os.environ | environment, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert f"{len(FIXED)} cases agree" in ran.stdout


def test_the_fatbin_is_of_this_source() -> None:
    code, stored = cubins.fatbin(), cubins.record()
    assert code[:4] == bytes.fromhex("50ed55ba")  # a fatbin's magic number, 0xba55ed50
    assert set(stored["registers"]) == {f"sm_{a}" for a in cubins.GPU_ARCHITECTURES}
    assert all(set(registers) == set(KINDS) for registers in stored["registers"].values())


def test_a_stale_or_changed_fatbin_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    source, code = tmp_path / "masks.cu", tmp_path / "masks.fatbin"
    source.write_bytes(cubins.SOURCE.read_bytes() + b"\n")
    code.write_bytes(cubins.FATBIN.read_bytes())
    with monkeypatch.context() as patch:
        patch.setattr(cubins, "SOURCE", source)
        assert build.main(["--check"]) == 1
    message = capsys.readouterr().err
    assert "stale" in message
    assert message.count("\n") == 1
    monkeypatch.setattr(cubins, "FATBIN", code)
    code.write_bytes(code.read_bytes()[:-1])
    with pytest.raises(cubins.KernelError, match="is not the file"):
        cubins.fatbin()
    code.unlink()
    with pytest.raises(cubins.KernelError, match="missing"):
        cubins.fatbin()


def test_an_interrupt_ends_the_command_in_a_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Nothing is written: neither by half nor beside the fatbin."""
    code, stored = tmp_path / "masks.fatbin", tmp_path / "masks.json"
    monkeypatch.setattr(build, "FATBIN", code)
    monkeypatch.setattr(build, "FATBIN_RECORD", stored)
    monkeypatch.setattr(build, "build_fatbin", lambda: (b"code", {"registers": {}, "ptx": "compute_75"}))
    write = Path.write_bytes

    def interrupted(path: Path, content: bytes) -> int:
        if path.name == stored.name:
            raise KeyboardInterrupt
        return write(path, content)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "write_bytes", interrupted)
        assert build.main([]) == 130
    assert capsys.readouterr() == ("", "kernels.build: stopped\n")
    assert list(tmp_path.iterdir()) == []
    handler = signal.getsignal(signal.SIGINT)

    def replaced(path: Path, target: Path, replace: Callable[[Path, Path], Path] = Path.replace) -> Path:
        signal.raise_signal(signal.SIGINT)  # between the two files it is ignored
        return replace(path, target)

    monkeypatch.setattr(Path, "replace", replaced)
    assert build.main([]) == 0
    assert sorted(tmp_path.iterdir()) == [code, stored]
    assert signal.getsignal(signal.SIGINT) is handler


LOG = """\
ptxas info    : Compiling entry function 'rise' for 'sm_80'
ptxas info    : Function properties for rise
ptxas         .     {stack} bytes stack frame, {stores} bytes spill stores, 0 bytes spill loads
ptxas info    : Used 32 registers, used 0 barriers, 424 bytes cmem[0]
"""


def test_spills_are_read_from_the_log() -> None:
    assert build.registers(LOG.format(stack=0, stores=0), 80) == {"rise": 32}
    for stack, stores in ((8, 0), (0, 4)):
        with pytest.raises(cubins.KernelError, match="rise spills on sm_80"):
            build.registers(LOG.format(stack=stack, stores=stores), 80)
    with pytest.raises(cubins.KernelError, match="form"):
        build.registers(LOG.format(stack=0, stores=0).replace("Used", "Took"), 80)
    with pytest.raises(cubins.KernelError, match="form"):
        build.registers("", 80)


def _require_nvrtc() -> None:
    try:
        build.nvidia.version()
    except cubins.KernelError as error:
        pytest.skip(str(error))


def test_another_architecture_is_compiled_at_first_use() -> None:
    _require_nvrtc()
    assert build.cubin_for(87)[:4] == b"\x7fELF"
    with pytest.raises(cubins.KernelError, match="masks\\.cu"):
        build.cubin_for(1)


def test_source_that_does_not_compile_is_one_line() -> None:
    _require_nvrtc()
    with pytest.raises(cubins.KernelError, match=r"NVRTC does not compile wrong\.cu.*\(1\): error") as raised:
        build.nvidia.compile_cuda(b"int x = y;", "wrong.cu", ["--gpu-architecture=sm_80"])
    assert "\n" not in str(raised.value)
