"""What CI installs is pinned and has hashes, and the wheel has every package (`.ci/packages.py` builds and installs it)."""

import re
import tomllib
from pathlib import Path

import pytest
from helpers import ROOT

LISTS = sorted((ROOT / ".ci").glob("requirements-*.txt"))
LINE = re.compile(r"([\w-]+)==(\S+) --hash=sha256:[0-9a-f]{64}")


def pins(text: str) -> dict[str, str]:
    """Return version by name, without the part that says how a package was built."""
    lines = [line for line in text.splitlines() if not line.startswith("#")]
    parts = [line.split(" ")[0].split("==") for line in lines]
    return {name.replace("_", "-"): version.partition("+")[0] for name, version in parts}


@pytest.mark.parametrize("file", LISTS, ids=lambda file: file.name)
def test_every_file_that_ci_installs_has_a_version_and_a_hash(file: Path) -> None:
    lines = file.read_text().splitlines()[1:]
    assert len(lines) > 5
    assert not [line for line in lines if not LINE.fullmatch(line)]


def test_the_lists_with_hashes_and_the_constraints_name_the_same_versions() -> None:
    constraints = pins((ROOT / "constraints.txt").read_text())
    listed: dict[str, str] = {}
    for file in LISTS:
        for name, version in pins(file.read_text()).items():
            assert listed.setdefault(name, version) == version, f"two versions of {name}; run python -m tools.dependencies"
            assert constraints.get(name, version) == version, f"{file.name} is older: run python -m tools.dependencies"
    assert set(constraints) <= set(listed), "constraints.txt names what no list has: run python -m tools.dependencies"


def test_the_page_of_licences_has_every_package_that_ci_installs() -> None:
    rows = re.findall(r"^\| ([\w-]+) \| (\S+) \| .+ \| .+ \|$", (ROOT / "docs" / "licences.md").read_text(), re.MULTILINE)
    page = {name: version.partition("+")[0] for name, version in rows}
    for file in LISTS:
        for name, version in pins(file.read_text()).items():
            assert page.get(name) == version, f"docs/licences.md: {name}; run python -m tools.dependencies"


def test_every_folder_of_code_is_in_the_wheel() -> None:
    listed = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"]
    folders = [file.parent for top in ("engine", "export", "kernels") for file in (ROOT / top).rglob("*.py")]
    assert sorted(listed) == sorted({".".join(folder.relative_to(ROOT).parts) for folder in folders})
