"""python -m engine.benchmark: rows that say what was measured, and one line for what does not run. No time is judged."""

import json
from pathlib import Path

import pytest
from helpers import CAT, error_line, exit_status

from engine.benchmark import MASKS, Measured, main, measure, table
from engine.pictures.reading import AS_USUAL

FAST = ["--seconds", "0.01", "--quiet"]


def test_a_row_says_what_was_measured(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "cost.json"
    assert main([*FAST, "--providers", "cpu", "--precisions", "fp32,int8", "--threads", "1", "--out", str(out)]) == 0
    head, names, *lines = capsys.readouterr().out.splitlines()
    assert head.startswith("emoji demo, 64 x 64; ")
    assert names.split()[:4] == ["provider", "precision", "threads", "batch"]
    assert [line.split()[:3] for line in lines] == [["cpu", "fp32", "1"], ["cpu", "int8", "1"]]
    assert len({len(line) for line in (names, *lines)}) == 1
    rows = json.loads(out.read_text())
    for row in rows:
        assert (row["masks"], row["seed"], row["threads"], row["batch"] in (16, 32, 64)) == (MASKS, 0, 1, True)
        assert min(row["pass_ms"], row["pair_ms"], row["prepared_ms"], row["open_seconds"]) > 0
        assert row["passes"] >= MASKS
        assert row["peak_bytes"] is None or 20e6 < row["peak_bytes"] < 2e9
        assert {"machine", "python", "numpy", "onnxruntime", "runtime", "identity"} <= set(row)


def test_the_table_needs_no_exponent() -> None:
    row = measure(Measured(None, "cpu", "fp32", 1, 0.01, 0, AS_USUAL), CAT)
    big = {**row, "machine": "a machine", "pair_ms": 123456.7, "pass_ms": 0.00321, "peak_bytes": None}
    line = table([big]).splitlines()[-1].split()
    assert (line[4], line[5], line[-1]) == ("0.00321", "123457", "?")


def test_what_does_not_run_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert exit_status(main, [*FAST, "--providers", "cpu", "--precisions", "fp16"]) == 2
    assert "nothing of what was asked for runs here: cpu fp16" in error_line(capsys)
    assert main([*FAST, "--providers", "cpu", "--precisions", "fp32,fp16", "--json"]) == 0
    printed = capsys.readouterr()
    assert [row["precision"] for row in json.loads(printed.out)] == ["fp32"]
    assert "left out cpu fp16" in printed.err
    for wrong, said in (
        (["--providers", "gpu"], "must be some of"),
        (["--threads", "0"], "above 0"),
        (["--seconds", "0"], "above 0"),
        (["--images", str(tmp_path)], "0 pictures, and a pair needs two"),
        (["--out", str(tmp_path / "no" / "a.json")], "no folder"),
    ):
        assert exit_status(main, wrong) == 2
        assert said in capsys.readouterr().err
