"""The fuzz of files notices what it is there to notice; `python -m tests.fuzz_bundles` runs it at length."""

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from engine import OptionError
from tests import fuzz_bundles
from tests.fuzz_bundles import Subject, outcomes
from tests.fuzz_changes import ODD_JSON, changed_json

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="memory is read from /proc")


def write(folder: Path) -> Path:
    (folder / "a.json").write_text(json.dumps({"a": 1, "b": [1, {"c": "x"}]}))
    return folder / "a.json"


def run(monkeypatch: pytest.MonkeyPatch, read: Any, count: int = 30) -> list[fuzz_bundles.Outcome]:
    """Change the file `count` times. The sound one is read first."""
    monkeypatch.setattr(fuzz_bundles, "SUBJECTS", {"a": Subject(write, read)})
    return [one for _, one in outcomes(count, 0)]


def careless(file: Path) -> object:
    return json.loads(file.read_bytes())["b"][1]["c"].upper()


def careful(file: Path) -> object:
    try:
        return careless(file)
    except Exception as error:
        raise OptionError("not that") from error


def large(file: Path) -> object:
    return careful(file) and np.ones(10**7).sum()


def verbose(file: Path) -> object:
    try:
        return careful(file)
    except OptionError as error:
        raise OptionError("x" * 10**5) from error


def test_errors_of_other_kinds_long_ones_and_memory_are_faults(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fuzz_bundles, "MOST_MEMORY", 2**40)  # the process of all tests may hold more than is allowed there
    assert not any(one.fault for one in run(monkeypatch, careful))
    assert any("Error" in one.fault for one in run(monkeypatch, careless))
    assert any("100000 characters" in one.fault for one in run(monkeypatch, verbose))
    with monkeypatch.context() as patch:
        patch.setattr(fuzz_bundles, "MOST_SECONDS", 1e-9)
        assert all("CPU" in one.fault for one in run(monkeypatch, careful))
    before = max(one.memory for one in run(monkeypatch, careful))
    monkeypatch.setattr(fuzz_bundles, "MOST_MEMORY", before + 4 * 10**7)
    found = run(monkeypatch, large)
    assert any("MB of memory" in one.fault for one in found)
    assert any(one.read for one in found)


def test_a_variant_is_made_from_its_seed_and_number_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[bytes] = []
    monkeypatch.setattr(fuzz_bundles, "SUBJECTS", {"a": Subject(write, lambda file: seen.append(file.read_bytes()))})
    list(outcomes(10, 3))
    list(outcomes(10, 3, only=7))
    (_, *ten), (_, alone) = seen[:11], seen[11:]
    assert ten[7] == alone
    assert len(set(ten)) > 5


def test_every_odd_value_is_put_in(tmp_path: Path) -> None:
    content, random = write(tmp_path).read_bytes(), np.random.default_rng(0)
    changed = [changed_json(content, random) for _ in range(600)]
    assert all(any(odd.encode(errors="surrogatepass") in text for text in changed) for odd in ODD_JSON)
