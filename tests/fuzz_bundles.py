"""python -m tests.fuzz_bundles [--count N] [--seed S] [--only I]: files that the engine reads, changed: read or refused.

Bundles (every JSON field, every array, the checksums), prepared pictures, saved explanations, embeddings, indices,
conditions, attribute vectors, and tables of pairs, labels and names. Variant I is made from the seed and I alone. What is
read is used: loaded on the CPU, explained, saved. Printed is what is wrong: an error that is none of the engine's, more
than 1 GB of memory, more than 10 s of CPU time. The exit status is 1 if anything is. For Linux.
"""

import argparse
import collections
import dataclasses
import faulthandler
import os
import re
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

from engine import EngineError, Explainer, Explanation, Rise
from engine.bundle import SUMS, VECTORS, checksums, demo_bundle, load_bundle
from engine.evaluate.labels import names_in, read_labels
from engine.evaluate.pairs import read_pairs
from engine.files import write_npz
from engine.reference_vectors import named_vectors, read_embedding_file
from export.index_embeddings import read_index
from export.inputs import load_conditions, load_names
from export.vectors import export_vectors
from tests.fuzz_changes import changed_arrays, changed_bytes, changed_json, changed_table

MOST_MEMORY, MOST_SECONDS, MOST_CHARACTERS = 10**9, 10.0, 2000
TOO_LONG, STUCK = 30, 120
"""Seconds of CPU time after which a variant is given up, and of any time after which the process ends with a traceback."""
PICTURES = demo_bundle().parent / "pictures"
FEW = Rise(masks=2)


@dataclasses.dataclass(frozen=True)
class Subject:
    """A kind of file. make: writes a sound one into a folder, and returns it; read: reads and uses one that was changed"""

    make: Callable[[Path], Path]
    read: Callable[[Path], object]


@dataclasses.dataclass(frozen=True)
class Outcome:
    """What became of a variant. memory: the most bytes of the process; fault: "" if it was read, or refused in one line"""

    subject: str
    read: bool
    seconds: float
    memory: int
    fault: str = ""


def _bundle_with(name: str) -> Callable[[Path], Path]:
    """The demo bundle, of which the file `name` will be changed; with attributes by vector if that is theirs."""

    def make(folder: Path) -> Path:
        bundle = Path(shutil.copytree(demo_bundle(), folder / "bundle"))
        if name == VECTORS:
            table = load_bundle(bundle).attributes
            count = 0 if table is None else len(table.names)
            ones = np.ones((count, 64), np.float32)
            arrays = {"vectors": ones, "scale": ones[:, 0], "bias": ones[:, 0], "confidence": np.array("sigmoid")}
            write_npz(bundle / VECTORS, arrays | {"pass_own": ones, "pass_mean": ones, "pass_bias": ones[:, 0]})
        return bundle / name

    return make


def _use_bundle(file: Path) -> object:
    bundle = file.parent
    if file.name != SUMS:
        (bundle / SUMS).write_text(checksums(bundle))
    explainer = Explainer(bundle, precision="fp32")
    explanation = explainer.explain(*sorted(PICTURES.glob("cat-*.png")), FEW, ranking="sane")
    explanation.save(bundle.parent / "out.npz")
    Explainer(bundle)  # what the report says of precisions
    return Explanation.load(bundle.parent / "out.npz")


def _saved(name: str) -> Callable[[Path], Path]:
    def make(folder: Path) -> Path:
        explainer, (query, reference) = Explainer(precision="fp32"), sorted(PICTURES.glob("cat-*.png"))
        if name == "prepared":
            explainer.prepare(query, FEW).save(folder / "saved.npz")
        else:
            explainer.explain(query, reference, Rise(masks=32), mode="pair").save(folder / "saved.npz")
        return folder / "saved.npz"

    return make


def _use_prepared(file: Path) -> object:
    explainer = Explainer(precision="fp32")
    prepared = explainer.load_prepared(file)
    return prepared.explain(sorted(PICTURES.glob("cat-*.png"))[1])


def _use_explanation(file: Path) -> object:
    explanation = Explanation.load(file)
    for suffix in ("json", "html", "png", "npz"):
        explanation.save(file.with_name(f"again.{suffix}"))
    return repr(explanation)


def _arrays(**arrays: np.ndarray) -> Callable[[Path], Path]:
    def make(folder: Path) -> Path:
        np.savez(folder / "own.npz", **arrays)
        for i in range(4):
            (folder / f"{i}.png").touch()
        return folder / "own.npz"

    return make


def _use_embeddings(file: Path) -> object:
    given = f"{file}:embeddings"
    return named_vectors(given, read_embedding_file(given), 8)


def _use_vectors(file: Path) -> object:
    bundle = Path(shutil.copytree(demo_bundle(), file.parent / "bundle", dirs_exist_ok=True))
    return export_vectors(bundle, file)


def _table(name: str, text: str) -> Callable[[Path], Path]:
    def make(folder: Path) -> Path:
        for i in range(5):
            (folder / f"{i}.png").touch()
        (folder / name).write_text(text)
        return folder / name

    return make


