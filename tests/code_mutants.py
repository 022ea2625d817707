"""python -m tests.code_mutants engine/saliency: break a room's code in one place at a time; a test of the room must notice.

What is broken: comparisons (the border moved; turned round), `and` and `or`, arithmetic, signs and `not`, numbers (one more)
and truth values, the tests of `if` and `while`, what is returned (None instead), and statements that are there for their
effect (left out). Texts, annotations, decorators and what stands in a `raise` are left alone.

The tests of a room (TESTS) run once in a copy of the checkout, which says how long each takes and which lines it reaches.
Then each mutant is judged by those that reach its statement, the fastest first, in a process of its own with a limit on its
time. Tests above SLOWEST seconds are left out. Mutants that JUDGED names change nothing that can be told apart; it says why.
The exit status is 1 if another one survives.
"""

import argparse
import ast
import compileall
import contextlib
import copy
import dataclasses
import gc
import importlib
import json
import os
import random
import resource
import shutil
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType
from typing import Any

import pytest

ROOT = Path(__file__).parent.parent
JUDGED = ROOT / "tests" / "data" / "equivalent_mutants.json"
TESTS = {
    "engine/saliency": (
        *("borders", "colours", "links_written_out", "original", "planted", "regression", "regression_written_out"),
        *("similarity", "stopping", "tokens", "tokens_written_out"),
    ),
    "engine/bundle": ("bundle", "bundle_borders", "npz", "operators", "precision", "swap"),
}
"""Room -> its test files, without `test_`."""
COPIED = ("engine", "export", "kernels", "tests", "training", "pyproject.toml")
PRELOADED = (
    "hypothesis.strategies",
    "matplotlib",
    "numpy",
    "onnx",
    "onnx_ir",
    "onnxruntime",
    "onnxscript",
    "PIL.Image",
    "torch",
)
"""Packages that the process has loaded from which every mutant's is forked: otherwise most of the time would go there."""
SLOWEST = 3.0
"""CPU seconds of the slowest test that judges."""
SECONDS, LIMIT_BYTES = 60, 8 << 30
"""A mutant that takes more CPU time, or memory, counts as caught."""

COMPARISONS: dict[type[ast.cmpop], tuple[type[ast.cmpop], ...]] = {
    ast.Lt: (ast.LtE, ast.GtE),
    ast.LtE: (ast.Lt, ast.Gt),
    ast.Gt: (ast.GtE, ast.LtE),
    ast.GtE: (ast.Gt, ast.Lt),
    ast.Eq: (ast.NotEq,),
    ast.NotEq: (ast.Eq,),
    ast.Is: (ast.IsNot,),
    ast.IsNot: (ast.Is,),
    ast.In: (ast.NotIn,),
    ast.NotIn: (ast.In,),
}
ARITHMETIC: dict[type[ast.operator], type[ast.operator]] = {
    ast.Add: ast.Sub,
    ast.Sub: ast.Add,
    ast.Mult: ast.Div,
    ast.Div: ast.Mult,
    ast.FloorDiv: ast.Mult,
    ast.Mod: ast.FloorDiv,
    ast.Pow: ast.Mult,
    ast.BitAnd: ast.BitOr,
    ast.BitOr: ast.BitAnd,
    ast.LShift: ast.RShift,
    ast.RShift: ast.LShift,
}


@dataclasses.dataclass(frozen=True)
class Mutant:
    """One change. lines: first and last of the statement; begin, end: bytes of the file that `instead` replaces; place: the
    code of the line where it begins, and its column there
    """

    file: str
    lines: tuple[int, int]
    begin: int
    end: int
    was: str
    instead: str
    place: tuple[str, int]

    @property
    def name(self) -> str:
        """How JUDGED names it: without the number of the line, which changes often."""
        return f"{self.file}: {self.place[0]} [{self.place[1]}]: {' '.join(self.was.split())} -> {self.instead}"


def mutants(file: Path) -> Iterator[Mutant]:
    """Yield every mutant of a file of the checkout, in the order of its lines."""
    source = file.read_bytes()
    starts = [0]
    for line in source.splitlines(keepends=True):
        starts.append(starts[-1] + len(line))
    for statement, node, tested in _places(ast.parse(source)):
        begin = starts[node.lineno - 1] + node.col_offset
        end = starts[(node.end_lineno or 0) - 1] + (node.end_col_offset or 0)
        was = source[begin:end].decode()
        for changed in (*_changes(node), *([ast.UnaryOp(ast.Not(), node)] if tested else [])):
            instead = "pass" if isinstance(changed, ast.Pass) else ast.unparse(changed)
            if isinstance(changed, ast.expr):
                instead = f"({instead})"
            code = source.splitlines()[node.lineno - 1].decode()
            place = code.strip(), node.col_offset - len(code) + len(code.lstrip())
            yield Mutant(str(file.relative_to(ROOT)), _lines(statement), begin, end, was, instead, place)


