"""Commands under odd circumstances: isolated and optimised Python, an ASCII locale, closed streams, another user."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from helpers import CAT, ROOT, python

FEW = ["--masks", "64", "--seed", "3"]
START = f"import sys; sys.path.insert(0, {str(ROOT)!r}); from engine.explain import main; sys.exit(main(sys.argv[1:]))"
"""Isolated Python reads neither PYTHONPATH nor the folder it is in."""


@pytest.fixture(scope="module")
def expected(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """The picture that the command draws under ordinary circumstances."""
    out = tmp_path_factory.mktemp("expected") / "why.png"
    assert python("-m", "engine.explain", *CAT, *FEW, "--out", out, "--quiet").returncode == 0
    return out.read_bytes()


@pytest.mark.parametrize("flags", ["-I", "-O", "-OO", "-X utf8=0", "-W error", "-B -s -E"])
def test_flags_of_python_change_no_answer(tmp_path: Path, expected: bytes, flags: str) -> None:
    done = python(*flags.split(), "-c", START, *CAT, *FEW, "--out", "why.png", "--quiet", cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    assert (tmp_path / "why.png").read_bytes() == expected


ASCII = {"LC_ALL": "C", "LANG": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0", "PYTHONIOENCODING": ""}


def test_an_ascii_locale_loses_no_name(tmp_path: Path) -> None:
    query = tmp_path / "Kätzchen 猫.png"
    query.write_bytes(CAT[0].read_bytes())
    done = python("-m", "engine.explain", query, CAT[1], *FEW, "--out", tmp_path / "wärum.json", env=ASCII)
    assert done.returncode == 0, done.stderr
    assert "rum.json" in done.stdout and done.stdout.isascii()
    assert json.loads((tmp_path / "wärum.json").read_text(encoding="utf-8"))["similarity"] > 0.9
    pairs = tmp_path / "pairs.csv"
    pairs.write_text(f"query,reference\n{query.name},{query.name}\n", encoding="utf-8")
    out = ["--methods", "random", "--out", tmp_path / "r.json", "--quiet"]
    assert python("-m", "engine.evaluate", pairs, *out, env=ASCII).returncode == 0
    assert (tmp_path / "r.json").is_file()


@pytest.mark.skipif(os.name != "posix", reason="closes descriptors before the program starts")
@pytest.mark.parametrize("closed", [(0,), (1,), (2,), (0, 1, 2)])
def test_closed_streams_harm_no_file(tmp_path: Path, expected: bytes, closed: tuple[int, ...]) -> None:
    noisy = """
import os, sys
import engine.explanation

write = engine.explanation.write_whole

def noisy(path, content):  # another library prints while a file is open
    with open(path, "xb") as file:
        assert file.fileno() > 2
        os.write(1, b"noise")
        os.write(2, b"noise")
    os.remove(path)
    write(path, content)

engine.explanation.write_whole = noisy
from engine.explain import main
sys.exit(main(sys.argv[1:]))
"""
    numbers = " ".join(f"{number}>&-" for number in closed)
    arguments = [*map(str, CAT), *FEW, "--out", "why.png", "--quiet"]
    quoted = " ".join(f"'{argument}'" for argument in [sys.executable, "-c", noisy.replace("'", '"'), *arguments])
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = ["sh", "-c", f"exec {quoted} {numbers}"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, env=environment, check=False)
    assert done.returncode == (2 if 1 in closed else 0), done.stderr  # the answer could not be printed
    assert (tmp_path / "why.png").read_bytes() == expected


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() != 0, reason="only root can become another user")
def test_a_user_who_may_not_write_is_told_so(tmp_path: Path) -> None:
    script = """
import os, sys
from engine import Explainer, Rise, explain

explanation = Explainer().explain(*sys.argv[1:3], Rise(masks=64))
for suffix in (".png", ".html", ".json", ".npz"):
    explanation.save("why" + suffix)  # now, because all of root's Python is out of reach below
before = {name: open(name, "rb").read() for name in os.listdir()}
os.setgid(65534)
os.setuid(65534)
for suffix in (".png", ".html", ".json", ".npz"):
    try:
        explanation.save("why" + suffix)
    except Exception as error:
        assert str(error) == f"cannot write why{suffix}: Permission denied", error
    else:
        raise AssertionError(suffix)
assert {name: open(name, "rb").read() for name in os.listdir()} == before
"""
    tmp_path.chmod(0o755)  # others may read it, and not write
    done = python("-c", script, *CAT, cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
