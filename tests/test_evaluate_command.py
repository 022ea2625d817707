"""`python -m engine.evaluate`: reports that do not depend on interruptions, and bad usage."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers import PICTURES, error_line, write_demo_pairs

from engine import OutputError
from engine.evaluate import command
from engine.evaluate.command import main
from engine.evaluate.report import Result, summary
from engine.evaluate.rows import Rows


@pytest.fixture
def pairs(tmp_path: Path) -> Path:
    """Three pairs of the demo pictures."""
    return write_demo_pairs(tmp_path)


ARGUMENTS = ["--methods", "rise,window,mask,random", "--modes", "fixed,both", "--masks", "20", "--quiet"]


def evaluated(pairs: Path, out: Path) -> dict[str, bytes]:
    assert main([str(pairs), "--out", str(out), *ARGUMENTS]) == 0
    return {suffix: out.with_suffix(suffix).read_bytes() for suffix in (".json", ".html", ".png")}


def test_a_report_killed_half_way_is_that_of_an_uninterrupted_run(
    pairs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    whole = evaluated(pairs, tmp_path / "whole.json")
    told = capsys.readouterr().out
    assert "rise     both" in told
    assert f"wrote {tmp_path / 'whole.html'}" in told
    real, calls = command.insertion_deletion, [0]

    def killed(*arguments: Any, **options: Any) -> Any:
        calls[0] += 1
        if calls[0] == 9:
            raise KeyboardInterrupt
        return real(*arguments, **options)

    monkeypatch.setattr(command, "insertion_deletion", killed)
    out = tmp_path / "again.json"
    assert main([str(pairs), "--out", str(out), *ARGUMENTS]) == 130
    assert "continues where it was" in capsys.readouterr().err
    assert not out.exists()
    rows = tmp_path / "again.rows.jsonl"
    assert len(rows.read_text().splitlines()) == 9  # the settings and eight rows
    with open(rows, "a") as file:
        file.write('{"pair": 1, "method": "wi')  # cut off while it was written
    calls[0] = 100
    assert evaluated(pairs, out) == whole
    assert calls[0] == 100 + 3 * 7 - 8
    found = json.loads(whole[".json"])
    assert [(r["method"], r["mode"]) for r in found["results"]] == [
        *(("rise", "fixed"), ("rise", "both"), ("window", "fixed"), ("window", "both")),
        *(("mask", "fixed"), ("mask", "both"), ("random", "fixed")),
    ]
    assert found["settings"]["pairs"] == 3
    first = found["results"][0]
    assert (first["passes"], len(first["insertion_curve"])) == (22, 101)
    assert first["insertion"]["low"] <= first["insertion"]["mean"] <= first["insertion"]["high"]
    assert "insertion_over_random" not in found["results"][-1]
    assert whole[".png"].startswith(b"\x89PNG")
    assert whole[".html"].count(b"<tr>") == 8


def test_rows_of_other_settings_are_not_mixed(pairs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = str(tmp_path / "report.json")
    arguments = [str(pairs), "--out", out, "--methods", "random", "--limit", "1", "--quiet"]
    assert main(arguments) == 0
    assert main(arguments) == 0
    assert main([*arguments, "--seed", "1"]) == 2
    assert "other settings" in capsys.readouterr().err
    assert main([*arguments, "--methods", "random,window", "--limit", "2"]) == 0  # more of the same goes on
    rows = tmp_path / "report.rows.jsonl"
    assert len(rows.read_text().splitlines()) == 5
    shutil.copy(PICTURES / "bandage-noto.png", tmp_path / "cat-noto.png")
    assert main(arguments) == 0  # another picture of the same name: its rows are made anew
    assert len(rows.read_text().splitlines()) == 6
    first = rows.read_text().splitlines()[0]
    for damage in ("not json", "[]", '{"pair": 0, "method": "random", "mode": "fixed"}', '{"pair": [0]}'):
        rows.write_text(f"{first}\n{damage}\n")
        assert main(arguments) == 2
        assert "line 2" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--out", "report.txt"], "must end in .json"),
        (["--out", "nowhere/report.json"], "no folder"),
        (["--out", "report.json", "--limit", "0"], "leaves no pairs"),
        (["--out", "report.json", "--methods", "random", "--modes", "both"], "leaves nothing"),
        (["--out", "report.json", "--masks", "0"], "masks"),
        (["--out", "report.json", "--bundle", "nowhere"], "no bundle"),
        (["--out", "", "--methods", "random"], "must end in .json"),
        (["--out", "/", "--methods", "random"], "must end in .json"),
        (["--out", "report.json", "--methods", "random", "--seed", "-1"], "seed"),
        (["--out", "report.json", "--methods", "window,random", "--seed", str(2**128)], "seed"),
    ],
)
def test_bad_usage_is_one_line(
    arguments: list[str], said: str, pairs: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(pairs.parent)
    assert main([str(pairs), *arguments]) == 2
    assert said in error_line(capsys)


def test_a_bundle_without_a_gradient_is_told_before_the_passes(
    pairs: Path, tiny_bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "report.json"
    arguments = [str(pairs), "--out", str(out), "--bundle", str(tiny_bundle), "--limit", "1", "--masks", "4", "--quiet"]
    assert main(arguments) == 2
    assert "--methods rise,window,lime,random" in capsys.readouterr().err
    assert not out.with_suffix(".rows.jsonl").exists()
    assert main([*arguments, "--methods", "rise,random"]) == 0


def test_unknown_names_are_refused(pairs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        main([str(pairs), "--out", "x.json", "--methods", "rise,guess"])
    assert stopped.value.code == 2
    assert "'guess' is not one of" in capsys.readouterr().err


def test_intervals_hold_the_mean_and_narrow_with_pairs() -> None:
    def row(method: str, number: int, value: float) -> dict[str, Any]:
        return {
            "pair": number,
            "method": method,
            "mode": "fixed",
            "passes": 5,
            "insertion_auc": value,
            "insertion_scores": [0, 1],
        }

    random = np.random.default_rng(0)
    widths = []
    for count in (10, 90):
        values = random.normal(0.5, 0.1, count)
        rows = [row("rise", i, v) for i, v in enumerate(values)], [row("random", i, v - 0.2) for i, v in enumerate(values)]
        found = summary({"pairs": count}, [Result.of(r, ["insertion"]) for r in rows])["results"]
        interval = found[0]["insertion"]
        assert interval["low"] < values.mean() < interval["high"]
        widths.append(interval["high"] - interval["low"])
        over = found[0]["insertion_over_random"]  # pairs are kept together: the difference does not vary
        assert (over["low"], over["high"]) == (pytest.approx(0.2), pytest.approx(0.2))
    assert widths[1] < widths[0] / 2
    assert widths[1] == pytest.approx(2 * 1.96 * 0.1 / np.sqrt(90), rel=0.3)


def test_a_row_file_that_cannot_be_written_is_said(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="cannot use"):
        Rows(tmp_path, {})
