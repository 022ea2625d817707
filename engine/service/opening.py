"""What a process of the service opens: a bundle, and perhaps the index of its model."""

import dataclasses
import os
from pathlib import Path

from threadpoolctl import threadpool_limits

from engine.errors import OptionError
from engine.explainer import Explainer
from engine.index import Index
from engine.index.store import IndexStore
from engine.pictures.fetching import is_url
from engine.pictures.reading import Reading
from engine.protocol import Notice
from engine.service.limits import Limits

BLAS_VARIABLES = ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS", "BLIS_NUM_THREADS", "VECLIB_MAXIMUM_THREADS")
"""By which users say how many threads numpy's algebra has."""


@dataclasses.dataclass(frozen=True)
class Settings:
    """What the command was told; see `python -m engine.serve --help`."""

    bundle: str | None
    host: str
    port: int
    provider: str
    precision: str
    threads: int | None
    workers: int
    api_key_file: Path | None
    cors: tuple[str, ...]
    limits: tuple[str, ...]
    index: Path | None = None
    apply_profiles: bool = False


def compute_on_one_thread() -> None:
    """Let numpy's algebra in this process have one thread, unless the environment says how many.

    A map takes it milliseconds. Several threads that wait for each other beside the network's held up answers by as much as
    half a second.
    """
    if not any(os.environ.get(name) for name in BLAS_VARIABLES):
        threadpool_limits(1, user_api="blas")


def opened_explainer(settings: Settings, limits: Limits, notice: Notice) -> Explainer:
    """Open the bundle; unless told otherwise the one that the index was built with, in its precision, colours read as there.

    Raises OptionError, BundleError, ProviderError, OutputError.
    """
    bundle, precision, reading = settings.bundle, settings.precision, Reading(limits.pixels, settings.apply_profiles)
    if settings.index is not None:
        built = IndexStore(settings.index).settings
        bundle = built.bundle_at(settings.index, bundle)
        precision = built.precision if precision == "auto" else precision
        reading = dataclasses.replace(reading, apply_profiles=built.apply_profiles or reading.apply_profiles)
    opening = bundle, settings.provider, precision, settings.threads, limits.cache_bytes
    return Explainer(*opening, **vars(reading), notice=notice)


def open_index(path: Path, explainer: Explainer) -> Index:
    """Open an index. Raises OutputError, OptionError where it is of another model, or would have to fetch pictures."""
    store = IndexStore(path)
    if not store.settings.thumbnails and any(map(is_url, store.table.sources())):
        raise OptionError(
            f"{path} has pictures at URLs and no thumbnails, and the service makes no request of its own: build it with "
            "--thumbnails"
        )
    return Index(store, explainer)
