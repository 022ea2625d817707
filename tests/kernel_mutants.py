"""python -m tests.kernel_mutants: break kernels/masks.cu in one place at a time; every break must make a case fail.

What is broken: every `if` (always true, always false; only the former if it is marked `speed`, because then the slow path
is right too), every `min` and `max` (replaced by its first argument), `aligned` (always true), and the lines marked `bound`
(the loop runs too far), `mirror` (left out, or about the border itself), `half-pixel` (each offset left out or changed) and
`within` (each edge left out, or one pixel off). There are no barriers.

All mutants are compiled at once with AddressSanitizer and UBSan; a number that is set at run time selects one. Each runs in
a process of its own. The exit status is 1 if one survives.
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
}
"""For each mark at the end of a line: patterns, and what replaces them."""
SECONDS = 30
"""A mutant that runs longer than this counts as caught."""


def mutants(line: str) -> Iterator[tuple[int, int, str]]:
    """Yield (begin, end, replacement) for every mutant of a line of source. Comments and directives are left alone."""
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
            raise SystemExit(f"the marked line has nothing to break: {line.strip()}")
        yield place.start(), place.end(), instead.format(place.group())


def _closing(code: str, start: int) -> int:
    """Return the position of the bracket that closes the one before `start`."""
    depth = 1
    for place in range(start, len(code)):
        depth += {"(": 1, ")": -1}.get(code[place], 0)
        if depth == 0:
            return place
    raise SystemExit(f"a bracket is not closed in its line: {code.strip()}")


def all_in_one(source: str) -> tuple[str, list[str]]:
    """Return source in which the variable `mutant` selects a mutant, 0 for none, and the mutants' names, from number 1."""
    names: list[str] = []
    lines = ['extern "C" int mutant;', "int mutant = 0;"]
    for number, line in enumerate(source.splitlines(), 1):
        places: dict[tuple[int, int], list[str]] = {}
        for begin, end, instead in mutants(line):
            places.setdefault((begin, end), []).append(instead)
        # from the right, so that positions further left stay valid
        if any(first[1] > second[0] for first, second in itertools.pairwise(sorted(places))):
            raise SystemExit(f"two places to break overlap, write them on two lines: {line.strip()}")
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
    """Run every case with this mutant in a new process; return whether all agree with numpy."""
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
    """Print a line for each mutant; return the exit status."""
    host, names = Host(library), all_in_one(SOURCE.read_text())[1]
    if not survives(host, 0):
        print("the kernels fail without any mutant")
        return 1
    alive = 0
    for number, name in enumerate(names, 1):
        lives = survives(host, number)
        alive += lives
        print(f"{'SURVIVES' if lives else 'caught'}  {name}", flush=True)
    print(f"{len(names)} mutants, {alive} survive")
    return 1 if alive else 0


def main() -> int:
    """Return the exit status."""
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
