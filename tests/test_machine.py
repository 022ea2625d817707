"""The machine as it is: no home, pipes among the files, a damaged cache, CPU quotas, and what it could never start."""

import math
import os
import subprocess
import sys
from pathlib import Path

import pytest
from helpers import CAT, ROOT, write_demo_pairs

from engine import Explainer, ImageError, OptionError, OutputError
from engine.evaluate import command
from engine.files import cache_folder
from engine.model import LoadedModel
from engine.reference_vectors import read_embedding_file
from engine.runtime import cores
from engine.runtime.cores import cpu_quota, usable_cores
from engine.terminal import BAD_INPUT

HANGS = 60
"""Seconds after which a process counts as one that hangs."""
ANSWER = """
import os, sys
from engine import Explainer

Explainer()
if int(sys.argv[1]):
    del os.environ["XDG_CACHE_HOME"]
    os.setgroups([])
    os.setgid(int(sys.argv[1]))
    os.setuid(int(sys.argv[1]))  # who has no name, and may read nothing of root's from here on    Explainer()
"""


def answered(home: dict[str, str], user: int = 0) -> "subprocess.CompletedProcess[str]":
    """Load a model in a process whose environment has little besides `home`, as another user if one is given."""
    environment = {"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT), **home}
    command = [sys.executable, "-c", ANSWER, str(user)]
    return subprocess.run(command, env=environment, text=True, capture_output=True, timeout=HANGS, check=False, cwd="/")


def test_without_a_home_nothing_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    def homeless() -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setattr(Path, "home", homeless)
    with pytest.raises(OutputError, match="set HOME or XDG_CACHE_HOME"):
        cache_folder()
    assert Explainer(precision="fp32").embed([CAT[0]]).shape == (1, 64)


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() != 0, reason="only root can become another user")
def test_a_user_without_a_name_and_a_home_gets_an_answer(tmp_path: Path) -> None:
    done = answered({"XDG_CACHE_HOME": str(tmp_path)}, user=123456)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="this system has no named pipes")
def test_a_pipe_is_refused_where_reading_it_would_wait_for_ever(
    tmp_path: Path, explainer: Explainer, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("picture.png", "vectors.npy"):
        os.mkfifo(tmp_path / name)
    with pytest.raises(ImageError, match="is a pipe or a device, not a picture"):
        explainer.embed([tmp_path / "picture.png"])
    with pytest.raises(ImageError, match="not a file"):
        read_embedding_file(str(tmp_path / "vectors.npy"))
    pairs = write_demo_pairs(tmp_path)
    pairs.write_text("query,reference\npicture.png,cat-noto.png\n")
    assert command.main([str(pairs), "--out", str(tmp_path / "r.json"), "--methods", "random", "--quiet"]) == BAD_INPUT
    assert "there is no picture" in capsys.readouterr().err
    os.mkfifo(tmp_path / "out.json")
    assert command.main([str(pairs), "--out", str(tmp_path / "out.json"), "--quiet"]) == BAD_INPUT
    assert "pipe or a device" in capsys.readouterr().err


@pytest.mark.parametrize("content", ["pipe", "[" * 200_000, '{"batch": "4"}', '{"batch": 1e999}', "\udcff"])
def test_a_cache_file_that_is_damaged_is_measured_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: str
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    expected = Explainer(precision="fp32").embed([CAT[0]])
    (kept,) = (tmp_path / "sane-engine").iterdir()
    kept.unlink()
    if content == "pipe":
        os.mkfifo(kept)
    else:
        kept.write_bytes(content.encode(errors="surrogateescape"))
    again = answered({"XDG_CACHE_HOME": str(tmp_path)})  # a process of its own, which may hang
    assert (again.returncode, again.stderr) == (0, "")
    assert (Explainer(precision="fp32").embed([CAT[0]]) == expected).all()


def test_more_threads_than_any_machine_has_are_refused_at_once(tiny_bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(LoadedModel, "__init__", lambda *_: pytest.fail("threads were started"))
    for threads in (1025, 100_000, 2**31):
        with pytest.raises(OptionError, match="threads must be a whole number from 1 to 1024"):
            Explainer(tiny_bundle, threads=threads)


def write_groups(root: Path, groups: str, files: dict[str, str]) -> tuple[Path, Path]:
    """Stand in for Linux's files about control groups."""
    (root / "cgroup").write_text(groups)
    for name, content in files.items():
        (root / "mounts" / name).parent.mkdir(parents=True, exist_ok=True)
        (root / "mounts" / name).write_text(content)
    return root / "cgroup", root / "mounts"


V1 = "9:name=systemd:/\n5:cpuset:/x\n2:cpu,cpuacct:/docker/abc\n0::/\n"


@pytest.mark.parametrize(
    ("groups", "files", "expected"),
    [
        ("0::/a/b\n", {"a/b/cpu.max": "150000 100000\n"}, 1.5),
        ("0::/a/b\n", {"a/b/cpu.max": "max 100000\n", "a/cpu.max": "200000 100000\n"}, 2),  # a group above limits it
        ("0::/a/b\n", {"a/b/cpu.max": "300000 100000\n", "a/cpu.max": "200000 100000\n"}, 2),
        ("0::/a/b\n", {"cpu.max": "50000 100000\n"}, 0.5),  # in a container, which sees its own group as the root
        ("0::/\n", {"cpu.max": "max 100000\n"}, math.inf),
        ("0::/\n", {}, math.inf),
        ("0::/\n", {"cpu.max": "nonsense"}, math.inf),
        (V1, {"cpu/docker/abc/cpu.cfs_quota_us": "250000", "cpu/docker/abc/cpu.cfs_period_us": "100000"}, 2.5),
        (V1, {"cpu/cpu.cfs_quota_us": "100000", "cpu/cpu.cfs_period_us": "100000"}, 1),
        (V1, {"cpu/docker/abc/cpu.cfs_quota_us": "-1", "cpu/docker/abc/cpu.cfs_period_us": "100000"}, math.inf),
        (V1, {"cpu/x/cpu.cfs_quota_us": "1", "cpu/x/cpu.cfs_period_us": "100000"}, math.inf),  # another controller's
        ("damaged\n", {}, math.inf),
    ],
)
def test_a_cpu_quota_is_read(tmp_path: Path, groups: str, files: dict[str, str], expected: float) -> None:
    assert cpu_quota(*write_groups(tmp_path, groups, files)) == expected


def test_the_default_number_of_threads_respects_a_quota(tiny_bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(16)), raising=False)
    for quota, expected in ((math.inf, 16), (2.5, 3), (0.1, 1), (64.0, 16)):
        monkeypatch.setattr(cores, "cpu_quota", lambda quota=quota: quota)
        assert usable_cores() == expected
    monkeypatch.setattr(cores, "cpu_quota", lambda: 2.5)
    assert Explainer(tiny_bundle, "cpu", "fp32").model.threads == 3
    assert Explainer(tiny_bundle, "cpu", "fp32", threads=4).model.threads == 4


def test_a_system_without_such_files_has_no_quota(tmp_path: Path) -> None:
    assert cpu_quota(tmp_path / "none", tmp_path) == math.inf
