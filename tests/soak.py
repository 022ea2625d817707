"""A soak: mixed requests over threads, for minutes or an hour. Nothing may grow, and every answer equals the first.

    python -m tests.soak --minutes 60 --threads 4 --record
    python -m tests.soak --minutes 2

Every request is drawn by a seed from a list of kinds: explain, many references, a prepared picture, pairs, every method,
and answers as JSON, PNG and HTML. The bytes of an answer are compared with those of the first of its kind. Memory, open
files and threads are sampled after a warm-up; they must be flat then. Exit status 1 where something is not.
"""

import argparse
import collections
import dataclasses
import gc
import hashlib
import json
import os
import random
import re
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parent))  # the tests import each other by bare names
from helpers import BANDAGE, CAT, COUPLE, GESTURE, ROOT

from benchmarks.record import circumstances
from engine import EngineError, Explainer, Explanation, LearnedMask, Lime, Rise, StoredReference, Window
from engine.explanation import SUFFIXES
from engine.files import write_json
from engine.render.html import page

RESULTS = ROOT / "benchmarks" / "results" / "soak.json"
PAIRS = (CAT, BANDAGE, COUPLE, GESTURE)
WARM_UP, SAMPLES = 0.25, 40
"""The part of the time before the first sample that counts, and the number of samples after it."""
MEMORY_GROWTH = 0.05
"""By how much the median of the last quarter of the samples may be above that of the first quarter."""
TIMINGS = "timings"
"""What an answer says of the clock: the only thing in it that may differ."""
TIMINGS_OF_PAGES = re.compile(rb'\["timings","[^"]*"\]')

Request = Callable[[], bytes]


@dataclasses.dataclass(frozen=True)
class Sample:
    """What the process holds. memory: resident bytes; files: open descriptors; threads: of the system"""

    memory: int
    files: int
    threads: int

    @classmethod
    def now(cls) -> "Sample":
        """Look at this process, as Linux shows it."""
        pages = int(Path("/proc/self/statm").read_text().split()[1])
        files, threads = (len(list(Path(f"/proc/self/{name}").iterdir())) for name in ("fd", "task"))
        return cls(pages * os.sysconf("SC_PAGE_SIZE"), files, threads)


class Work:
    """Threads that answer requests, each in an order of its own, until they are stopped.

    answered: how many of each kind; faults: what went wrong, a line each
    """

    def __init__(self, requests: dict[str, Request], threads: int, seed: int) -> None:
        self.answered: collections.Counter[str] = collections.Counter()
        self.faults: list[str] = []
        self._requests, self._first = requests, {}
        self._ended, self._lock = threading.Event(), threading.Lock()
        self._threads = [threading.Thread(target=self._work, args=(random.Random(f"{seed} {i}"),)) for i in range(threads)]

    def __enter__(self) -> "Work":
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        for thread in self._threads:
            thread.join()

    def _work(self, order: random.Random) -> None:
        kinds = list(self._requests)
        while not self._ended.is_set():
            order.shuffle(kinds)  # every kind comes once before one comes again
            for kind in kinds:
                if self._ended.is_set():
                    return
                self._answer(kind)

    def _answer(self, kind: str) -> None:
        try:
            digest = hashlib.sha256(self._requests[kind]()).hexdigest()
        except Exception as error:
            digest = f"{type(error).__name__}: {error}"
        with self._lock:
            first = self._first.setdefault(kind, digest)
            self.answered[kind] += 1
            if digest != first or ":" in digest:
                self.faults.append(f"{kind}: {digest}, first {first}")


def content(explanation: Explanation) -> bytes:
    """Everything that an explanation says, without the clock."""
    fields = {k: v for k, v in explanation.to_dict().items() if k != TIMINGS}
    arrays = [v.tobytes() for v in vars(explanation).values() if isinstance(v, np.ndarray)]
    return json.dumps(fields).encode() + b"".join(arrays)


def requests(folder: Path) -> dict[str, Request]:
    """Every kind of request, by name; folder: for what is saved."""
    own, kept = Explainer(precision="fp32", threads=1), Explainer(precision="fp32", threads=2, cache_bytes=2 * 10**6)
    prepared, other = own.prepare(CAT[0], Rise(masks=256)), own.prepare(CAT[1], Rise(masks=256))
    vectors, confidences = own.embed([p[1] for p in PAIRS]), own.confidences([p[1] for p in PAIRS])
    few = {"rise": Rise(masks=64), "window": Window(size=16, stride=8), "lime": Lime(samples=64)}
    found: dict[str, Request] = {}
    for name, method in few.items():
        for mode in ("fixed", "pair", "both"):
            found[f"{name} {mode}"] = lambda m=method, mode=mode: content(own.explain(*CAT, m, mode))
    for mode in ("fixed", "both"):
        found[f"mask {mode}"] = lambda mode=mode: content(own.explain(*CAT, LearnedMask(iterations=5), mode))
    found["as many as needed"] = lambda: content(own.explain(*COUPLE))
    found["many pictures"] = lambda: b"".join(map(content, own.explain_many(CAT[0], [p[1] for p in PAIRS], few["rise"])))
    found["many vectors"] = lambda: b"".join(map(content, prepared.explain_many(vectors)))
    stored = [StoredReference(v, c) for v, c in zip(vectors, confidences, strict=True)]
    found["stored references"] = lambda: b"".join(map(content, prepared.explain_many(stored, top=3)))
    found["prepared pair"] = lambda: content(prepared.explain(other, mode="pair"))
    found["refined"] = lambda: content(prepared.refine(64).explain(CAT[1]))
    found["rather than"] = lambda: content(own.explain(*CAT, few["rise"], rather_than=BANDAGE[1]))
    found["prepared again and again"] = lambda: _saved_and_loaded(own, folder)
    found["a new explainer"] = lambda: Explainer(precision="fp32", threads=1).embed([CAT[0]]).tobytes()
    found["a bad picture"] = lambda: _refused(own)
    for i, (query, reference) in enumerate(PAIRS):
        found[f"cached {i}"] = lambda q=query, r=reference: content(kept.explain(q, r, Rise(masks=128)))
    for suffix in SUFFIXES:
        found[f"as {suffix}"] = lambda suffix=suffix: _saved(own.explain(*GESTURE, few["rise"]), folder, suffix)
    found["a page of many"] = lambda: TIMINGS_OF_PAGES.sub(
        b"", page(own.explain_many(CAT[0], [CAT[1], CAT[1]], few["rise"])).encode()
    )
    return found


