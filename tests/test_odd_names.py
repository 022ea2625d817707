"""Names that could steer a terminal are shown escaped and can be saved, and `repr` of an explanation is one short line."""

import dataclasses
import io
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from helpers import BANDAGE, CAT, python, write_demo_labels

from engine import Explainer, Explanation, Rise
from engine.bundle import ATTRIBUTES, demo_bundle
from engine.bundle.manifest import attributes_from_json
from engine.explain import main
from engine.terminal import BAD_INPUT, printable

EXPLAIN = ("-m", "engine.explain", "--masks", "16")
ODD = "q\udcff\x1b[2J\n\u202e\x9b31m"
"""A byte that is not UTF-8, a sequence that clears the screen, a new line, text from right to left, and a colour."""


def escaped(name: str) -> str:
    return json.dumps(name)[1:-1]


def test_odd_names_of_files_are_shown_escaped(tmp_path: Path) -> None:
    query, reference, out = (f"{letter}{ODD}.png" for letter in "qro")
    for path, name in zip(CAT, (query, reference), strict=True):
        shutil.copy(path, tmp_path / name)
    done = python(*EXPLAIN, query, reference, "--out", out, cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    first, *_, last = done.stdout.splitlines()
    assert first.startswith(f"{escaped(reference)}: similarity 0.9")
    assert last == f"wrote {escaped(out)}"
    assert (tmp_path / out).is_file()
    assert all(line.isprintable() for line in done.stdout.splitlines())


@pytest.mark.parametrize(
    "arguments",
    [
        (*EXPLAIN, f"{ODD}.png", str(CAT[1])),
        (*EXPLAIN, *map(str, CAT), "--out", f"{ODD}/why.png"),
        (*EXPLAIN, *map(str, CAT), "--out", f"{ODD}.gif"),
        (*EXPLAIN, *map(str, CAT), "--bundle", ODD),
        (*EXPLAIN, *map(str, CAT), f"--{ODD}"),
        ("-m", "engine.evaluate", f"{ODD}.csv", "--out", "report.json", "--limit", "1"),
        ("-m", "engine.evaluate", "pairs.csv", "--out", f"{ODD}.html"),
        ("-m", "engine.evaluate.attributes", f"{ODD}.csv", "--images", ".", "--out", "report.json"),
    ],
)
def test_odd_names_in_errors_are_shown_escaped(arguments: tuple[str, ...], tmp_path: Path) -> None:
    done = python(*arguments, cwd=tmp_path)
    assert (done.returncode, done.stdout) == (BAD_INPUT, "")
    *usage, line = done.stderr.splitlines()
    assert not usage or usage[0].startswith("usage: ")
    assert all(text.isprintable() for text in (*usage, line))
    assert escaped(ODD) in line


def test_odd_names_in_a_csv_are_shown_escaped(tmp_path: Path) -> None:
    labels = write_demo_labels(tmp_path)
    name = ODD.replace("\udcff", "").replace("\n", "")
    labels.write_text(labels.read_text() + f"{name}.png,,odd\n")
    done = python("-m", "engine.evaluate.attributes", "labels.csv", "--images", ".", "--out", "r.json", cwd=tmp_path)
    (line,) = done.stderr.splitlines()
    assert line.isprintable()
    assert escaped(name) in line


@pytest.fixture(scope="module")
def odd(demo_with: Callable[..., Path]) -> Path:
    """The demo with attributes of odd names: all of them end in a number."""
    names = attributes_from_json((demo_bundle() / ATTRIBUTES).read_text()).names
    beginnings = (ODD, "caf\u00e9", "\U0001f600 grin", "tab\tand\rreturn\u2028")
    return demo_with(names=tuple(f"{beginnings[i % 4]} {i}" for i in range(len(names))))


def test_odd_names_of_attributes_are_shown_escaped(
    odd: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["--masks", "16", "--top", "63", "--bundle", str(odd), "--ranking", "sane", "--out", "e.npz"]) == 0
    _, *lines, _ = capsys.readouterr().out.split("\n")[:-1]
    assert all(line.isprintable() for line in lines)
    shown = [printable(a.name) for a in Explanation.load("e.npz").attributes]
    assert [line[2:].split(" score ")[0].rstrip() for line in lines[: len(shown)]] == shown
    assert any(escaped(ODD) in name for name in shown)


@pytest.mark.parametrize("encoding", ["utf-8", "latin-1", "ascii"])
def test_json_of_odd_names_stays_json(odd: Path, encoding: str, monkeypatch: pytest.MonkeyPatch) -> None:
    output = io.BytesIO()
    monkeypatch.setattr("sys.stdout", io.TextIOWrapper(output, encoding))
    assert main(["--masks", "16", "--bundle", str(odd), "--json"]) == 0
    (fields,) = json.loads(output.getvalue().decode(encoding))
    names = {a["name"] for kind in ("attributes", "opposing_attributes") for a in fields[kind]}
    table = attributes_from_json((odd / ATTRIBUTES).read_text()).names
    assert names <= set(table)
    assert {name.split(" ")[0] for name in names} >= {ODD, "caf\u00e9"}
    assert "".join(output.getvalue().decode(encoding).split("\n")).isprintable()


@pytest.mark.parametrize("suffix", ["html", "json", "png", "npz"])
def test_odd_names_of_attributes_can_be_saved(
    odd: Path, suffix: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["--masks", "16", "--bundle", str(odd), "--out", str(tmp_path / f"one.{suffix}")]
    assert main(arguments) == 0
    assert main([str(CAT[0]), str(CAT[1]), str(BANDAGE[0]), *arguments[:-1], str(tmp_path / f"two.{suffix}")]) == 0
    if suffix == "json":
        one, (first, _) = (json.loads((tmp_path / f"{name}.json").read_text()) for name in ("one", "two"))
        for found in (one, first):
            assert any(a["name"].startswith(ODD) for a in found["attributes"])


def test_repr_is_one_short_line(odd: Path) -> None:
    explanation = Explainer(odd, precision="fp32").explain(*CAT, Rise(masks=16))
    attributes = explanation.attributes
    assert len(attributes) >= 3
    model = dataclasses.replace(explanation.model, name="x" * 500)
    long = dataclasses.replace(attributes[0], name="long" * 100)
    for changed in (
        explanation,
        dataclasses.replace(explanation, attributes=[a for a in attributes if a.name.startswith(ODD)]),
        dataclasses.replace(explanation, attributes=(), opposing_attributes=()),
        dataclasses.replace(explanation, attributes=(long,) * 3, model=model),
    ):
        text = repr(changed)
        assert text.isprintable()
        assert len(text) < 300
        assert text.startswith("<Explanation: similarity 0.9")
