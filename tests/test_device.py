"""kernels.device and the engine's GPU path over the test double of libcuda, and the messages on machines without a GPU."""

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from engine import Explainer
from kernels.device import lacking
from tests.cuda_double.build import NAME, built

ROOT = Path(__file__).parent.parent
DOUBLE = Path(__file__).parent / "cuda_double"

needs_pycuda = pytest.mark.skipif(
    importlib.util.find_spec("pycuda") is None, reason="pycuda is not installed: bash .ci/pycuda builds it, without a GPU"
)


@pytest.fixture(scope="module")
def double(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return built(tmp_path_factory.mktemp("double"))


def ran(double: Path, *arguments: str, **environment: str) -> "subprocess.CompletedProcess[str]":
    """Run Python over the double in its own process, so that no library of that name stays loaded in this one."""
    settings = {**os.environ, "LD_LIBRARY_PATH": str(double), "PYTHONPATH": str(ROOT), **environment}
    return subprocess.run([sys.executable, *arguments], capture_output=True, text=True, check=False, env=settings, cwd=ROOT)


@needs_pycuda
def test_the_device_path_over_the_double(double: Path) -> None:
    """Run `cuda_double/over_*.py`; each test there checks that nothing is left on the device."""
    files = sorted(map(str, DOUBLE.glob("over_*.py")))
    assert len(files) == 2
    plugin = {"PYTHONPATH": os.pathsep.join(map(str, (ROOT, DOUBLE)))}
    done = ran(double, "-m", "pytest", "-p", "no:cacheprovider", "-p", "double", *files, **plugin)
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]
    assert " passed" in done.stdout


@needs_pycuda
def test_a_process_that_closes_nothing_ends_well(double: Path) -> None:
    """pycuda aborts a process if a thread ends with a context, so the device must close before the interpreter exits."""
    program = """
import ctypes, weakref
from kernels.device import Device

def print_counts():
    counts = (ctypes.c_long * 9)()
    ctypes.CDLL("libcuda.so.1").double_counts(counts)
    print(list(counts[:6]), flush=True)

class Last:
    pass

last = Last()
weakref.finalize(last, print_counts)  # the finalizer made first is called last
device = Device()
array = device.empty((100,), "float32")
"""
    done = ran(double, "-c", program)
    assert (done.returncode, done.stdout, done.stderr) == (0, "[0, 0, 0, 0, 0, 0]\n", "")


@needs_pycuda
def test_a_driver_without_a_device_is_reported(double: Path) -> None:
    program = "from kernels.device import Device\nDevice()"
    done = ran(double, "-c", program, CUDA_DOUBLE_DEVICES="0")
    assert done.returncode == 1
    assert "NoDevice: the NVIDIA driver finds no CUDA device: cuInit failed" in done.stderr


@needs_pycuda
def test_a_device_is_named_as_pycuda_names_it(double: Path) -> None:
    program = """
from engine.runtime.gpu_opening import device_name
from kernels.device import Device
with Device() as device:
    assert device.name == device_name(device.ordinal) != "unknown"
"""
    done = ran(double, "-c", program)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.skipif("driver" not in " ".join(lacking()), reason="this machine has an NVIDIA driver")
class TestWithoutDriver:
    @pytest.mark.parametrize("provider", ["cuda", "tensorrt"])
    def test_the_command_names_what_is_missing(self, provider: str) -> None:
        command = [sys.executable, "-m", "engine.explain", "--provider", provider, "--json"]
        done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT)
        assert (done.returncode, done.stdout) == (2, "")
        (line,) = done.stderr.splitlines()
        assert line.startswith(
            f"error: provider '{provider}' was asked for, but this machine lacks an NVIDIA driver ({NAME})"
        )
        assert f"pip install 'sane-engine[{provider}]'" in line

    def test_auto_is_the_cpu_and_says_so(self) -> None:
        explainer = Explainer()
        assert explainer.provider == "cpu"
        assert explainer.provider_reason.startswith("tensorrt needs an NVIDIA driver")
        assert "cuda needs an NVIDIA driver" in explainer.provider_reason
        assert Explainer(provider="cpu").provider_reason == "asked for"

    def test_json_says_which_provider_ran(self) -> None:
        command = [sys.executable, "-m", "engine.explain", "--provider", "auto", "--masks", "64", "--json"]
        done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=ROOT)
        (explanation,) = json.loads(done.stdout)
        assert explanation["provider"] in ("cpu", "openvino")  # what is cheaper here
        assert done.stderr == ""

    def test_pycuda_is_not_even_imported(self) -> None:
        program = "import sys, engine; engine.Explainer(); print([m for m in sys.modules if m.split('.')[0] == 'pycuda'])"
        done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, cwd=ROOT)
        assert done.stdout == "[]\n"


def test_each_missing_part_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def none(name: str) -> None:
        raise OSError(name)

    monkeypatch.setattr("kernels.driver.ctypes.CDLL", none)
    monkeypatch.setattr("kernels.driver.importlib.util.find_spec", lambda name: object())
    assert lacking() == [f"an NVIDIA driver ({NAME})"]
    monkeypatch.setattr("kernels.driver.ctypes.CDLL", lambda name: object())
    assert lacking() == []
    monkeypatch.setattr("kernels.driver.importlib.util.find_spec", lambda name: None)
    assert lacking() == ["pycuda"]


@pytest.mark.parametrize(
    ("lacks", "heard"),
    [(["pycuda"], ["pycuda", "onnxruntime-gpu", "pip install"]), ([f"an NVIDIA driver ({NAME})", "pycuda"], [])],
)
def test_auto_says_what_a_machine_with_a_gpu_lacks(
    monkeypatch: pytest.MonkeyPatch, lacks: list[str], heard: list[str]
) -> None:
    monkeypatch.setattr("engine.runtime.providers.lacking", lambda: lacks)
    monkeypatch.setattr("engine.runtime.session.ort.get_available_providers", lambda: ["CPUExecutionProvider"])
    lines: list[str] = []
    assert Explainer(notice=lines.append).provider == "cpu"
    assert len(lines) == bool(heard)
    assert all(word in lines[0] for word in heard)
