"""An explanation made from an index: its pictures are read when they are first looked at, so that many cost nothing."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from engine.errors import ImageError
from engine.explanation import Explanation
from engine.index.rows import from_jpeg
from engine.index.table import LanceTable
from engine.model import LoadedModel
from engine.pictures.fetching import fetched

ReadLater = Callable[[], np.ndarray]
"""Returns a picture (H, W, 3) uint8. Raises ImageError."""


class _PictureField:
    """A field that is given an array, None, or a function that reads the array."""

    def __set_name__(self, owner: type, name: str) -> None:
        self._name = name

    def __get__(self, instance: object, owner: type | None = None) -> Any:
        if instance is None:
            raise AttributeError(self._name)  # a class has no picture
        value = vars(instance)[self._name]
        if callable(value):
            value = vars(instance)[self._name] = value()
        return value

    def __set__(self, instance: object, value: Any) -> None:
        vars(instance)[self._name] = value


class StoredExplanation(Explanation):
    """An `Explanation` whose pictures may be functions that read them. Looking at one raises ImageError if its file has
    changed, or is gone.
    """

    query_image = _PictureField()
    reference_image = _PictureField()
    rather_than_image = _PictureField()


def picture_reader(model: LoadedModel, table: LanceTable, place: int) -> ReadLater:
    """Return what reads a row's picture as the network saw it: its thumbnail, else its file, if that is still the same."""

    def read() -> np.ndarray:
        source, digest, thumbnail = table.picture(place)
        if thumbnail:
            return from_jpeg(thumbnail)
        with fetched(source) as (file, now):
            if now != digest:
                raise ImageError(f"{Path(source)} has changed since it was indexed: `python -m engine.index add` it again")
            return model.picture(file).pixels

    return read
