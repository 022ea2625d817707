"""How soon a map is on the screen: seconds in Chromium from the second upload to the first map, and to the last.

    python -m benchmarks.page [--rounds 10] [--out FILE]

The page of a service of the embedded demo, over loopback, both pictures mapped. Needs the extra browser and Chromium.
Seconds are wall time, which other work on the machine lengthens: `load` is its load average.
"""

import argparse
import os
import shutil
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.record import circumstances, write
from benchmarks.service import QUERY, REFERENCE, Server
from engine.errors import OptionError
from engine.terminal import CommandParser, run_command, say

BROWSERS = ("chromium", "chromium-browser", "google-chrome")
ALONE = ("--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update", "--disable-sync")


def measured(rounds: int) -> dict[str, Any]:
    """Return the seconds of some rounds after one that is not counted."""
    from playwright.sync_api import sync_playwright  # noqa: PLC0415 - an extra

    path = next(filter(None, map(shutil.which, BROWSERS)), None)
    if path is None:
        raise OptionError(f"no browser was found, tried {', '.join(BROWSERS)}: install Chromium")
    with Server("--threads", str(len(os.sched_getaffinity(0)))) as server, sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=list(ALONE))
        seconds = np.array([_round(browser, server.port) for _ in range(rounds + 1)][1:])
        browser.close()
    first, last = seconds.T
    return {
        "name": "page",
        "rounds": rounds,
        "first_map_median": float(np.median(first)),
        "first_map_most": float(first.max()),
        "last_map_median": float(np.median(last)),
        "load": os.getloadavg()[0],
    }


def _round(browser: Any, port: int) -> tuple[float, float]:
    """Seconds from the second upload to the first map and to the last."""
    tab = browser.new_page(viewport={"width": 1280, "height": 900})
    tab.goto(f"http://127.0.0.1:{port}/")
    tab.wait_for_selector("#thumbs img")
    inputs = tab.locator(".picker input")
    inputs.nth(0).set_input_files(QUERY)
    began = time.perf_counter()
    inputs.nth(1).set_input_files(REFERENCE)
    tab.wait_for_selector(".layer[src]")
    first = time.perf_counter() - began
    tab.wait_for_selector("#keep:not([hidden])")
    last = time.perf_counter() - began
    tab.close()
    return first, last


def _measure(options: argparse.Namespace) -> None:
    row = {**measured(options.rounds), **circumstances()}
    if options.out is not None:
        write(options.out, [row])
    say("\n".join(f"{name}: {value}" for name, value in row.items()))


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit status, see `engine.terminal`."""
    parser = CommandParser(prog="python -m benchmarks.page", description="How soon a map is on the screen.")
    parser.add_argument("--rounds", type=int, default=10, metavar="N", help="uploads that count (default: %(default)s)")
    parser.add_argument("--out", type=Path, metavar="FILE", help="write a row of JSON")
    return run_command(lambda: _measure(parser.parse_args(arguments)))


if __name__ == "__main__":
    sys.exit(main())
