"""The file of an index that `check --against` reads: names from anywhere, arrays, faults, and the command's usage."""

from pathlib import Path

import numpy as np
import pytest
from helpers import error_line, exit_status
from index_bench import Bench, make_bench, prepare

from engine.bundle import load_bundle
from engine.errors import EngineError
from export import check
from export.commands import main
from export.compare import compare_index


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Bench:
    return make_bench(tmp_path_factory.mktemp("against"))


def test_names_of_an_index_are_found_wherever_it_was_made(bench: Bench, tmp_path: Path) -> None:
    images = tmp_path / "shoes \u00e4"
    files = sorted(bench.images.iterdir())[:6]
    for i, file in enumerate(files):
        folder = images / ("train" if i % 2 else "test")
        folder.mkdir(parents=True, exist_ok=True)
        (folder / file.name).write_bytes(file.read_bytes())
    (images / "train" / "broken.png").write_bytes(b"no picture")
    names = [f"{'train' if i % 2 else 'test'}/{file.name}" for i, file in enumerate(files)]
    names[1] = names[1].replace("/", "\\")
    names[2] = f"/home/somebody/data/{images.name}/{names[2]}"
    names[3] = f"C:\\data\\{names[3]}".replace("/", "\\")
    names[4] = f"{images.name}/{names[4]}"
    names[5] = str(images / names[5])
    own = bench.embeddings(prepare())[:6]
    own = np.concatenate([own, own[:2]])
    np.savez(tmp_path / "i.npz", embeddings=own, files=np.array([*names, "train/broken.png", "none.png"]).astype("U"))
    found = compare_index(load_bundle(bench.bundles["cosine"]), tmp_path / "i.npz", images)
    assert found.line().startswith("6 pictures compared, 1 not found, 1 unreadable: cosine median 1.0000, least 1.0000; ")
    assert (found.kinds, found.neighbours) == ((), 6)


def test_an_array_without_names_is_of_all_pictures_in_order(bench: Bench, tmp_path: Path) -> None:
    np.save(tmp_path / "i.npy", bench.embeddings(prepare()))
    assert "index       20 pictures" in check(bench.bundles["cosine"], tmp_path / "i.npy", bench.images)
    np.save(tmp_path / "i.npy", bench.embeddings(prepare())[1:])
    with pytest.raises(EngineError, match=r"has 19 rows, and .* has 20 pictures: save the files' names too; numpy.savez"):
        check(bench.bundles["cosine"], tmp_path / "i.npy", bench.images)


NAMES = [f"{i}.png" for i in range(4)]
ROWS = np.ones((4, 24), np.float32)


@pytest.mark.parametrize(
    ("arrays", "said"),
    [
        ({"embeddings": ROWS}, "has no array 'files', it has embeddings: numpy.savez"),
        ({"files": NAMES}, "has no array 'embeddings', it has files: numpy.savez"),
        ({"embeddings": ROWS, "files": NAMES[:3]}, r"must be 4 names, one per embedding, got <U5 \(3,\)"),
        ({"embeddings": ROWS, "files": np.arange(4)}, "must be 4 names"),
        ({"embeddings": ROWS, "files": np.array(NAMES, object)}, "not an array .* Python objects.*: numpy.savez"),
        ({"embeddings": ROWS[0], "files": NAMES}, r"must be floating-point \(n, D\), got float32 \(24,\)"),
        ({"embeddings": ROWS.astype(int), "files": NAMES}, "must be floating-point"),
        ({"embeddings": ROWS[:, :9], "files": NAMES}, "have 9 numbers each, this bundle's have 24: .* export that one"),
        ({"embeddings": ROWS * [[1], [1], [np.nan], [1]], "files": NAMES}, "row 2 of the embeddings .* is not finite"),
        ({"embeddings": ROWS, "files": NAMES}, "none of the 4 files .*; the first is 0.png, but there is deep/0.PNG"),
        ({"embeddings": ROWS, "files": ["broken.png"] * 4}, "0 of 4 pictures can be read: at least 2 are needed"),
    ],
)
def test_faults_of_an_index_are_one_line(arrays: dict[str, np.ndarray], said: str, bench: Bench, tmp_path: Path) -> None:
    (tmp_path / "images" / "deep").mkdir(parents=True)
    for name in ("broken.png", "deep/0.PNG"):
        (tmp_path / "images" / name).write_bytes(b"no picture")
    np.savez(tmp_path / "i.npz", **arrays)  # type: ignore[arg-type]
    with pytest.raises(EngineError, match=said) as raised:
        check(bench.bundles["cosine"], tmp_path / "i.npz", tmp_path / "images")
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--against", "index.npz"], "--against FILE and --images DIR, the folder of its pictures, go together"),
        (["--images", "."], "--against FILE and --images DIR"),
        (["--against", "none.npz", "--images", "."], "cannot read none.npz: No such file"),
        (["--against", "text.npz", "--images", "."], "cannot read text.npz: it is not an .npz archive"),
        (["--against", "embeddings.txt", "--images", "."], "the name must end in .npy or .npz"),
        (["--against", "index.npz", "--images", "none"], "there is no folder none"),
    ],
)
def test_bad_usage_is_one_line(
    arguments: list[str],
    said: str,
    bench: Bench,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    np.savez("index.npz", embeddings=ROWS, files=NAMES)
    Path("text.npz").write_text("text")
    Path("embeddings.txt").write_text("1 2")
    assert exit_status(main, ["check", str(bench.bundles["cosine"]), *arguments]) == 2
    assert said in error_line(capsys)
