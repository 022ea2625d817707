"""The hooks for other searches: their order is kept, and each result is explained."""

import importlib.util
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from helpers import ROOT
from index_pictures import write_catalogue

from engine import Explainer, Rise
from engine.index import Index

pytest.importorskip("lance", reason="needs pylance, of the extra `index`")


def example(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, ROOT / "examples" / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def index(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("examples")
    Index.build(folder / "index", Explainer(), write_catalogue(folder / "pictures"), method=Rise(masks=64))
    return folder / "index"


@pytest.mark.parametrize("name", ["numpy_search", "qdrant_search"])
def test_results_keep_their_order_and_are_explained(name: str, index: Path, capsys: pytest.CaptureFixture[str]) -> None:
    if name == "qdrant_search":
        pytest.importorskip("qdrant_client", reason="needs qdrant-client")
    example(name).main([str(index), "noto/cat.png"])
    lines = capsys.readouterr().out.splitlines()
    opened = Index.open(index)
    expected = ["noto/cat.png", *(match.id for match in opened.search("noto/cat.png", 4))]
    assert [line.split(":")[0].split()[0] for line in lines] == expected
    assert "mostly yellow" in lines[1]


def test_embeddings_come_as_the_network_gave_them(index: Path) -> None:
    opened = Index.open(index)
    row = opened.embeddings(["noto/cat.png"])[0]
    np.testing.assert_array_equal(opened.embedding("noto/cat.png"), row)
    assert row.dtype == np.float32