def _places(tree: ast.Module) -> Iterator[tuple[ast.stmt, Any, bool]]:
    """Yield (statement, node, whether its truth alone decides something) for what may be changed."""
    waiting: list[tuple[ast.stmt, ast.AST, bool]] = [(s, s, False) for s in reversed(tree.body)]
    while waiting:
        statement, node, tested = waiting.pop()
        if isinstance(node, ast.stmt | ast.expr):
            yield statement, node, tested and isinstance(node, ast.Name | ast.Attribute | ast.Call | ast.Subscript)
        if isinstance(node, ast.Raise | ast.JoinedStr | ast.Import | ast.ImportFrom):
            continue
        left_out: set[ast.AST] = set()
        for name in ("annotation", "returns", "decorator_list"):
            found = getattr(node, name, None) or []
            left_out |= set(found if isinstance(found, list) else [found])
        tests = [getattr(node, "test", None), *getattr(node, "ifs", [])]
        inner = [child for child in ast.iter_child_nodes(node) if child not in left_out]
        waiting += [(c if isinstance(c, ast.stmt) else statement, c, c in tests) for c in reversed(inner)]


def _lines(statement: ast.stmt) -> tuple[int, int]:
    """Return the lines of a statement, without the statements in it."""
    body = getattr(statement, "body", None)
    last = statement.end_lineno or statement.lineno
    return statement.lineno, max(statement.lineno, body[0].lineno - 1) if isinstance(body, list) and body else last


def _changes(node: ast.AST) -> Iterator[ast.AST]:
    """Yield what a node is replaced by, one after the other."""
    if isinstance(node, ast.Compare):
        for i, operator in enumerate(node.ops):
            for kind in COMPARISONS[type(operator)]:
                yield _with(node, ops=[*node.ops[:i], kind(), *node.ops[i + 1 :]])
    elif isinstance(node, ast.BoolOp):
        yield _with(node, op=ast.Or() if isinstance(node.op, ast.And) else ast.And())
    elif isinstance(node, ast.BinOp | ast.AugAssign) and type(node.op) in ARITHMETIC:
        yield _with(node, op=ARITHMETIC[type(node.op)]())
    elif isinstance(node, ast.UnaryOp):
        yield node.operand
    elif isinstance(node, ast.Constant) and isinstance(node.value, bool | int | float):
        yield ast.Constant(not node.value if isinstance(node.value, bool) else node.value + 1)
    if isinstance(node, ast.Return) and node.value is not None and not _is_none(node.value):
        yield ast.Return(ast.Constant(None))
    effect = isinstance(node, ast.Expr) and not isinstance(node.value, ast.Constant | ast.Yield | ast.YieldFrom)
    stored = isinstance(node, ast.Assign) and not isinstance(node.targets[0], ast.Name | ast.Tuple)
    if effect or stored or isinstance(node, ast.Raise | ast.AugAssign | ast.Delete | ast.Break | ast.Continue):
        yield ast.Pass()


def _with(node: Any, **fields: Any) -> Any:
    changed = copy.copy(node)
    for name, value in fields.items():
        setattr(changed, name, value)
    return changed


def _is_none(node: ast.expr) -> bool:
    return isinstance(node, ast.Constant) and node.value is None


class Recorder:
    """A plugin of pytest: which lines of some files each test reaches, and its CPU seconds, without those of its fixtures.

    files: absolute paths; found: test -> (seconds, file -> lines). What importing reaches is left out.
    """

    def __init__(self, files: set[str]) -> None:
        self.files = files
        self.found: dict[str, tuple[float, dict[str, list[int]]]] = {}

    @pytest.hookimpl(hookwrapper=True)
    def pytest_runtest_protocol(self, item: pytest.Item) -> Iterator[None]:
        reached: dict[str, set[int]] = {file: set() for file in self.files}

        def trace(frame: FrameType, event: str, _: Any) -> Callable[..., Any] | None:
            lines = reached.get(frame.f_code.co_filename)
            if lines is None or frame.f_code.co_name == "<module>":
                return None
            lines.add(frame.f_lineno)
            return trace

        threading.settrace(trace)
        sys.settrace(trace)
        yield
        sys.settrace(None)
        threading.settrace(None)  # type: ignore[arg-type]
        seconds = self.found.get(item.nodeid, (0.0, {}))[0]
        self.found[item.nodeid] = seconds, {file: sorted(lines) for file, lines in reached.items()}

    @pytest.hookimpl(hookwrapper=True)
    def pytest_runtest_call(self, item: pytest.Item) -> Iterator[None]:
        begin = time.process_time()
        yield
        self.found[item.nodeid] = time.process_time() - begin, {}


def forked(work: Callable[[], int], seconds: int = SECONDS) -> int:
    """Run `work` in a process of its own, without its output; return the exit status, 128 and more if a limit ended it."""
    child = os.fork()
    if child:
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) % 256
    status = 255
    with contextlib.suppress(BaseException):
        os.setsid()  # what it starts ends with it
        signal.alarm(5 * seconds)  # a machine may be busy
        resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds))
        resource.setrlimit(resource.RLIMIT_DATA, (LIMIT_BYTES, LIMIT_BYTES))
        null = os.open(os.devnull, os.O_RDWR)
        for stream in (0, 1, 2):
            os.dup2(null, stream)
        status = work()
    os._exit(status)


