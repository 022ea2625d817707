"""Commands that are killed, and disks that are full: what was there before is whole afterwards, or what is new is.

    python -m tests.kills --record                             20 moments for each command
    python -m tests.kills --moments 2 --leave-out quantize     a minute

Each command that writes runs in a fork of its own, over what an earlier run wrote. Half of the moments are drawn among its
steps in the folder (a file opened, renamed, removed; a folder made), half in the CPU time that it takes. At that moment the
process ends as by kill -9: none of its code runs any more. Then every output must be whole, and the command must work again.
The same holds where files may not grow beyond a size, and, for root, on a full and on a read-only file system; there the
command must also end with one line and status 2. Linux alone has what this needs. Exit status 1 where something is not so.
"""

import argparse
import collections
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))  # the tests import each other by bare names
from helpers import ROOT
from writers import Command, commands_in, whole_bundle

from benchmarks.record import circumstances, read, write
from engine.files import found_beside

RESULTS = ROOT / "benchmarks" / "results" / "kills.json"
EVENTS = ("open", "os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.truncate", "ctypes.dlsym")
"""What Python says of itself when a program touches files, or calls the one function that exchanges two names."""
KILLED, CLEAN, BAD_INPUT = "killed", 0, 2
SIZES, LEFT, DISK = 3, 20_000, 2**26
"""How many sizes of files are tried; bytes that are left on a full disk, and its size."""


def forked(run: Callable[[], object], before: Callable[[], object] = lambda: None) -> tuple[int | str, str, float]:
    """Run in a fork. Returns its status, or KILLED; what it printed; and the CPU seconds that it took."""
    reader, writer = os.pipe()  # not a file, which may not grow in some trials
    number = os.fork()
    if not number:
        os.dup2(writer, 1)
        os.dup2(writer, 2)
        status = 1
        try:
            before()
            status = int(run() or 0)  # type: ignore[call-overload]
        except BaseException:
            traceback.print_exc()
        sys.stderr.flush()
        os._exit(status)
    os.close(writer)
    with open(reader, errors="replace") as printed:
        said = printed.read()
    _, ended, used = os.wait4(number, 0)
    return KILLED if os.WIFSIGNALED(ended) else os.WEXITSTATUS(ended), said, used.ru_utime + used.ru_stime


def at_step(folder: Path, chosen: int | None, told: int | None = None) -> None:
    """End this process at one of its steps in the folder; None: write their number to the descriptor `told`."""
    done = 0

    def step(event: str, arguments: tuple[Any, ...]) -> None:
        nonlocal done
        if event not in EVENTS:
            return
        exchange = event == "ctypes.dlsym" and arguments[1] == "renameat2"
        ours = exchange or folder in (Path.cwd() / str(arguments[0])).parents
        if not ours or (event == "open" and not (arguments[2] or 0) & (os.O_WRONLY | os.O_RDWR)):
            return
        done += 1
        if told is not None:
            os.pwrite(told, done.to_bytes(4, "little"), 0)
        if done == chosen:
            os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(step)


class Trial:
    """One command in its folder, over and over. faults: a line for each thing that was not as it must be."""

    def __init__(self, folder: Path, tried: Command) -> None:
        self.folder, self.tried = folder, tried
        self.faults: list[str] = []
        self.ends: collections.Counter[str] = collections.Counter()
        self.steps, self.seconds = 0, 0.0
        self._run("the first run", lambda: None, (CLEAN,))
        with tempfile.TemporaryFile() as counted:
            counted.write(bytes(4))
            counted.flush()
            self.seconds = self._run("a whole run", lambda: at_step(folder, None, counted.fileno()), (CLEAN,))
            self.steps = int.from_bytes(os.pread(counted.fileno(), 4, 0), "little")

    def kill(self, moments: int, order: random.Random) -> None:
        """End the command at so many moments; then let it run to its end."""
        for i in range(moments):
            if i % 2:
                seconds = order.uniform(0.001, max(self.seconds, 0.002))
                self._run(f"ended after {seconds:.3f} s", lambda s=seconds: _end_after(s), (KILLED, CLEAN))
            else:
                step = order.randint(1, max(self.steps, 1))
                # what searches until a time limit takes another number of steps each time, and may be done before
                self._run(f"ended at step {step}", lambda n=step: at_step(self.folder, n), (KILLED, CLEAN))
        self._run("a run after the kills", lambda: None, (CLEAN,))
        bundles = [out for out, check in self.tried.outputs.items() if check is whole_bundle]
        self.faults += [f"{self.tried.name}: {left} was left" for out in bundles for left in found_beside(self.folder / out)]

    def limit(self) -> None:
        """Let no file grow beyond some sizes."""
        files = [f for out in self.tried.outputs for f in _files(self.folder / out)]
        largest = max((file.stat().st_size for file in files), default=0)
        for i in range(SIZES):
            size = largest * i // SIZES
            self._run(f"with files of {size} bytes at most", lambda n=size: _limit(n), (BAD_INPUT, CLEAN))

    def refuse(self, elsewhere: Path, why: str) -> None:
        """Run in a copy of the folder, where nothing can be written any more."""
        self.folder, home = elsewhere, self.folder
        self._run(why, lambda: os.chdir(elsewhere), (BAD_INPUT, CLEAN))
        self.folder = home

    def _run(self, how: str, before: Callable[[], object], allowed: tuple[int | str, ...]) -> float:
        status, printed, seconds = forked(self.tried.run, before)
        self.ends[str(status)] += 1
        fault = None if status in allowed else f"ended with {status}: {printed[-300:]!r}"
        if status == BAD_INPUT and (printed.count("error: ") != 1 or "Traceback" in printed):
            fault = f"printed {printed[-300:]!r}"
        for out, check in self.tried.outputs.items():
            broken, said, _ = forked(lambda out=out, check=check: check(self.folder / out) and None)
            if broken:
                fault = f"left {out} broken: {said[-300:]!r}"
        if fault:
            self.faults.append(f"{self.tried.name}, {how}: {fault}")
        return seconds


