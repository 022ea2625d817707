"""python -m tests.kernel_mutants: break kernels/masks.cu in one place at a time; every break must make a case fail.

Broken are: every `if` (always, never; not never where it is marked `speed`, which is right too, but slow), every `min` and
`max` (its first argument alone), `aligned` (always), and the lines marked `bound` (a loop that goes on), `mirror` (left out,
or about the border itself), `half-pixel` (each offset left out, or another), `within` (each edge left out, or a pixel off),
and `nan` (taken for a number, or every number for one). There are no barriers.

All mutants are compiled at once, each behind a number that is set at run time, with
AddressSanitizer and UBSan, and tried in a process each. Exit status 1 where one survives.
"""

import ctypes
import itertools
import os
import re
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from kernels.cubins import SOURCE
from tests.kernel_cases import FIXED, SANITIZERS, Host, compiler, difference, host_library, sanitized

MARKED = {
    "bound": [(r"(?<=; )\w+ < \w+(?=;)", "{} + BLOCK")],
    "mirror": [(r"abs\(\w+\)", "cell"), (r"abs\(\w+\)", "(cell < 0 ? -cell - 1 : cell)")],
    "half-pixel": [
        (r"2 \* i \+ 1", "2 * i"),
        (r"2 \* i \+ 1", "2 * i + 2"),
        (r"[\w.]+ / 2", "0"),
        (r"[\w.]+ / 2", "{0} / 2"),
    ],
    "within": [
        (rf"\b[xy] {edge}", instead) for edge in (r">= \w+", r"< \w+ \+ \w+") for instead in ("true", "{} + 1", "{} - 1")
    ],
    "nan": [("value == value", "true"), ("value == value", "false")],
}
"""By the mark at a line's end: what is replaced, and by what."""
SECONDS = 30
"""After which a mutant that goes on forever is taken for caught."""


def mutants(line: str) -> Iterator[tuple[int, int, str]]:
    """(begin, end, what stands there instead) for every mutant of a line of source, comments and directives left alone."""
    code, _, comment = line.partition("//")
    words = comment.split()
    if code.startswith("#"):
        return
    for name, broken in (("if", ("false", "true")), ("min", ("{first}",)), ("max", ("{first}",)), ("aligned", ("true",))):
        for found in re.finditer(rf"\b{name} ?\(", code):
            if "__device__" in code:  # its definition
                continue
            inner = _closing(code, found.end())
            first = code[found.end() : inner].partition(", ")[0]
            begin, end = (found.end(), inner) if name == "if" else (found.start(), inner + 1)
            tried = broken[1:] if name == "if" and words[:1] == ["speed"] else broken
            yield from ((begin, end, instead.format(first=first)) for instead in tried)
    for pattern, instead in MARKED.get(words[0], []) if words else []:
        place = re.search(pattern, code)
        if place is None:
            raise SystemExit(f"nothing to break in the marked line: {line.strip()}")
        yield place.start(), place.end(), instead.format(place.group())


def _closing(code: str, start: int) -> int:
    """Where the bracket that was opened before `start` is closed."""
    depth = 1
    for place in range(start, len(code)):
        depth += {"(": 1, ")": -1}.get(code[place], 0)
        if depth == 0:
            return place
    raise SystemExit(f"a bracket is not closed within its line: {code.strip()}")


def all_in_one(source: str) -> tuple[str, list[str]]:
    """Source where `mutant` says which of the mutants runs, 0 for none; and what each is, from 1."""
    names: list[str] = []
    lines = ['extern "C" int mutant;', "int mutant = 0;"]
    for number, line in enumerate(source.splitlines(), 1):
        places: dict[tuple[int, int], list[str]] = {}
        for begin, end, instead in mutants(line):
            places.setdefault((begin, end), []).append(instead)
        # from the right, so that places further left stay where they are
        if any(first[1] > second[0] for first, second in itertools.pairwise(sorted(places))):
            raise SystemExit(f"what is to be broken lies within one another, write two lines: {line.strip()}")
        changed = line
        for (begin, end), broken in sorted(places.items(), reverse=True):
            expression = f"{'(bool)' * ('true' in broken)}({line[begin:end]})"
            for instead in broken:
                names.append(f"{SOURCE.name}:{number}: {line[begin:end]} -> {instead}")
                expression = f"(mutant == {len(names)} ? ({instead}) : {expression})"
            changed = changed[:begin] + expression + changed[end:]
        lines.append(changed)
    return "\n".join(lines) + "\n", names


def survives(host: Host, number: int) -> bool:
    """Whether every case agrees, in a process of its own."""
    child = os.fork()
    if child == 0:
        signal.alarm(SECONDS)
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, 1)
        os.dup2(null, 2)
        ctypes.c_int.in_dll(host.library, "mutant").value = number
        failed = 1
        try:
            failed = any(difference(host, one) for one in FIXED)
        finally:
            os._exit(failed)
    return os.waitpid(child, 0)[1] == 0


def report(library: str) -> int:
    """A line for each mutant; exit status."""
    host, names = Host(library), all_in_one(SOURCE.read_text())[1]
    if not survives(host, 0):
        print("the kernels fail as they are")
        return 1
    alive = 0
    for number, name in enumerate(names, 1):
        lives = survives(host, number)
        alive += lives
        print(f"{'SURVIVES' if lives else 'caught'}  {name}", flush=True)
    print(f"{len(names)} mutants, {alive} survive")
    return 1 if alive else 0


def main() -> int:
    """Exit status."""
    source, names = all_in_one(SOURCE.read_text())
    missing = [mark for mark in MARKED if not re.search(rf"// {mark}\b", source)]
    if not names or missing:
        print(f"{SOURCE.name} has no line marked {', '.join(missing)}", file=sys.stderr)
        return 1
    environment = None if compiler() is None else sanitized()
    if environment is None:
        print("a C++ compiler with AddressSanitizer is needed", file=sys.stderr)
        return 1
    with tempfile.TemporaryDirectory() as folder:
        broken = Path(folder) / SOURCE.name
        broken.write_text(source)
        library = host_library(Path(folder), SANITIZERS, broken)
        command = [sys.executable, "-m", "tests.kernel_mutants", str(library)]
        return subprocess.run(command, env=os.environ | environment, check=False).returncode


if __name__ == "__main__":
    sys.exit(report(sys.argv[1]) if len(sys.argv) > 1 else main())
