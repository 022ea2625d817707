"""Compare the ratios of a smoke run with the committed ones; exits 1 where one fell below half.

    pytest benchmarks --benchmark-only --smoke && python -m benchmarks.ratios

Ratios only, and fp32 only: times, and what int8 gains, are those of one machine.
"""

import sys
from typing import Any

from benchmarks.record import folder, key, read

LEAST = 0.5
RATIOS = ("ratio_cpu", "ratio_cpu_fp32")


def main() -> int:
    committed, now = _ratios(committed=True), _ratios(committed=False)
    if not committed:
        print(f"no committed ratios below {folder(smoke=True, committed=True)}", file=sys.stderr)
        return 1
    faults = 0
    for name, wanted in sorted(committed.items(), key=str):
        got = now.get(name)
        fine = got is not None and got >= LEAST * wanted
        faults += not fine
        measured, what = "missing" if got is None else f"{got:.3g}", " ".join(str(n) for n in name if n)
        print(f"{'ok  ' if fine else 'FELL'} {measured:>10} now {wanted:10.3g} committed  {what}")
    if faults:
        print(f"{faults} of {len(committed)} ratios are missing or below {LEAST:g} of the committed ones", file=sys.stderr)
    return int(faults > 0)


def _ratios(committed: bool) -> dict[tuple[Any, ...], float]:
    rows = [row for path in sorted(folder(True, committed).glob("*.json")) for row in read(path)]
    return {(*key(row), name): row[name] for row in rows for name in RATIOS if name in row and not _ourselves(row)}


def _ourselves(row: dict[str, Any]) -> bool:
    """Our own row among the peers, which is 1 against itself."""
    return row["suite"] == "peers" and row["name"].startswith("ours")


if __name__ == "__main__":
    sys.exit(main())