def run(tests: list[str], *options: str, plugins: tuple[object, ...] = ()) -> int:
    """Return the exit status of pytest."""
    fixed = ("-p", "no:cacheprovider", "--assert=plain", "--hypothesis-seed=0", "--tb=no", "-q", "-x")
    return int(pytest.main([*fixed, *options, *tests], plugins=list(plugins)))


def recorded(room: str) -> dict[str, tuple[float, dict[str, list[int]]]]:
    """Run a room's tests in the current folder; return what `Recorder` found. Exits if one fails."""
    files = {str(file.resolve()) for file in Path(room).rglob("*.py")}

    def work() -> int:
        recorder = Recorder(files)
        status = run([f"tests/test_{name}.py" for name in TESTS[room]], plugins=(recorder,))
        Path("found.json").write_text(json.dumps(recorder.found))
        return status

    if forked(work, 20 * SECONDS):
        raise SystemExit(f"the tests of {room} fail, or are stopped, without any mutant")
    found = json.loads(Path("found.json").read_text())
    return {test: one for test, one in sorted(found.items(), key=lambda pair: pair[1][0]) if one[0] <= SLOWEST}


def judges(mutant: Mutant, found: dict[str, tuple[float, dict[str, list[int]]]]) -> list[str]:
    """Return the tests that reach a mutant, the fastest first. Only importing reaches it: all, those of its file first."""
    file, (first, last) = str(Path(mutant.file).resolve()), mutant.lines
    reaching = [test for test, (_, lines) in found.items() if any(first <= line <= last for line in lines.get(file, []))]
    return reaching or sorted(found, key=lambda test: not found[test][1].get(file))


def survives(mutant: Mutant, tests: list[str]) -> bool:
    """Break the copy that is the current folder, run tests there, and mend it."""
    path = Path(mutant.file)
    right = path.read_bytes()
    path.write_bytes(right[: mutant.begin] + mutant.instead.encode() + right[mutant.end :])
    try:
        return forked(lambda: run(tests)) == 0
    finally:
        path.write_bytes(right)


@contextlib.contextmanager
def copied() -> Iterator[None]:
    """Work in a copy of the checkout."""
    with tempfile.TemporaryDirectory() as folder:
        for name in COPIED:
            copying = shutil.copytree if (ROOT / name).is_dir() else shutil.copy
            copying(ROOT / name, Path(folder) / name)
        compileall.compile_dir(folder, quiet=2)  # once, and not for every mutant
        sys.dont_write_bytecode = True  # of a mutant: the next one of its size and second would be taken for it
        for package in PRELOADED:
            importlib.import_module(package)
        gc.freeze()  # pytest collects garbage at its end, and would search all of these
        os.environ |= {"PYTHONPATH": folder, "PYTHONDONTWRITEBYTECODE": "1"}
        sys.path[:] = [folder, *(place for place in sys.path if Path(place or ".").resolve() != ROOT)]
        with contextlib.chdir(folder):
            yield


def main() -> int:
    """Print a line for each mutant; return the exit status."""
    parser = argparse.ArgumentParser(prog="python -m tests.code_mutants")
    parser.add_argument("room", choices=TESTS)
    parser.add_argument("--only", metavar="TEXT", default="", help="those whose file or line of code has this text")
    parser.add_argument("--count", type=int, help="so many mutants, drawn from all (default: all)")
    parser.add_argument("--seed", type=int, default=0, help="of the draw (default: %(default)s)")
    arguments = parser.parse_args()
    every = [mutant for file in sorted((ROOT / arguments.room).rglob("*.py")) for mutant in mutants(file)]
    every = [mutant for mutant in every if arguments.only in mutant.name]
    drawn = sorted(random.Random(arguments.seed).sample(range(len(every)), min(arguments.count or len(every), len(every))))
    judged = json.loads(JUDGED.read_text())
    alive = equivalent = 0
    with copied():
        found = recorded(arguments.room)
        for mutant in (every[i] for i in drawn):
            lives = survives(mutant, judges(mutant, found))
            known = lives and mutant.name in judged
            alive, equivalent = alive + lives, equivalent + known
            says = "the same" if known else "SURVIVES" if lives else "caught"
            print(f"{says:8}  line {mutant.lines[0]} of {mutant.file}: {mutant.was} -> {mutant.instead}", flush=True)
            if lives and not known:
                print(f"          {JUDGED.name} would call it {mutant.name!r}", flush=True)
    caught = len(drawn) - alive
    print(f"{len(drawn)} of {len(every)} mutants: {caught} caught, {equivalent} the same, {alive - equivalent} survive")
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    print(f"{(used.ru_utime + used.ru_stime) / 60:.0f} minutes of CPU time")
    return 1 if alive > equivalent else 0


if __name__ == "__main__":
    sys.exit(main())