LABELS = "image,group,attributes\n" + "".join(f'{i}.png,{i % 2},"red; round"\n' for i in range(5))
EMBEDDINGS = np.random.default_rng(0).normal(size=(4, 8))
SUBJECTS = {
    **{
        f"bundle, {n}": Subject(_bundle_with(n), _use_bundle) for n in ("manifest.json", "attributes.json", "precision.json")
    },
    **{f"bundle, {n}": Subject(_bundle_with(n), _use_bundle) for n in ("canonical.npz", VECTORS, SUMS)},
    "prepared picture": Subject(_saved("prepared"), _use_prepared),
    "explanation": Subject(_saved("explanation"), _use_explanation),
    "embeddings": Subject(_arrays(embeddings=EMBEDDINGS, other=EMBEDDINGS), _use_embeddings),
    "index": Subject(
        _arrays(embeddings=EMBEDDINGS, files=np.array([f"{i}.png" for i in range(4)])),
        lambda file: read_index(file, file.parent, 8),
    ),
    "conditions": Subject(_arrays(condition_weights=EMBEDDINGS, condition_names=np.array(list("abcd"))), load_conditions),
    "attribute vectors": Subject(
        _arrays(vectors=np.ones((2, 64)), names=np.array(["a", "b"]), scale=np.ones(2)), _use_vectors
    ),
    "pairs": Subject(
        _table("t.csv", "query,reference,condition,label\n0.png,1.png,a,1\n2.png,3.png,,0\n"),
        lambda file: read_pairs(file, None),
    ),
    "pairs of the authors": Subject(_table("t.txt", "0 1 1\n2 3 0\n"), lambda file: read_pairs(file, file.parent)),
    "labels": Subject(
        _table("t.csv", LABELS), lambda file: (read_labels(file, file.parent, ["red", "round"]), names_in(file))
    ),
    "names": Subject(_table("t.txt", "1\tred\n2\tround\n"), load_names),
}
CHANGES = {".json": changed_json, ".npz": changed_arrays, ".csv": changed_table, ".txt": changed_table}


def outcome(index: int, seed: int, sound: dict[str, Path]) -> Outcome:
    """Make variant `index`, read it, and judge. sound: a folder with the sound file of each kind"""
    random = np.random.default_rng([seed, index])
    name = list(SUBJECTS)[index % len(SUBJECTS)]
    with tempfile.TemporaryDirectory() as folder:
        copied = Path(shutil.copytree(sound[name].parent, Path(folder) / "in"))
        file = copied / sound[name].name
        change = changed_bytes if random.random() < 0.1 else CHANGES.get(file.suffix, changed_table)
        file.write_bytes(change(file.read_bytes(), random))
        return _judge(name, lambda: SUBJECTS[name].read(file))


def _judge(name: str, read: Callable[[], object]) -> Outcome:
    _forget_peak()
    began, fault, whole = time.process_time(), "", True
    signal.setitimer(signal.ITIMER_PROF, TOO_LONG)
    faulthandler.dump_traceback_later(STUCK, exit=True)
    try:
        read()
    except EngineError as error:
        whole = False
        if len(str(error)) > MOST_CHARACTERS:
            fault = f"an error of {len(str(error))} characters"
    except Exception as error:  # what this program looks for
        fault = f"{type(error).__name__}: {str(error)[:200]}"
    finally:
        faulthandler.cancel_dump_traceback_later()
        signal.setitimer(signal.ITIMER_PROF, 0)
    seconds, memory = time.process_time() - began, _most_memory()
    if seconds > MOST_SECONDS:
        fault = fault or f"{seconds:.1f} s of CPU time"
    if memory > MOST_MEMORY:
        fault = fault or f"{memory / 1e6:.0f} MB of memory"
    return Outcome(name, whole, seconds, memory, fault)


def _forget_peak() -> None:
    """Let Linux begin anew to note this process's most memory."""
    Path("/proc/self/clear_refs").write_text("5")


def _most_memory() -> int:
    """Return the most bytes that this process held since then."""
    found = re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())
    return 0 if found is None else int(found[1]) * 1024


def _stop(*_: object) -> None:
    raise TimeoutError("it takes too long")


def outcomes(count: int, seed: int, only: int | None = None) -> Iterator[tuple[int, Outcome]]:
    """Give every variant's number and outcome."""
    signal.signal(signal.SIGPROF, _stop)
    with tempfile.TemporaryDirectory() as folder:
        sound = {}
        for number, (name, subject) in enumerate(SUBJECTS.items()):
            place = Path(folder) / str(number)
            place.mkdir()
            sound[name] = subject.make(place)
            subject.read(sound[name])  # a sound file is read
        for index in range(count) if only is None else [only]:
            yield index, outcome(index, seed, sound)


def main() -> int:
    """Run the command; return its exit status."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz_bundles", description=__doc__.splitlines()[0])
    parser.add_argument(
        "--count", type=int, default=400, metavar="N", help="variants (default: %(default)s, about a minute)"
    )
    parser.add_argument("--seed", type=int, default=0, metavar="S")
    parser.add_argument("--only", type=int, metavar="I", help="make this variant alone")
    options = parser.parse_args()
    found = collections.defaultdict[str, list[Outcome]](list)
    for index, one in outcomes(options.count, options.seed, options.only):
        found[one.subject].append(one)
        if one.fault:
            print(f"variant {index}, {one.subject}: {one.fault}", flush=True)
    every = [one for of_kind in found.values() for one in of_kind]
    print(f"{'':<29} variants    read  refused  most CPU  most memory  faults")
    for name, of_kind in {**found, "all": every}.items():
        read, faults = sum(one.read for one in of_kind), sum(bool(one.fault) for one in of_kind)
        most = f"{max(one.seconds for one in of_kind):7.2f} s  {max(one.memory for one in of_kind) / 1e6:8.0f} MB"
        print(f"{name:<29} {len(of_kind):8} {read:7} {len(of_kind) - read:8}  {most}  {faults:6}")
    return int(any(one.fault for one in every))


if __name__ == "__main__":
    os.environ.setdefault("XDG_CACHE_HOME", tempfile.gettempdir())  # batches are measured once, and not in the user's cache
    sys.exit(main())
