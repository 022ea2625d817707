"""How commands end: Ctrl-C, full and closed streams, broken pipes, and the progress bar."""

import json
import os
import re
import select
import signal
import subprocess
import sys
import termios
from pathlib import Path

import pytest
from helpers import ROOT, python, write_demo_pairs

from engine.terminal import BAD_INPUT, BROKEN_PIPE, INTERRUPTED, Bar, notice, run_command, say

EXPLAIN = ("-m", "engine.explain", "--masks", "16")
COMMANDS = (
    *("engine.explain", "engine.evaluate", "engine.evaluate.attributes", "engine.serve", "export"),
    *("training.similarity", "training.attributes", "training.emoji"),
)
"""What runs inside `run_command`."""
BUFFERED = pytest.mark.parametrize("unbuffered", ["", "1"], ids=["buffered", "unbuffered"])
"""Buffered output fails when Python ends, unbuffered output when it is written."""
INTERRUPTIBLE = (
    "import os, signal, sys; signal.signal(signal.SIGINT, signal.SIG_DFL); os.execv(sys.executable, sys.argv[1:])"
)
"""Runs a command that Ctrl-C stops, even if the tests run in the background, where it is ignored."""
INTERRUPTED_AT_RENAME = """
import os, signal, sys
def watch(frame, event, function):
    if event == "c_call" and function is os.replace and str(frame.f_locals.get("path")).endswith("why.html"):
        os.kill(os.getpid(), signal.SIGINT)
sys.setprofile(watch)
"""


def through(script: str, *arguments: str | Path, **options: object) -> "subprocess.CompletedProcess[str]":
    """Run Python through a shell script, in which `"$@"` is the command."""
    hand_over = "import subprocess, sys; sys.exit(subprocess.call(sys.argv[1:]))"
    return python("-c", hand_over, "bash", "-c", script, "bash", sys.executable, *arguments, **options)


def in_terminal(*arguments: str, cwd: Path, until: str | None = None) -> tuple[int, str, str]:
    """Run Python with a terminal as standard error; returns exit status, standard output and what the terminal was sent.

    until: a pattern; as soon as it is in the terminal, the process is interrupted once
    The exit status is a shell's: Python that was interrupted in an import may end by the signal itself, which is 130 too.
    """
    master, slave = os.openpty()
    termios.tcsetwinsize(slave, (24, 100))
    command = [sys.executable, "-c", INTERRUPTIBLE, sys.executable, *arguments]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    with subprocess.Popen(
        command, cwd=cwd, env=environment, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=slave, text=True
    ) as process:
        os.close(slave)
        text = ""
        try:
            while select.select([master], [], [], 60)[0]:
                try:
                    text += os.read(master, 2**16).decode()
                except OSError:  # the process has ended
                    break
                if until is not None and re.search(until, text):
                    process.send_signal(signal.SIGINT)
                    until = None
            output, _ = process.communicate(timeout=60)
        finally:
            process.kill()
            os.close(master)
    return process.returncode if process.returncode >= 0 else 128 - process.returncode, output, text


def lines_left(text: str) -> list[str]:
    """Return the lines of a terminal that are not blank, after what was written over them."""
    lines = [line.rstrip("\r").split("\r")[-1] for line in text.split("\n")]
    return [line for line in lines if line.strip()]


def test_ctrl_c_stops_the_passes(tmp_path: Path) -> None:
    arguments = ("-m", "engine.explain", "--estimator", "sane", "--masks", "300000", "--out", "why.png")
    status, output, text = in_terminal(*arguments, cwd=tmp_path, until=r"passes: +[1-9]\d*%")
    assert (status, output, lines_left(text)) == (INTERRUPTED, "", ["stopped"])
    assert list(tmp_path.iterdir()) == []


def test_ctrl_c_stops_an_evaluation_between_two_whole_rows(tmp_path: Path) -> None:
    write_demo_pairs(tmp_path)
    before = set(tmp_path.iterdir())
    arguments = ("-m", "engine.evaluate", "pairs.csv", "--methods", "rise,lime", "--masks", "3000", "--out", "report.json")
    status, output, text = in_terminal(*arguments, cwd=tmp_path, until=r"rows: +[1-9]\d*%")
    assert (status, output) == (INTERRUPTED, "")
    (line,) = lines_left(text)
    assert line.startswith("stopped; the same command ")
    (rows,) = set(tmp_path.iterdir()) - before
    assert rows.name == "report.rows.jsonl"
    _, *done = (json.loads(line) for line in rows.read_text().splitlines())
    assert 1 <= len(done) < 6
    assert all(row["insertion_scores"] for row in done)


