"""Limits of tables: what is read takes many times as much memory as its file."""

from pathlib import Path

import pytest

from engine import OptionError, tables
from engine.tables import read_table, read_text


def test_a_large_table_is_refused_before_it_is_read(tmp_path: Path) -> None:
    file = tmp_path / "pairs.csv"
    with open(file, "wb") as opened:
        opened.truncate(tables.LARGEST_TEXT + 1)  # a hole: it takes no room
    with pytest.raises(
        OptionError, match=r"cannot read the pairs .*: it has more than 50 MB; split it, or write it as Parquet"
    ):
        read_text(file, "pairs")


def test_rows_are_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tables, "MOST_ROWS", 3)
    assert len(read_table(tmp_path, "id\na\nb\nc\n", ("id",)).rows) == 3
    with pytest.raises(OptionError, match="has more than 3 rows: split it"):
        read_table(tmp_path, "id\na\nb\nc\nd\n", ("id",))