def _saved(explanation: Explanation, folder: Path, suffix: str) -> bytes:
    """Save an answer, and return what of it must always be the same: all but the time that it took."""
    path = folder / f"{threading.get_ident()}{suffix}"
    explanation.save(path)
    if suffix == ".npz":
        return content(Explanation.load(path))
    if suffix == ".json":
        return json.dumps({k: v for k, v in json.loads(path.read_text()).items() if k != TIMINGS}).encode()
    return TIMINGS_OF_PAGES.sub(b"", path.read_bytes())


def _saved_and_loaded(explainer: Explainer, folder: Path) -> bytes:
    path = folder / f"{threading.get_ident()}.prepared.npz"
    explainer.prepare(BANDAGE[0], Rise(masks=64)).save(path)
    return content(explainer.load_prepared(path).explain(BANDAGE[1]))


def _refused(explainer: Explainer) -> bytes:
    try:
        explainer.explain(ROOT / "README.md", CAT[1])
    except EngineError as error:
        return str(error).replace(":", "").encode()
    raise AssertionError("a text was taken for a picture")


def soak(minutes: float, threads: int, seed: int) -> dict[str, object]:
    """Run for so long, and return the figures: what was answered, every sample, and the faults."""
    with tempfile.TemporaryDirectory() as folder, Work(requests(Path(folder)), threads, seed) as work:
        time.sleep(minutes * 60 * WARM_UP)
        samples = []
        for _ in range(SAMPLES):
            time.sleep(minutes * 60 * (1 - WARM_UP) / SAMPLES)
            gc.collect()
            samples.append(Sample.now())
    faults = [*work.faults, *grown(samples)]
    missing = work._requests.keys() - work.answered.keys()
    faults += [f"{kind} never had its turn: run longer" for kind in sorted(missing)]
    return {
        "answers": sum(work.answered.values()),
        "kinds": len(work.answered),
        "fewest_of_a_kind": min(work.answered.values()),
        "samples": {k: [getattr(s, k) for s in samples] for k in ("memory", "files", "threads")},
        "faults": faults,
    }


def grown(samples: list[Sample]) -> list[str]:
    """What is not flat: the median of the last quarter of the samples, beside that of the first."""
    part = max(len(samples) // 4, 1)
    faults = []
    for name, allowed in (("memory", MEMORY_GROWTH), ("files", 0), ("threads", 0)):
        before, after = (float(np.median([getattr(s, name) for s in some])) for some in (samples[:part], samples[-part:]))
        if after > before * (1 + allowed):
            faults.append(f"{name} grew from {before:.0f} to {after:.0f}")
    return faults


def main() -> int:
    """Run the soak; returns 1 if something grew or an answer differed."""
    parser = argparse.ArgumentParser(prog="python -m tests.soak", description=__doc__.split("\n")[0])
    parser.add_argument("--minutes", type=float, default=2.0)
    parser.add_argument("--threads", type=int, default=4)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--record", action="store_true", help=f"write {RESULTS.relative_to(ROOT)}")
    options = parser.parse_args()
    asked = {k: getattr(options, k) for k in ("minutes", "threads", "seed")}
    found = soak(**asked)
    if options.record:
        write_json(RESULTS, {**asked, **found, **circumstances()})
    samples = found["samples"]
    print(f"{found['answers']} answers of {found['kinds']} kinds, at least {found['fewest_of_a_kind']} of each")
    for name, scale, unit in (("memory", 1e6, " MB"), ("files", 1, ""), ("threads", 1, "")):
        values = [value / scale for value in samples[name]]
        print(f"{name}: {min(values):.0f} to {max(values):.0f}{unit}; first {values[0]:.0f}, last {values[-1]:.0f}")
    for fault in found["faults"][:20]:
        print(f"fault: {fault}", file=sys.stderr)
    return 1 if found["faults"] else 0


if __name__ == "__main__":
    sys.exit(main())
