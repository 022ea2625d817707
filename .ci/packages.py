"""Builds the sdist and, from it, the wheel; checks what is in them; installs each in a fresh environment and runs the demo.

The wheel must have every file of the packages that the checkout has, and nothing else; the sdist, besides, what builds it.
"""

import shutil
import subprocess
import sys
import tarfile
import tempfile
import venv
import zipfile
from pathlib import Path

ROOT = Path(__file__).parent.parent
PACKAGES = ("engine", "export", "kernels")
BESIDES = {"LICENSE", "MANIFEST.in", "README.md", "pyproject.toml"}
WRITTEN = {"PKG-INFO", "setup.cfg"}
"""By setuptools, into an sdist; so is *.egg-info."""
JUNK = (".cache/old", "shared/notes", "engine/__pycache__/old.pyc", "engine/data/.cache", "build/lib/engine/old.py")
"""What may lie about in a checkout."""
PROOF = "cat-twemoji.png: similarity 0.92"
"""Its third digit depends on the CPU: int8 rounds differently without VNNI."""


def run(*command: str | Path, cwd: Path) -> str:
    done = subprocess.run([str(part) for part in command], cwd=cwd, text=True, stdout=subprocess.PIPE, check=False)
    if done.returncode:
        sys.exit(f"{' '.join(map(str, command))} ends with status {done.returncode}")
    return done.stdout


def environment(folder: Path) -> Path:
    """Make a virtual environment; return its Python."""
    venv.create(folder, with_pip=True)
    return folder / "bin" / "python"


def files(checkout: Path) -> set[str]:
    """Return the names of what the wheel must have."""
    found = {path for package in PACKAGES for path in (checkout / package).rglob("*") if path.is_file()}
    return {path.relative_to(checkout).as_posix() for path in found if path.suffix != ".pyc"}


def build(checkout: Path, work: Path) -> tuple[Path, Path]:
    """Return the wheel and the sdist of a checkout."""
    python = environment(work / "builder")
    (line,) = (line for line in (ROOT / ".ci" / "requirements-test.txt").read_text().splitlines() if "setuptools==" in line)
    (work / "setuptools.txt").write_text(line)
    run(python, "-m", "pip", "install", "-q", "--require-hashes", "-r", work / "setuptools.txt", cwd=work)
    code = f"import setuptools.build_meta as b; b.build_sdist({str(work)!r})"
    run(python, "-c", code, cwd=checkout)
    (sdist,) = work.glob("*.tar.gz")
    run(python, "-m", "pip", "wheel", "-q", "--no-deps", "--no-build-isolation", "-w", work, sdist, cwd=work)
    (wheel,) = work.glob("*.whl")
    return wheel, sdist


def compare(what: str, got: set[str], wanted: set[str]) -> None:
    for word, names in (("lacks", wanted - got), ("must not have", got - wanted)):
        if names:
            sys.exit(f"the {what} {word} {', '.join(sorted(names)[:5])}{', ...' * (len(names) > 5)}")
    print(f"the {what} has the {len(got)} files it must have")


def demo(archive: Path, work: Path) -> None:
    """Install an archive as a user does, and explain the demo's pair from another folder."""
    python = environment(work / f"user-{archive.suffix}")
    run(python, "-m", "pip", "install", "-q", f"{archive}[cpu]", cwd=work)
    place = work / f"place-{archive.suffix}"
    place.mkdir()
    printed = run(python, "-m", "engine.explain", cwd=place)
    if PROOF not in printed or not (place / "explanation.png").stat().st_size:
        sys.exit(f"{archive.name}: the demo does not print {PROOF!r}, but: {printed}")
    print(f"{archive.name}: {PROOF}")


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        work, checkout = Path(folder), Path(folder) / "checkout"
        shutil.copytree(
            ROOT,
            checkout,
            ignore=shutil.ignore_patterns(".git", ".*_cache", ".cache", ".hypothesis", "shared", "__pycache__"),
        )
        wanted = files(checkout)
        for name in JUNK:
            (checkout / name).parent.mkdir(parents=True, exist_ok=True)
            (checkout / name).write_text("")
        wheel, sdist = build(checkout, work)
        with zipfile.ZipFile(wheel) as archive:
            names = {name for name in archive.namelist() if ".dist-info/" not in name}
        compare("wheel", names, wanted)
        with tarfile.open(sdist) as archive:
            names = {member.name.partition("/")[2] for member in archive.getmembers() if member.isfile()}
        compare("sdist", {name for name in names if ".egg-info/" not in name}, wanted | BESIDES | WRITTEN)
        demo(wheel, work)
        demo(sdist, work)


if __name__ == "__main__":
    main()
