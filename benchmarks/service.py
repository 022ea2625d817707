"""Load on a service of the embedded demo, over loopback: what HTTP costs, and how it bears deadlines, overload and rubbish.

    python -m benchmarks.service [--only NAME ...] [--malformed 10000] [--out FILE]

A row each. throughput: passes per second of the server with 8 clients, as a share of the engine's own in this process, in
turns, by the clock and by CPU time; both have one thread for a run of the network. prepared: seconds of requests that are
algebra alone. deadline: seconds of requests with a deadline of 0.3 s at half load. overload: 64 clients, a queue of 8.
malformed: uploads that no service should accept. Seconds are wall time, which other work on the machine lengthens: `load` is
the machine's load average, and `clock` says how late a thread woke that asked to be woken in time.
"""

import argparse
import collections
import concurrent.futures
import contextlib
import http.client
import json
import os
import queue
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.record import circumstances, write
from benchmarks.uploads import EXPLAIN, FORM, PREPARE, form, malformed
from engine import Explainer, Rise
from engine.service.opening import compute_on_one_thread
from engine.terminal import CommandParser, notice, run_command, say

PICTURES = Path(str(resources.files("engine") / "data" / "pictures"))
QUERY, REFERENCE = (PICTURES / name for name in ("cat-noto.png", "cat-twemoji.png"))
CLIENTS, MASKS, ROUNDS = 8, 512, 12
DEADLINE, WITHIN = 0.3, 0.4
Answer = tuple[int, float, bytes]
"""Status, seconds, body."""


class Server:
    """`python -m engine.serve` in a process of its own."""

    def __init__(self, *arguments: str) -> None:
        command = [sys.executable, "-m", "engine.serve", "--port", "0", "--threads", "1", *arguments]
        self._process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
        ports: queue.Queue[int] = queue.Queue()
        threading.Thread(target=self._read, args=[ports], daemon=True).start()
        self.port = ports.get(timeout=120)

    def __enter__(self) -> "Server":
        return self

    def __exit__(self, *_: object) -> None:
        self._process.terminate()
        self._process.wait(60)

    def cpu_seconds(self) -> float:
        """CPU time of the process so far."""
        fields = Path(f"/proc/{self._process.pid}/stat").read_text().rsplit(")", 1)[1].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def resident_mb(self) -> float:
        """Memory of the process now."""
        pages = int(Path(f"/proc/{self._process.pid}/statm").read_text().split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE") / 1e6

    def post(self, path: str, body: bytes, kind: str = FORM) -> Answer:
        """Send a request on a connection of its own."""
        began = time.perf_counter()
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=300)
        with contextlib.closing(connection):
            connection.request("POST", path, body, {"Content-Type": kind})
            answer = connection.getresponse()
            content = answer.read()
        return answer.status, time.perf_counter() - began, content

    def _read(self, ports: "queue.Queue[int]") -> None:
        for line in self._process.stderr or ():
            entry = json.loads(line) if line.startswith("{") else {"event": ""}
            if entry["event"] == "listening":
                ports.put(int(entry["url"].rsplit(":", 1)[1]))
            elif entry["event"] in ("fault", ""):
                notice(line)


def throughput() -> dict[str, Any]:
    """Passes per second and per CPU second, the server's over the engine's own, measured in turns."""
    compute_on_one_thread()  # as the server does
    explainer = Explainer(threads=1)
    by_clock: dict[str, list[float]] = {"wall": [], "cpu": []}
    with Server() as server, concurrent.futures.ThreadPoolExecutor(CLIENTS) as clients:
        for number in range(ROUNDS + 1):
            seeds = range(number * CLIENTS, (number + 1) * CLIENTS)
            began, started = server.cpu_seconds(), time.perf_counter()
            answers = list(clients.map(lambda seed: server.post(EXPLAIN, _asked(seed)), seeds))
            over_http = {"cpu": server.cpu_seconds() - began, "wall": time.perf_counter() - started}
            began, started = time.process_time(), time.perf_counter()
            for seed in seeds:
                explainer.explain(QUERY, REFERENCE, Rise(masks=MASKS, seed=seed))
            direct = {"cpu": time.process_time() - began, "wall": time.perf_counter() - started}
            _require_all(answers, 200)
            if number:  # the first warms both up
                for clock, ratios in by_clock.items():
                    ratios.append(direct[clock] / over_http[clock])
    shares = {f"share_{clock}": float(np.median(ratios)) for clock, ratios in by_clock.items()}
    ranges = {f"share_{clock}_range": [min(ratios), max(ratios)] for clock, ratios in by_clock.items()}
    return {"clients": CLIENTS, "masks": MASKS, "rounds": ROUNDS, **shares, **ranges}


def prepared() -> dict[str, Any]:
    """Seconds of requests whose query was prepared, and whose reference is an embedding: algebra alone."""
    vector = Explainer(threads=1).embed([REFERENCE])[0].tolist()
    with Server() as server:
        key = json.loads(server.post(PREPARE, form(query=QUERY.read_bytes()))[2])["id"]
        body = form(options=json.dumps({"query": {"id": key}, "references": [{"embedding": vector}]}).encode())
        _require_all([server.post(EXPLAIN, body) for _ in range(50)], 200)
        began = server.cpu_seconds()
        answers = [server.post(EXPLAIN, body) for _ in range(1000)]
        cpu = (server.cpu_seconds() - began) / len(answers)
    _require_all(answers, 200)
    return {"requests": len(answers), "cpu_s": cpu, **_seconds(answers)}


