"""What an index must not do to other people's files, nor lose when it is compacted, nor leave out in silence."""

from datetime import timedelta
from pathlib import Path

import pytest
from helpers import CAT
from index_pictures import write_catalogue

from engine import Explainer, OptionError, OutputError, Rise

pytest.importorskip("lance", reason="needs pylance, of the extra `index`")

from engine.index import Index, store

FEW = Rise(masks=32)


@pytest.fixture
def index(demo: Explainer, tmp_path: Path) -> Index:
    return Index.build(tmp_path / "index", demo, write_catalogue(tmp_path / "pictures"), method=FEW)


def test_a_folder_of_other_things_is_left_alone(demo: Explainer, tmp_path: Path, index: Index) -> None:
    project = tmp_path / "project"
    project.mkdir()
    for name in (".env.template", "index.json"):
        (project / name).write_text("mine")
        with pytest.raises(OutputError, match="is no index and holds"):
            Index.build(project, demo, tmp_path / "pictures", method=FEW)
        assert (project / name).read_text() == "mine"
        (project / name).unlink()
    hidden = index._store.path / ".env.template"
    hidden.write_text("mine")
    index.add(tmp_path / "pictures")
    assert hidden.read_text() == "mine"


def test_a_kill_while_it_is_compacted_loses_nothing(
    index: Index, demo: Explainer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("engine.index.table.VERSIONS_KEPT", timedelta(0))
    path, ids = index._store.path, index.ids
    index.add({"again": CAT[0]})

    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(store, "_write_state", killed)
        index.compact()
    again = Index.open(path, demo)
    assert sorted(again.ids) == sorted([*ids, "again"])
    again.add({"third": CAT[1]})
    assert again.verify() == []


def test_what_was_mended_is_no_failure_and_nothing_to_remove_is_no_fault(index: Index, tmp_path: Path) -> None:
    picture = tmp_path / "pictures" / "noto" / "cat.png"
    content = picture.read_bytes()
    picture.write_bytes(b"broken")
    index.add(tmp_path / "pictures")
    assert list(index.failed) == ["noto/cat.png"]
    picture.write_bytes(content)
    index.add(tmp_path / "pictures")
    assert index.failed == {}
    index.remove([])
    assert len(index) == 8


def test_options_that_an_embedding_or_a_picture_cannot_have_are_refused(index: Index, demo: Explainer) -> None:
    (vector,) = demo.embed([CAT[0]])
    for query, options in (
        (vector, {"correspondence": True}),
        (vector, {"rather_than": "noto/cat.png"}),
        (CAT[0], {"correspondence": True}),
    ):
        with pytest.raises(OptionError, match="correspondence needs a row"):
            index.explain(query, ["twemoji/cat.png"], **options)
