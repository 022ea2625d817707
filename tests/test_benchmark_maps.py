"""When the benchmarks compute their kept maps again."""

from pathlib import Path

from benchmarks.maps import source_digest


def test_every_file_of_the_engine_counts_with_its_path(tmp_path: Path) -> None:
    files = {"engine/a.py": "1", "engine/room/b.py": "2", "kernels/deep/er/c.py": "3"}
    digests = [digest(tmp_path / "as it is", files)]
    assert digest(tmp_path / "as it is elsewhere", files | {"tests/d.py": "4", "engine/data.txt": "5"}) == digests[0]
    for name in files:
        digests.append(digest(tmp_path / f"other {Path(name).stem}", files | {name: "changed"}))
        moved = {(n if n != name else f"{n[:-3]}2.py"): text for n, text in files.items()}
        digests.append(digest(tmp_path / f"moved {Path(name).stem}", moved))
    assert len(set(digests)) == len(digests)


def digest(root: Path, files: dict[str, str]) -> str:
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    return source_digest(root)