def _end_after(seconds: float) -> None:
    signal.signal(signal.SIGPROF, signal.SIG_DFL)  # ends the process, and runs none of its code
    signal.setitimer(signal.ITIMER_PROF, seconds)


def _limit(size: int) -> None:
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))


def _files(path: Path) -> list[Path]:
    return list(path.iterdir()) if path.is_dir() else [path] if path.is_file() else []


def mount(folder: Path, options: str) -> bool:
    """Make a file system in the folder, or change that; tells whether this process may."""
    command = ["mount", "-t", "tmpfs", "-o", options, "none", str(folder)]
    return shutil.which("mount") is not None and subprocess.run(command, capture_output=True, check=False).returncode == 0


def on_full_and_read_only_disks(trials: list[Trial], place: Path) -> bool:
    """Run every command on both; tells whether such disks could be made."""
    if not mount(place, f"size={DISK}"):
        return False
    try:
        for trial in trials:
            shutil.copytree(trial.folder, place, dirs_exist_ok=True)
            free = shutil.disk_usage(place).free
            (place / "filler").write_bytes(bytes(max(free - LEFT, 0)))
            trial.refuse(place, "on a full disk")
            if mount(place, "remount,ro"):
                trial.refuse(place, "on a read-only disk")
                mount(place, "remount,rw")
            for path in place.iterdir():
                shutil.rmtree(path) if path.is_dir() else path.unlink()
    finally:
        subprocess.run(["umount", "-l", place], check=True)
    return True


def attack(moments: int, seed: int, only: str, leave_out: list[str]) -> list[dict[str, Any]]:
    """Attack every command whose name contains `only` and none of `leave_out`; returns a row for each."""
    order, home = random.Random(seed), Path.cwd()
    with tempfile.TemporaryDirectory() as work:
        folder, place = (Path(work).resolve() / name for name in ("work", "disk"))
        folder.mkdir()
        place.mkdir()
        os.environ["XDG_CACHE_HOME"] = str(Path(work) / "cache")
        os.chdir(folder)
        try:
            chosen = [c for c in commands_in(folder) if only in c.name and not any(name in c.name for name in leave_out)]
            trials = [Trial(folder, tried) for tried in chosen]
            for trial in trials:
                trial.kill(moments, order)
                trial.limit()
                print(f"{trial.tried.name}: {trial.steps} steps, {dict(trial.ends)}, {len(trial.faults)} faults", flush=True)
            disks = on_full_and_read_only_disks(trials, place)
        finally:
            os.chdir(home)
    asked = {"moments": moments, "seed": seed, "full_and_read_only_disks": disks}
    return [
        {"command": t.tried.name, **asked, "steps": t.steps, "ends": dict(sorted(t.ends.items())), "faults": t.faults}
        for t in trials
    ]


def main() -> int:
    """Run it; returns 1 if an output was broken, or a command did not end as it must."""
    parser = argparse.ArgumentParser(prog="python -m tests.kills", description=(__doc__ or "").split("\n", maxsplit=1)[0])
    parser.add_argument("--moments", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", default="", metavar="NAME")
    parser.add_argument("--leave-out", nargs="*", default=[], metavar="NAME")
    parser.add_argument("--record", action="store_true", help=f"write {RESULTS.relative_to(ROOT)}")
    options = parser.parse_args()
    rows = attack(options.moments, options.seed, options.only, options.leave_out)
    if options.record:
        names = {row["command"] for row in rows}
        kept = [row for row in read(RESULTS) if row["command"] not in names]
        write(RESULTS, [*kept, *({**row, **circumstances()} for row in rows)])
    killed, said = (sum(row["ends"].get(end, 0) for row in rows) for end in (KILLED, str(BAD_INPUT)))
    faults = [fault for row in rows for fault in row["faults"]]
    print(f"{killed} killed, {said} ended with one line, {len(faults)} faults")
    if not all(row["full_and_read_only_disks"] for row in rows):
        print("no full and no read-only disk: this process may not mount one")
    for fault in faults:
        print(f"fault: {fault}", file=sys.stderr)
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