def deadlines() -> dict[str, Any]:
    """Requests with a deadline, at half load: four clients whose deadlines take half of the time."""
    body = _asked(0, masks=4000, deadline=DEADLINE)
    with Server() as server, concurrent.futures.ThreadPoolExecutor(4) as clients:
        server.post(EXPLAIN, body)

        def client(number: int) -> list[Answer]:
            found = []
            time.sleep(number * 2 * DEADLINE)
            for _ in range(25):
                until = time.perf_counter() + 8 * DEADLINE
                found.append(server.post(EXPLAIN, body))
                time.sleep(max(until - time.perf_counter(), 0))
            return found

        answers = [answer for own in clients.map(client, range(4)) for answer in own]
    _require_all(answers, 200)
    passes = [json.loads(body)["explanations"][0]["passes"] for _, _, body in answers]
    within = sum(seconds <= WITHIN for _, seconds, _ in answers) / len(answers)
    return {"deadline": DEADLINE, "within_0.4_s": within, "median_passes": float(np.median(passes)), **_seconds(answers)}


def overload() -> dict[str, Any]:
    """More clients than the queue takes: who is not served is told to come again, and memory stays."""
    with Server("--limit", "queue=8") as server, concurrent.futures.ThreadPoolExecutor(64) as clients:
        memory, statuses = [], collections.Counter[int]()
        for number in range(6):
            answers = clients.map(lambda seed: server.post(EXPLAIN, _asked(seed)), range(64 * number, 64 * (number + 1)))
            statuses.update(status for status, _, _ in answers)
            memory.append(server.resident_mb())
    return {"clients": 64, **{f"status_{k}": v for k, v in sorted(statuses.items())}, "resident_mb": memory}


def rubbish(count: int) -> dict[str, Any]:
    """Malformed uploads: what they were answered, and the memory before, halfway and after."""
    statuses, memory = collections.Counter[str](), []
    with Server() as server:
        for i, upload in enumerate(malformed(count, seed=1)):
            if i in (count // 10, count // 2):
                memory.append(server.resident_mb())
            status, _, body = server.post(upload.path, upload.body, upload.content_type)
            one_sentence = list(json.loads(body)) == ["error"] and b"\\n" not in body
            statuses[f"status_{status}" if one_sentence else "not_one_sentence"] += 1
        memory.append(server.resident_mb())
    return {"uploads": count, **dict(sorted(statuses.items())), "resident_mb": memory}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; return its exit status (see `engine.terminal`)."""
    return run_command(lambda: _run(_parser().parse_args(arguments)))


def _parser() -> argparse.ArgumentParser:
    parser = CommandParser(prog="python -m benchmarks.service", description=(__doc__ or "").splitlines()[0])
    names = ("throughput", "prepared", "deadline", "overload", "malformed")
    parser.add_argument("--only", nargs="+", choices=names, default=names, help="rows to measure (default: all)")
    parser.add_argument("--malformed", type=int, default=10_000, metavar="N", help="uploads (default: %(default)s)")
    parser.add_argument("--out", type=Path, metavar="FILE", help="write the rows there too")
    return parser


def _run(options: argparse.Namespace) -> None:
    suites: dict[str, Callable[[], dict[str, Any]]] = {
        "throughput": throughput,
        "prepared": prepared,
        "deadline": deadlines,
        "overload": overload,
        "malformed": lambda: rubbish(options.malformed),
    }
    rows = []
    for name in options.only:
        with _late() as late:
            found = suites[name]()
        load = {"load": os.getloadavg()[0], "clock": {"median_s": float(np.median(late)), "p99_s": _p99(late)}}
        rows.append({"suite": "service", "name": name, "network": "demo", **found, **load, **circumstances()})
        say(json.dumps(rows[-1]))
    if options.out:
        write(options.out, rows)


def _asked(seed: int, **options: object) -> bytes:
    asked = json.dumps({"masks": MASKS, "seed": seed, **options}).encode()
    return form(query=QUERY.read_bytes(), references=REFERENCE.read_bytes(), options=asked)


def _require_all(answers: Sequence[Answer], status: int) -> None:
    others = [answer for answer in answers if answer[0] != status]
    if others:
        raise RuntimeError(f"{len(others)} of {len(answers)} answers: {others[0]}")


def _seconds(answers: Sequence[Answer]) -> dict[str, float]:
    seconds = [seconds for _, seconds, _ in answers]
    return {"median_s": float(np.median(seconds)), "p99_s": _p99(seconds)}


def _p99(values: Sequence[float]) -> float:
    return float(np.quantile(values, 0.99))


@contextlib.contextmanager
def _late() -> Iterator[list[float]]:
    """Measure, while the body runs, by how much a sleep of 10 ms is late: what the machine itself adds to any wait."""
    late, done = [0.0], threading.Event()

    def watch() -> None:
        while not done.is_set():
            began = time.perf_counter()
            time.sleep(0.01)
            late.append(time.perf_counter() - began - 0.01)

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield late
    finally:
        done.set()
        thread.join()


if __name__ == "__main__":
    sys.exit(main())
