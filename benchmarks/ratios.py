"""Compare the ratios of a smoke run with the committed ones; the exit status is 1 if one fell below half.

    pytest benchmarks --benchmark-only --smoke && python -m benchmarks.ratios

Only ratios are compared, and only of fp32: times, and what int8 gains, differ between machines.
"""

from collections.abc import Sequence
from typing import Any

from benchmarks.record import folder, key, read
from engine.errors import OptionError
from engine.terminal import CommandParser, notice, run_command, say

LEAST = 0.5
RATIOS = ("ratio_cpu", "ratio_cpu_fp32")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; return its exit status (see `engine.terminal`), or 1 if a ratio is missing or too low."""
    return run_command(lambda: _run(arguments))


def _run(arguments: Sequence[str] | None) -> None:
    CommandParser(prog="python -m benchmarks.ratios", description=__doc__.splitlines()[0]).parse_args(arguments)
    committed, now = _ratios(committed=True), _ratios(committed=False)
    if not committed:
        raise OptionError(f"there are no committed ratios below {folder(smoke=True, committed=True)}")
    faults = 0
    for name, wanted in sorted(committed.items(), key=str):
        got = now.get(name)
        fine = got is not None and got >= LEAST * wanted
        faults += not fine
        measured, what = "missing" if got is None else f"{got:.3g}", " ".join(str(n) for n in name if n)
        say(f"{'ok  ' if fine else 'FELL'} {measured:>10} now {wanted:10.3g} committed  {what}")
    if faults:
        notice(f"{faults} of {len(committed)} ratios are missing or below {LEAST:g} of the committed ones")
        raise SystemExit(1)


def _ratios(committed: bool) -> dict[tuple[Any, ...], float]:
    rows = [row for path in sorted(folder(True, committed).glob("*.json")) for row in read(path)]
    return {(*key(row), name): row[name] for row in rows for name in RATIOS if name in row and not _is_ours(row)}


def _is_ours(row: dict[str, Any]) -> bool:
    """Say whether this is our own row among the peers, whose ratio to itself is 1."""
    return row["suite"] == "peers" and row["name"].startswith("ours")


if __name__ == "__main__":
    raise SystemExit(main())
