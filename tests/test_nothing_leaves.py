"""Nothing leaves the machine: no events of ONNX Runtime, no device id, no connection."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

COMMAND = [sys.executable, "-m", "engine.explain", "--json", "--quiet", "--masks", "16"]


def fresh_home(folder: Path, **more: str) -> dict[str, str]:
    kept = {k: v for k, v in os.environ.items() if k != "ORT_DISABLE_TELEMETRY"}
    return {**kept, "HOME": str(folder), "XDG_CACHE_HOME": str(folder / "cache"), **more}


@pytest.mark.parametrize("provider", ["cpu", "openvino"])
def test_no_device_id_is_written(provider: str, tmp_path: Path) -> None:
    subprocess.run(
        [*COMMAND, "--provider", provider], env=fresh_home(tmp_path), cwd=tmp_path, check=True, capture_output=True
    )
    written = {file.relative_to(tmp_path).parts[:2] for file in tmp_path.rglob("*") if file.is_file()}
    assert written <= {("cache", "sane-engine")}


def test_a_user_who_set_the_variable_is_respected(tmp_path: Path) -> None:
    code = "import os, engine; print(os.environ['ORT_DISABLE_TELEMETRY'])"
    for given, wanted in (({}, "1"), ({"ORT_DISABLE_TELEMETRY": "0"}, "0")):
        environment = fresh_home(tmp_path, **given)
        done = subprocess.run([sys.executable, "-c", code], env=environment, check=True, capture_output=True, text=True)
        assert done.stdout.strip() == wanted


@pytest.mark.skipif(shutil.which("strace") is None, reason="strace is not installed")
@pytest.mark.parametrize("provider", ["cpu", "openvino"])
def test_no_connection_is_made(provider: str, tmp_path: Path) -> None:
    traced = ["strace", "-f", "-qq", "-e", "trace=connect,sendto", "-o", str(tmp_path / "calls"), *COMMAND]
    traced += ["--provider", provider]
    done = subprocess.run(traced, env=fresh_home(tmp_path), cwd=tmp_path, check=False, capture_output=True)
    if done.returncode and b"ptrace" in done.stderr:
        pytest.skip("this machine does not allow tracing")
    assert done.returncode == 0
    assert "AF_INET" not in (tmp_path / "calls").read_text()
