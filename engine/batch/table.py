"""Explanations as rows of a Parquet table."""

import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from engine.batch.pairs import ListedPair
from engine.errors import OutputError, first_line
from engine.explanation import Explanation
from engine.saliency.geometry import TILES
from engine.saliency.tile_means import tile_means

MAP_COLUMNS = ("saliency", "saliency_error", "reference_saliency", "reference_saliency_error")
ATTRIBUTE_COLUMNS = ("attributes", "only_query", "only_reference")
NUMBER_COLUMNS = ("similarity", "saliency_reliability", "reference_saliency_reliability", "passes")
BOX_COLUMNS = ("query_box", "reference_box", "query_size", "reference_size")


class ExplanationRows:
    """Rows that become a table: an explanation's numbers without its times, so that equal pairs give equal rows."""

    def __init__(self) -> None:
        self._rows: list[dict[str, Any]] = []

    def add(self, pair: ListedPair, explanation: Explanation, picture: str | None) -> None:
        """Add a pair's explanation. picture: where it is drawn, below the batch's folder"""
        fields = explanation.to_dict()
        maps = {name: _tiles(getattr(explanation, name)) for name in MAP_COLUMNS}
        kept = {name: fields[name] for name in (*NUMBER_COLUMNS, *ATTRIBUTE_COLUMNS, *BOX_COLUMNS, "links", "notes")}
        self._rows.append({**vars(pair), **kept, **maps, "picture": picture})

    def table(self) -> Any:
        """Return the table, rows by their number."""
        import pyarrow as pa  # noqa: PLC0415 - of the extra `batch`

        return pa.Table.from_pylist(sorted(self._rows, key=lambda row: row["row"]), explanation_schema())


def explanation_schema() -> Any:
    """Return the columns of a table of explanations."""
    import pyarrow as pa  # noqa: PLC0415 - as above

    number, numbers = pa.float64(), pa.list_(pa.float64())
    plain = dict.fromkeys(NUMBER_COLUMNS, number) | {"passes": pa.int32()}
    parts = ("score", "confidence", "reference_confidence", "match", "prior")
    attribute = pa.struct({"name": pa.string(), **dict.fromkeys(parts, number)})
    link = pa.struct({"query_box": numbers, "reference_box": numbers, "strength": number, "reliability": number})
    return pa.schema(
        {
            **{"row": pa.int64(), **dict.fromkeys(("query", "reference", "condition"), pa.string())},
            **plain,
            **dict.fromkeys(ATTRIBUTE_COLUMNS, pa.list_(attribute)),
            "links": pa.list_(link),
            **dict.fromkeys(MAP_COLUMNS, pa.list_(pa.float32(), TILES * TILES)),
            **dict.fromkeys(BOX_COLUMNS, numbers),
            **{"notes": pa.list_(pa.string()), "picture": pa.string()},
        }
    )


def failed_table(failed: Mapping[ListedPair, str]) -> Any:
    """Return the table of pairs that failed, with the reasons: a table of pairs itself. failed: reasons by pair"""
    import pyarrow as pa  # noqa: PLC0415 - as above

    rows = [{**vars(pair), "reason": reason} for pair, reason in failed.items()]
    kinds = {"row": pa.int64(), **dict.fromkeys(("query", "reference", "condition", "reason"), pa.string())}
    return pa.Table.from_pylist(sorted(rows, key=lambda row: row["row"]), pa.schema(kinds))


def read_failed(files: Sequence[Path]) -> Any:
    """Return tables that `failed_table` made as one, rows by their number. Raises OutputError if one cannot be read."""
    import pyarrow as pa  # noqa: PLC0415 - as above
    import pyarrow.parquet as pq  # noqa: PLC0415

    try:
        found = pa.concat_tables([failed_table({}), *(pq.read_table(file) for file in files)])
    except (OSError, pa.ArrowException) as error:
        raise OutputError(
            f"a table of {files[0].parent} is damaged ({first_line(error)}): delete it, and its part"
        ) from error
    return found.sort_by("row")


def parquet_bytes(table: Any) -> bytes:
    """Return a table as a Parquet file."""
    import pyarrow.parquet as pq  # noqa: PLC0415 - as above

    buffer = io.BytesIO()
    pq.write_table(table, buffer, compression="zstd")
    return buffer.getvalue()


def _tiles(values: np.ndarray | None) -> np.ndarray | None:
    """Return a map's means over 16 x 16 tiles, or its errors, as (256,) float32."""
    if values is None:
        return None
    return (values if values.shape == (TILES, TILES) else tile_means(values)).astype(np.float32).ravel()
