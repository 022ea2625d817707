"""The README and the pages for a start: every block of commands or Python runs as written, or says why it is not run."""

import dataclasses
import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers import BANDAGE, CAT, COUPLE, PICTURES, ROOT, copy_bundle, seal

from engine import Explainer
from engine.bundle import demo_bundle
from export.timm_source import load_timm

PAGES = [ROOT / name for name in ("README.md", "docs/start.md", "docs/usage.md", "docs/export.md")]
BLOCK = re.compile(r"(?:^<!-- not run: (?P<reason>.+?) -->\n)?^```(?P<language>\w*)\n(?P<text>.*?)^```$", re.M | re.S)
INSTALL = re.compile(r"pip install (?:-c \S+ )?'\.\[([\w,]+)\]'(?: && )?")
NEEDS = {"index": "lance", "serve": "fastapi"}
"""A module of each extra without which a block cannot run."""


@dataclasses.dataclass(frozen=True)
class Block:
    """reason: why it is not run, or None"""

    language: str
    text: str
    reason: str | None


def blocks(page: Path) -> list[Block]:
    found = [m.groupdict() for m in BLOCK.finditer(page.read_text(encoding="utf-8"))]
    return [Block(one["language"], one["text"], one["reason"]) for one in found]


def without_numbers(text: str) -> list[str]:
    """Words, line by line: numbers depend on the precision that a machine takes."""
    return [re.sub(r"[+-]?\d+(?:\.\d+)?", "#", line.rstrip()) for line in text.splitlines()]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with what the pages speak of, which is the working folder."""
    names = {"query": CAT[0], "match": CAT[1], "other": BANDAGE[0], "a": CAT[1], "b": BANDAGE[1], "c": COUPLE[0]}
    for name, picture in names.items():
        shutil.copy(picture, tmp_path / f"{name}.jpg")  # the suffix does not matter
    (tmp_path / "photos").mkdir()
    for name, picture in {"one": CAT[1], "two": BANDAGE[0], "three": COUPLE[0]}.items():
        shutil.copy(picture, tmp_path / "photos" / f"{name}.jpg")
    shutil.copytree(PICTURES, tmp_path / "engine" / "data" / "pictures")
    np.savez(tmp_path / "index.npz", vectors=Explainer(precision="fp32").embed(CAT))
    write_shoes(tmp_path / "models" / "shoes")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def write_shoes(bundle: Path) -> None:
    """The demo's model, with a condition."""
    copy_bundle(demo_bundle(), bundle)
    manifest = json.loads((bundle / "manifest.json").read_text())
    manifest["conditions"] = {"names": ["shoe,top"], "weights": [[1.0] * manifest["embedding"]]}
    (bundle / "manifest.json").write_text(json.dumps(manifest))
    (bundle / "precision.json").unlink()  # a report about the model without it
    seal(bundle)


def write_weights(file: Path) -> None:
    """Random weights of a network of timm, as a state dict."""
    if importlib.util.find_spec("timm") is None:
        pytest.skip("needs timm")
    torch.manual_seed(0)
    torch.save(load_timm("mobilenetv3_small_100", Path("random")).module.state_dict(), file)


def run_commands(text: str, folder: Path) -> str:
    """Run a block of commands but for what it installs; returns what it printed."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    command = ["bash", "-euc", INSTALL.sub("", text)]
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{text}\n{done.stderr}"
    return done.stdout


def missing(text: str) -> set[str]:
    """Return the modules that a block's extras would install and that are not there."""
    extras = {extra for named in INSTALL.findall(text) for extra in named.split(",")}
    return {NEEDS[extra] for extra in extras & NEEDS.keys() if importlib.util.find_spec(NEEDS[extra]) is None}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_block_runs_as_written(page: Path, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    if page.name == "export.md":
        write_weights(folder / "mobilenetv3.pth")
    names: dict[str, object] = {}
    printed = ""
    for block in blocks(page):
        if block.reason is not None or missing(block.text):
            continue
        if block.language == "sh":
            printed = run_commands(block.text, folder)
        elif block.language == "python":
            capsys.readouterr()
            exec(compile(block.text, page.name, "exec"), names)
            printed = capsys.readouterr().out
        elif block.language == "text":  # what the block before it prints
            assert without_numbers(block.text) == without_numbers(printed)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_no_block_hides_from_the_test(page: Path) -> None:
    for block in blocks(page):
        assert block.language in ("sh", "python", "text"), f"{page.name}: a block without a language:\n{block.text}"
    prose = BLOCK.sub("", page.read_text(encoding="utf-8"))
    if page.name != "export.md":  # its list of commands has no files of its own; test_docs.py knows that they exist
        assert re.findall(r"^ {4}(?:pip|python|curl|from|import) .*$", prose, re.MULTILINE) == []


def test_every_extra_that_a_page_installs_is_there() -> None:
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    pages = [*PAGES, *(ROOT / "docs").glob("*.md")]
    named = {extra for page in pages for found in INSTALL.findall(page.read_text()) for extra in found.split(",")}
    assert len(named) > 5
    assert named <= extras.keys()