def test_ctrl_c_before_a_file_is_complete_leaves_the_older_one(tmp_path: Path) -> None:
    hook, work = tmp_path / "hook", tmp_path / "work"
    hook.mkdir()
    work.mkdir()
    (hook / "sitecustomize.py").write_text(INTERRUPTED_AT_RENAME)
    (work / "why.html").write_text("an older explanation")
    paths = os.pathsep.join(map(str, (hook, ROOT)))
    command = ("-c", INTERRUPTIBLE, sys.executable, *EXPLAIN, "--out", "why.html")
    done = python(*command, cwd=work, env={"PYTHONPATH": paths, "PYTHONDONTWRITEBYTECODE": "1"})
    assert (done.returncode, done.stdout, done.stderr) == (INTERRUPTED, "", "stopped\n")
    assert [file.read_text() for file in work.iterdir()] == ["an older explanation"]


@BUFFERED
@pytest.mark.parametrize(
    "arguments", [(*EXPLAIN, "--json"), (*EXPLAIN, "--quiet"), *(("-m", c, "--help") for c in COMMANDS)]
)
def test_a_reader_that_went_away_is_no_error(arguments: tuple[str, ...], unbuffered: str, tmp_path: Path) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    try:
        done = python(*arguments, cwd=tmp_path, stdout=writer, env={"PYTHONUNBUFFERED": unbuffered})
    finally:
        os.close(writer)
    assert done.returncode in (0, BROKEN_PIPE)
    assert done.stderr == ""


def test_pipelines_end_quietly(tmp_path: Path) -> None:
    for script, arguments in (
        ('"$@" | head -c 1; exit "${PIPESTATUS[0]}"', (*EXPLAIN, "--json")),
        ('"$@" | true; exit "${PIPESTATUS[0]}"', ("-m", "engine.explain", "--help")),
        ('"$@" 2>&1 >/dev/null | true; exit "${PIPESTATUS[0]}"', (*EXPLAIN, "none.png", "none.png")),
    ):
        done = through(script, *arguments, cwd=tmp_path)
        assert done.returncode in (0, BROKEN_PIPE) or (done.returncode, arguments[-1]) == (BAD_INPUT, "none.png")
        assert done.stderr == ""


@BUFFERED
@pytest.mark.parametrize("arguments", [(*EXPLAIN, "--json"), EXPLAIN, *(("-m", c, "--help") for c in COMMANDS)])
def test_a_full_disk_is_one_line(arguments: tuple[str, ...], unbuffered: str, tmp_path: Path) -> None:
    with open("/dev/full", "w") as full:
        done = python(*arguments, cwd=tmp_path, stdout=full, env={"PYTHONUNBUFFERED": unbuffered})
    assert done.returncode == BAD_INPUT
    assert done.stderr == "error: cannot write to standard output: No space left on device\n"


@BUFFERED
@pytest.mark.parametrize("arguments", [("none.png", "none.png"), ("--nonsense",), ("--json",)])
def test_errors_that_cannot_be_shown_keep_the_exit_status(
    arguments: tuple[str, ...], unbuffered: str, tmp_path: Path
) -> None:
    environment = {"PYTHONUNBUFFERED": unbuffered}
    with open("/dev/full", "w") as full:
        done = python(*EXPLAIN, *arguments, cwd=tmp_path, stderr=full, env=environment)
    closed = through('exec "$@" 2>&-', *EXPLAIN, *arguments, cwd=tmp_path, env=environment)
    for ended in (done, closed):
        assert ended.returncode == (0 if "--json" in arguments else BAD_INPUT)
        assert (ended.stdout == "") == ("--json" not in arguments)
    assert closed.stderr == ""


@pytest.mark.parametrize("arguments", [(*EXPLAIN, "--json"), EXPLAIN, ("-m", "engine.explain", "--help")])
def test_closed_standard_output_is_one_line(arguments: tuple[str, ...], tmp_path: Path) -> None:
    done = through('exec "$@" >&-', *arguments, cwd=tmp_path)
    assert (done.returncode, done.stderr) == (BAD_INPUT, "error: cannot write to standard output: it is closed\n")
    done = through('exec "$@" >&- 2>&-', *arguments, cwd=tmp_path)
    assert (done.returncode, done.stderr) == (BAD_INPUT, "")


def test_a_bar_is_for_terminals_that_asked_for_one(tmp_path: Path) -> None:
    shown = {}
    for given in ((), ("--quiet",)):
        status, output, shown[given] = in_terminal(*EXPLAIN, "--json", *given, cwd=tmp_path)
        assert (status, json.loads(output)[0]["passes"]) == (0, 18)
        assert lines_left(shown[given]) == []
    assert "passes" in shown[()]
    assert shown["--quiet",] == ""
    assert python(*EXPLAIN, "--json", cwd=tmp_path).stderr == ""  # not a terminal


def test_a_command_without_streams_ends_as_it_would(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdout", None)
    monkeypatch.setattr("sys.stderr", None)
    notice("nobody hears this")
    with Bar(False, "passes", "pass") as bar:
        bar.show(1, 2)
    assert run_command(lambda: None) == 0
    assert run_command(lambda: say("text")) == BAD_INPUT
