"""A model that was opened by arguments: it is pickled by them, and used only in the process that opened it."""

import copy
import dataclasses
import functools
import os
import platform
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Self, TypeVar

from engine.auto import load_model
from engine.bundle import demo_bundle
from engine.errors import BundleError
from engine.methods import METHODS
from engine.model import LoadedModel
from engine.pictures.reading import Reading
from engine.protocol import Notice, require_whole

MOST_THREADS = 1024
"""More cost minutes to start, and no machine that runs this has more cores."""
SomeOpened = TypeVar("SomeOpened", bound="Opened")


class Opened:
    """What `engine.Explainer` is, without what it explains. Its arguments are those of `engine.Explainer`.

    Raises BundleError, ProviderError, OptionError; in a fork of its process everything raises ProcessError.
    """

    def __init__(
        self,
        bundle: str | os.PathLike[str] | None,
        provider: str,
        precision: str,
        threads: int | None,
        cache_bytes: int,
        reading: Reading,
        notice: Notice,
    ) -> None:
        if threads is not None:
            require_whole("threads", threads, 1, MOST_THREADS)
        require_whole("cache_bytes", cache_bytes, 0, 2**63)
        folder = Path(bundle) if bundle is not None else demo_bundle()
        self._model, self.provider_reason = load_model(folder, provider, precision, threads, notice)
        self._model.reading = reading
        lasting = None if bundle is None else folder.absolute()  # whoever unpickles may be in another folder
        self._arguments = lasting, provider, precision, threads, cache_bytes
        self._named = {**dataclasses.asdict(reading), "notice": notice}

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle the arguments: whoever unpickles loads the model, with an empty cache."""
        return functools.partial(type(self), **self._named), self._arguments

    def elsewhere(self) -> Callable[..., Self]:
        """Return what opens the same model elsewhere, given `threads`, with the provider and the precision that were
        taken here. There it raises BundleError if another bundle is in the folder.
        """
        folder, *_, cache_bytes = self._arguments
        make = functools.partial(type(self), folder, self.provider, self.precision, cache_bytes=cache_bytes, **self._named)
        return functools.partial(_opened_alike, make, self.model.bundle.digests)

    def with_model(self, model: LoadedModel) -> Self:
        """Return the same with what was loaded as it is here: a view of it, see `LoadedModel.running`."""
        other = copy.copy(self)
        other._model = model
        return other

    @property
    def model(self) -> LoadedModel:
        """What was loaded. Raises ProcessError in a fork of the process that loaded it."""
        self._model.require_own_process()
        return self._model

    @property
    def provider(self) -> str:
        """What runs the networks: cpu, cuda, tensorrt or openvino."""
        return self.model.provider

    @property
    def precision(self) -> str:
        """The precision of the similarity graph: fp32, fp16, bf16 or int8."""
        return self.model.precision

    @property
    def precision_reason(self) -> str:
        """Why that precision was taken, in one line."""
        return self.model.precision_reason

    @property
    def has_gradient(self) -> bool:
        """Whether the bundle has the gradient graph that method mask needs."""
        return self.model.gradient_graph is not None

    @property
    def has_tokens(self) -> bool:
        """Whether the bundle has the graphs that method tokens needs, for this provider and in this precision."""
        return self.model.token_graph is not None

    @property
    def methods(self) -> tuple[str, ...]:
        """The names of the methods that the bundle has graphs for, with this provider and precision."""
        lacking = {"mask": not self.has_gradient, "tokens": not self.has_tokens}
        return tuple(name for name in METHODS if not lacking.get(name))


def _opened_alike(make: Callable[..., SomeOpened], digests: Mapping[str, str], threads: int) -> SomeOpened:
    """Open a model, and compare its bundle with the one that it stands for. digests: sha256 by file name of that one"""
    opened = make(threads=threads)
    bundle = opened.model.bundle
    differing = sorted(name for name, _ in digests.items() ^ bundle.digests.items())
    if differing:
        raise BundleError(
            f"{bundle.folder} on {platform.node()} is another bundle than where the work is given out ({differing[0]} "
            "differs): copy that one to every machine"
        )
    return opened
