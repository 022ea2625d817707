"""The pairs of a batch, and the parts that they are explained and stored in."""

import dataclasses
from collections.abc import Iterator, Sequence
from pathlib import Path

from engine.errors import OptionError
from engine.tables import PARQUET_SUFFIX, TABLE_SUFFIXES, parquet_texts, read_table, read_text

PART_QUERIES, PART_PAIRS = 32, 4096
"""Of a part at most: a batch that was killed explains so many again, for each worker. A query of more pairs is prepared
once for so many of them."""


@dataclasses.dataclass(frozen=True)
class ListedPair:
    """A row of a table of pairs.

    row: its number, from 0; query, reference: paths or URLs, as given; condition: name or index, as text; None for none
    """

    row: int
    query: str
    reference: str
    condition: str | None


@dataclasses.dataclass(frozen=True)
class Part:
    """Pairs that are stored together. number: of the part; queries: the pairs of each query"""

    number: int
    queries: tuple[tuple[ListedPair, ...], ...]

    def __len__(self) -> int:
        return sum(map(len, self.queries))


def listed_pairs(file: Path) -> list[ListedPair]:
    """Read the pairs of a `.csv`, `.tsv` or `.parquet` with the columns query, reference and, if wanted, condition.

    Raises OptionError, with the line, if it is none, or has no pairs.
    """
    suffix = file.suffix.lower()
    if suffix not in (*TABLE_SUFFIXES, PARQUET_SUFFIX):
        raise OptionError(f"{file} must be a table of pairs, .csv, .tsv or .parquet, with the columns query and reference")
    found = []
    for number, (query, reference, condition) in enumerate(
        _of_parquet(file) if suffix == PARQUET_SUFFIX else _of_text(file)
    ):
        if not query or not reference:
            raise OptionError(f"{file}, pair {number + 1}: a query and a reference are needed")
        found.append(ListedPair(number, query, reference, condition or None))
    if not found:
        raise OptionError(f"{file} has no pairs: at least one is needed")
    return found


Texts = Iterator[tuple[str | None, str | None, str | None]]


def _of_text(file: Path) -> Texts:
    for _, row in read_table(file, read_text(file, "pairs"), ("query", "reference"), ("condition",)).rows:
        yield row["query"], row["reference"], row.get("condition")


def _of_parquet(file: Path) -> Texts:
    columns = parquet_texts(file, "batch")
    if not {"query", "reference"} <= columns.keys():
        raise OptionError(f"{file} needs the columns query and reference; it has {', '.join(columns) or 'none'}")
    conditions = columns.get("condition") or [None] * len(columns["query"])
    yield from zip(columns["query"], columns["reference"], conditions, strict=True)


def parts_of(pairs: Sequence[ListedPair]) -> list[Part]:
    """Cut pairs into parts, those of a query together; the same pairs are cut in the same way."""
    by_query: dict[str, list[ListedPair]] = {}
    for pair in pairs:
        by_query.setdefault(pair.query, []).append(pair)
    parts: list[list[tuple[ListedPair, ...]]] = [[]]
    for own in by_query.values():
        for start in range(0, len(own), PART_PAIRS):
            group = tuple(own[start : start + PART_PAIRS])
            if len(parts[-1]) == PART_QUERIES or sum(map(len, parts[-1])) + len(group) > PART_PAIRS:
                parts.append([])
            parts[-1].append(group)
    return [Part(number, tuple(groups)) for number, groups in enumerate(parts) if groups]
