"""One picture that the network makes nothing of costs a catalogue or a batch that picture alone; a model that fails, all."""

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers import CAT, COUPLE, GESTURE, error_line, exit_status
from index_pictures import write_catalogue

from engine import BundleError, Explainer, ImageError, Rise
from engine.batch.command import main as batch
from engine.failing import picture_failure
from engine.index import Index
from engine.runtime.session import Session

BAD = "noto/cat.png"
FEW = Rise(masks=32)
SAID = "gives numbers that are not finite for this picture"


@pytest.fixture
def poisoned(demo: Explainer, monkeypatch: pytest.MonkeyPatch) -> None:
    """The network fails on every batch that has the cat of Noto in it, unmasked."""
    bad = demo.model.preprocessing.normalised(demo.model.picture(CAT[0]).pixels)
    run = Session.run

    def poisoned_run(self: Session, batch: np.ndarray, *more: Any) -> Any:
        if any(np.array_equal(row, bad) for row in batch):
            raise BundleError(f"{self.path} {SAID}")
        return run(self, batch, *more)

    monkeypatch.setattr(Session, "run", poisoned_run)


@pytest.mark.usefixtures("poisoned")
def test_a_catalogue_loses_one_picture(demo: Explainer, tmp_path: Path) -> None:
    pytest.importorskip("lance", reason="needs pylance, of the extra `index`")
    index = Index.build(tmp_path / "index", demo, write_catalogue(tmp_path / "pictures"), method=FEW)
    assert len(index) == 7
    assert list(index.failed) == [BAD]
    assert SAID in index.failed[BAD]
    with pytest.raises(ImageError, match=f"none of 1 pictures can be read; of the last, .*{SAID}"):
        Index.build(tmp_path / "other", demo, {"a": CAT[0]}, method=FEW)


@pytest.mark.usefixtures("poisoned")
@pytest.mark.parametrize("mode", ["fixed", "pair"])
def test_a_batch_loses_the_pairs_of_one_picture(mode: str, tmp_path: Path) -> None:
    pq = pytest.importorskip("pyarrow.parquet", reason="needs pyarrow, of the extra `batch`")
    for name, file in (("cat", CAT[0]), ("couple", COUPLE[0]), ("gesture", GESTURE[0])):
        shutil.copy(file, tmp_path / f"{name}.png")
    pairs = [("couple", "gesture"), ("couple", "cat"), ("cat", "couple"), ("couple", "couple")]
    lines = [f"{a}.png,{b}.png" for a, b in pairs]
    (tmp_path / "pairs.csv").write_text("\n".join(["query,reference", *lines]) + "\n")
    options = ("--masks", "32", "--precision", "fp32", "--provider", "cpu", "--quiet", "--mode", mode)
    assert exit_status(batch, [str(tmp_path / "pairs.csv"), "--out", str(tmp_path / "out"), *options]) == 0
    failed = pq.read_table(tmp_path / "out" / "failed.parquet").to_pylist()
    assert [row["row"] for row in failed] == [1, 2]
    assert all(SAID in row["reason"] for row in failed)
    assert sorted(pq.read_table(tmp_path / "out" / "explanations")["row"].to_pylist()) == [0, 3]


def test_a_model_that_fails_ends_the_work(
    demo: Explainer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("pyarrow", reason="needs pyarrow, of the extra `batch`")
    shutil.copy(CAT[0], tmp_path / "cat.png")
    (tmp_path / "pairs.csv").write_text("query,reference\ncat.png,cat.png\n")

    def broken(self: Session, *_: Any) -> Any:
        raise BundleError(f"ONNX Runtime cannot run {self.path}: it is gone")

    prepare = Explainer.prepare

    def breaking(self: Explainer, *more: Any, **named: Any) -> Any:
        monkeypatch.setattr(Session, "run", broken)
        return prepare(self, *more, **named)

    monkeypatch.setattr(Explainer, "prepare", breaking)
    assert exit_status(batch, [str(tmp_path / "pairs.csv"), "--out", str(tmp_path / "out"), "--quiet"]) == 2
    assert "it is gone" in error_line(capsys)
    assert not list((tmp_path / "out" / "explanations").iterdir())


def test_whose_failure_it_is(demo: Explainer, monkeypatch: pytest.MonkeyPatch) -> None:
    assert picture_failure(ImageError("text"), demo.model) == "text"
    assert picture_failure(BundleError("odd numbers"), demo.model) == "odd numbers"
    sizes: list[int] = []
    run = Session.run

    def attributes_fail(self: Session, batch: np.ndarray) -> Any:
        sizes.append(len(batch))
        if self is demo.model.attributes:
            raise BundleError("it is gone")
        return run(self, batch)

    monkeypatch.setattr(Session, "run", attributes_fail)
    with pytest.raises(BundleError, match="odd numbers"):
        picture_failure(BundleError("odd numbers"), demo.model)
    assert sizes == [demo.model.run_settings.batch] * 2
