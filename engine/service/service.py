"""One process of the service: a bundle, the threads that explain with it, and what is kept for later calls."""

import asyncio
import contextlib
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

from starlette.requests import Request

from engine.errors import ImageError
from engine.explainer import Explainer
from engine.explanation import Explanation
from engine.index import Index
from engine.prepared import Prepared
from engine.service.answers import answer, size_of_explanation
from engine.service.executor import Executor
from engine.service.explaining import Question, explain
from engine.service.kept import Kept, Shelf
from engine.service.limits import Limits, Refused
from engine.service.log import log
from engine.service.metrics import Metrics
from engine.service.resolving import Loaded
from engine.service.sharing import sharing
from engine.service.slow_calls import JOBS_FOLDER, Jobs
from engine.service.tickets import Ticket

T = TypeVar("T")


class Service:
    """Made once a process.

    open_explainer: opens the bundle, now and at every reload; open_index: likewise the index of its model, if there is one
    shared: a folder where other processes of the same server find what is kept; None: there are none
    """

    def __init__(
        self,
        open_explainer: Callable[[], Explainer],
        limits: Limits,
        shared: Path | None = None,
        open_index: Callable[[Explainer], Index] | None = None,
    ) -> None:
        self.limits, self.shared = limits, shared
        self.draining = False
        self.executor = Executor(limits)
        shelf = self._shelf("explanations", Explanation.save, Explanation.load)
        self.explanations: Kept[Explanation] = Kept(
            "explanation", limits.kept_seconds, limits.kept_bytes, size_of_explanation, shelf
        )
        self.jobs = Jobs(self.executor, limits, None if shared is None else shared / JOBS_FOLDER)
        self.metrics = Metrics(self._gauges, lambda: self.explainer.model.run_settings.batch)
        self._open_explainer, self._open_index = open_explainer, open_index
        self._reloading = threading.Lock()
        self.loaded = self._load()

    @property
    def explainer(self) -> Explainer:
        return self.loaded.explainer

    def reload(self) -> None:
        """Open the bundle again. Requests that were accepted keep the old one; pictures prepared with it are forgotten.

        Raises what opening it raises; then the old one stays.
        """
        with self._reloading:
            self.loaded = self._load()

    def require_model(self, name: str) -> None:
        """Raise Refused unless the bundle has this name."""
        own = self.explainer.model.manifest.name
        if name != own:
            raise Refused(404, f"there is no model {name!r} here: the model is {own!r}")

    def explained(self, question: Question, ticket: Ticket) -> list[dict[str, Any]]:
        """Explain and keep the explanations; returns the answers. In a thread of the executor."""
        explanations = explain(self.loaded, self.limits, question, ticket)
        self.metrics.worked(ticket, explanations)
        return [self.keep(explanation) for explanation in explanations]

    def keep(self, explanation: Explanation) -> dict[str, Any]:
        """Keep an explanation for later calls; returns the answer about it. Raises Refused."""
        with pictures_read():  # other processes find it whole
            return answer(explanation, self.explanations.put(explanation))

    async def run(self, request: Request, ticket: Ticket, work: Callable[[], T]) -> T:
        """Wait for work in a thread; if the client goes away before, the work ends at its next batch."""
        task = asyncio.wrap_future(self.executor.submit(ticket, work))
        gone = asyncio.ensure_future(cancel_if_gone(request, ticket))
        try:
            return await task
        finally:
            gone.cancel()

    def close(self) -> None:
        """End when what runs is done."""
        self.executor.close()

    def _load(self) -> Loaded:
        explainer, why_alone = sharing(self._open_explainer())
        if why_alone is not None:
            log("runs not shared", reason=why_alone)
        shelf = self._shelf("prepared", Prepared.save, explainer.load_prepared)
        prepared: Kept[Prepared] = Kept(
            "prepared picture", self.limits.kept_seconds, self.limits.kept_bytes, lambda one: one.nbytes, shelf
        )
        index = None if self._open_index is None else self._open_index(explainer)
        return Loaded(explainer, prepared, index, shares_runs=why_alone is None)

    def _shelf(self, name: str, write: Callable[[T, Path], None], read: Callable[[Path], T]) -> Shelf[T] | None:
        if self.shared is None:
            return None
        return Shelf(self.shared / name, self.limits.kept_seconds, self.limits.kept_bytes, write, read)

    def _gauges(self) -> dict[tuple[str, str], float]:
        cache = self.explainer.cache_info()
        return {
            **{("queue_depth", lane): float(count) for lane, count in self.executor.waiting().items()},
            ("kept_bytes", "explanations"): self.explanations.nbytes,
            ("kept_bytes", "prepared"): self.loaded.prepared.nbytes,
            ("cache_hits", ""): cache.hits,
            ("cache_misses", ""): cache.misses,
            ("cache_bytes", ""): cache.bytes,
        }


@contextlib.contextmanager
def pictures_read() -> Iterator[None]:
    """Raise Refused where a picture of a row cannot be read; the log alone says where it is."""
    try:
        yield
    except ImageError as error:
        log("picture unreadable", error=str(error))
        sentence = "a picture of the index has changed or is gone: index it again, or build the index with --thumbnails"
        raise Refused(422, sentence) from error


async def cancel_if_gone(request: Request, ticket: Ticket) -> None:
    """Cancel the work when the client closes the connection. The body must have been read."""
    while (await request.receive())["type"] != "http.disconnect":
        pass
    ticket.cancel()
