"""A large index is searched on a graph of its rows, which is never used for other rows, and never without saying so."""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from helpers import CAT, exit_status
from index_pictures import write_catalogue

from engine import Explainer, OptionError, OutputError, Rise
from engine.saliency.similarity import query_features, reference_features

pytest.importorskip("lance", reason="needs pylance, of the extra `index`")
pytest.importorskip("usearch", reason="needs usearch, of the extra `index`")

from engine.index import Index, graph
from engine.index.command import main
from engine.index.searching import RowSearch

FEW = Rise(masks=32)
CATS = ("noto/cat.png", "twemoji/cat.png")


@pytest.fixture(autouse=True)
def five_rows_are_many(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in ("graph", "building"):
        monkeypatch.setattr(f"engine.index.{module}.APPROXIMATE_ABOVE", 5)


@pytest.fixture(scope="module")
def built(demo: Explainer, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Without a graph, because it was small. Not to be changed."""
    folder = tmp_path_factory.mktemp("search")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(graph, "APPROXIMATE_ABOVE", 100)
        Index.build(folder / "index", demo, write_catalogue(folder / "pictures"), method=FEW)
    return folder


@pytest.fixture
def path(built: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(built, tmp_path / "built")) / "index"


def graphs(path: Path) -> list[Path]:
    return sorted((path / graph.GRAPHS).iterdir())


def test_the_graph_finds_what_comparing_all_finds(path: Path, demo: Explainer) -> None:
    exact = Index.open(path, demo)
    assert not (path / graph.GRAPHS).exists()
    found = exact.search(CATS[0], 5)
    assert all(match.exact for match in found)
    exact.add({"noto/cat.png": CAT[0]})  # nothing is new; a graph is made
    assert len(graphs(path)) == 1
    index = Index.open(path, demo)
    approximate = index.search(CATS[0], 5)
    assert [(m.id, m.similarity, m.exact) for m in approximate] == [(m.id, m.similarity, False) for m in found]
    explained = index.search_and_explain(CATS[0], 3)
    assert [m.id for m in explained] == [m.id for m in found[:3]]
    assert (explained[0].explanation.saliency == exact.explain(CATS[0], [found[0].id])[0].saliency).all()  # type: ignore[union-attr]


def test_a_graph_of_other_rows_is_not_used(path: Path, demo: Explainer) -> None:
    index = Index.open(path, demo)
    index.add({"new": CAT[0]})
    (first,) = graphs(path)
    reader = Index.open(path, demo)
    reader.search(CATS[0])
    index.remove(["new"])
    (second,) = graphs(path)
    assert first.name != second.name
    assert "new" in {match.id for match in reader.search(CATS[0])}  # a reader keeps what it opened
    assert "new" not in {match.id for match in index.search(CATS[0])}
    second.rename(second.with_name(first.name))
    again = Index.open(path, demo)
    assert all(match.exact for match in again.search(CATS[0]))
    assert again.verify() == [f"search/{first.name} was changed: its sha256 is not the one in its name; `add` makes another"]


def test_compacting_keeps_it_and_few_rows_need_none(path: Path, demo: Explainer) -> None:
    index = Index.open(path, demo)
    index.add({"new": CAT[0]})
    index.remove(["new"])
    made = graphs(path)
    index.compact()
    assert graphs(path) == made
    assert not index.search(CATS[0])[0].exact
    assert index.verify() == []
    index.remove(index.ids[:4])
    assert graphs(path) == []
    assert index.search(CATS[1])[0].exact


def test_every_flipped_byte_of_it_is_found_and_it_is_not_opened(path: Path, demo: Explainer) -> None:
    Index.open(path, demo).add({"noto/cat.png": CAT[0]})
    (file,) = graphs(path)
    content = file.read_bytes()
    for at in np.random.default_rng(0).integers(len(content), size=20).tolist():
        flipped = bytearray(content)
        flipped[at] ^= 1
        file.write_bytes(flipped)
        (found,) = Index.open(path, demo).verify()
        assert file.name in found
        with pytest.raises(OutputError, match=r"is damaged: `python -m engine\.index add` makes another"):
            Index.open(path, demo).search(CATS[0])
    index = Index.open(path, demo)
    index.add({"noto/cat.png": CAT[0]})
    assert not index.search(CATS[0])[0].exact
    assert index.verify() == []


def test_stat_and_search_say_it(path: Path, demo: Explainer, capsys: pytest.CaptureFixture[str]) -> None:
    def stat() -> dict[str, Any]:
        assert exit_status(main, ["stat", str(path)]) == 0
        found: dict[str, Any] = json.loads(capsys.readouterr().out)
        return found

    assert stat()["search"] == "exact"
    Index.open(path, demo).add({"noto/cat.png": CAT[0]})
    about = stat()
    assert about["search"] == "approximate"
    assert about["bytes"] == sum(file.stat().st_size for file in path.rglob("*") if file.is_file())
    assert exit_status(main, ["search", str(path), CATS[0], "-k", "2"]) == 0
    printed = capsys.readouterr()
    assert printed.err == "a large index is searched on a graph of its rows, which may miss some\n"
    assert printed.out.split()[1] == CATS[1]


def test_without_usearch_a_large_index_is_refused_before_any_pass(
    path: Path, demo: Explainer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(__import__("sys").modules, "usearch", None)
    monkeypatch.setattr(Explainer, "prepare", lambda *_: pytest.fail("a pass was run"))
    with pytest.raises(OptionError, match=r"more than 5 rows needs usearch: pip install 'sane-engine\[index\]'"):
        Index.open(path, demo).add({"new": CAT[0]})


class Rows:
    """In place of a table: embeddings alone."""

    def __init__(self, embeddings: np.ndarray) -> None:
        self._embeddings = embeddings

    def __len__(self) -> int:
        return len(self._embeddings)

    def embeddings(self) -> Iterator[np.ndarray]:
        yield from np.array_split(self._embeddings, 3)

    def embeddings_at(self, places: list[int]) -> np.ndarray:
        return self._embeddings[places]

    def fingerprint(self) -> str:
        return "rows"


@pytest.mark.parametrize("metric", ["cosine", "dot", "euclidean"])
def test_every_metric_with_and_without_a_condition(metric: str, tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    weights = np.maximum(random.standard_normal(16), 0).astype(np.float32)
    rows, queries = (random.standard_normal((count, 16)).astype(np.float32) for count in (3000, 20))
    alive = np.arange(3000) % 7 > 0
    model: Any = SimpleNamespace(
        manifest=SimpleNamespace(metric=metric, embedding=16),
        threads=1,
        weights=lambda condition: np.ones(16, np.float32) if condition is None else weights,
        query_features=lambda e, c: query_features(e, metric, None if c is None else weights),
        reference_features=lambda e, c: reference_features(e, metric, None if c is None else weights),
    )
    table: Any = Rows(rows)
    for condition in (None, 0):
        here = tmp_path / str(condition)
        here.mkdir()
        exact, approximate = (RowSearch(here, table, model, condition, alive) for _ in range(2))
        wanted = [exact.nearest(query, 20) for query in queries]
        assert exact.is_exact
        approximate.write_graph()
        found = [approximate.nearest(query, 20) for query in queries]
        assert not approximate.is_exact
        shared = [len({*own[0].tolist()} & {*other[0].tolist()}) for own, other in zip(wanted, found, strict=True)]
        assert np.mean(shared) >= (0.95 if metric == "dot" else 0.99) * 20
        assert all(alive[places].all() and (np.diff(scores) <= 0).all() for places, scores in found)
