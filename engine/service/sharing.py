"""Runs of the network that rows of several explanations share, where each row's result is the same in any company."""

import numpy as np

from engine.errors import BundleError
from engine.explainer import Explainer
from engine.model import LoadedModel
from engine.protocol import Renderer, Runner, Stage
from engine.runtime.gpu_session import GpuSession
from engine.runtime.host_stage import HostStage
from engine.service.tickets import Ticket, current_ticket

ON_DEVICE = "masks are drawn on the GPU, batch by batch"
TWO_PICTURES = "the model takes both pictures at once, and a run is about one pair"
COMPANY = "a row's result depends on its place in the run, or on the other rows"


def sharing(explainer: Explainer) -> tuple[Explainer, str | None]:
    """Return the explainer with networks that queue for each run, and passes that share runs; else itself, and why not.

    Raises BundleError where the network does not run.
    """
    model = explainer.model
    why_not = _why_not(model)
    if why_not is not None:
        return explainer, why_not
    attributes = None if model.attributes is None else SharedNetwork(model.attributes)
    return explainer.with_model(model.running(SharedNetwork(model.similarity), attributes=attributes)), None


class SharedNetwork:
    """A network whose runs are made in turns, and whose passes share runs. See `engine.protocol.Runner`.

    session: runs it; whose work a run is, the thread's ticket says
    """

    def __init__(self, session: Runner) -> None:
        self.path, self._session = session.path, session

    def run(self, batch: np.ndarray) -> np.ndarray:
        """(B, ...) float32 as the network takes it -> (B, ...) float32, in one turn."""
        ticket = current_ticket()
        if ticket is None:
            return self._session.run(batch)
        with ticket.turn():
            return self._session.run(batch)

    def stage(self, renderer: Renderer, image: np.ndarray, baseline: np.ndarray, channels_last: bool, batch: int) -> Stage:
        """See `engine.protocol.Runner`."""
        ticket, drawing = current_ticket(), (renderer, image, baseline, channels_last, batch)
        if ticket is None:
            return self._session.stage(*drawing)
        return SharedStage(ticket, self._session, *drawing)


class SharedStage(HostStage):
    """Draws beside the network, and hands its rows to whoever makes the next run. ticket: of the work that it belongs to"""

    def __init__(
        self,
        ticket: Ticket,
        session: Runner,
        renderer: Renderer,
        image: np.ndarray,
        baseline: np.ndarray,
        channels_last: bool,
        batch: int,
    ) -> None:
        super().__init__(session, renderer, image, baseline, channels_last, batch)
        self._ticket = ticket

    def __enter__(self) -> "SharedStage":
        super().__enter__()
        self._ticket.share_runs()
        return self

    def run_rows(self, rows: np.ndarray, until: float | None) -> np.ndarray | None:
        """Run rows (n, ...) float32 with those of other work; None: not before `until`. Raises Cancelled, Refused."""
        found = self._ticket.run_shared(self._session, rows, self.batch, until)
        self.waited = self._ticket.waited
        return found


def _why_not(model: LoadedModel) -> str | None:
    if isinstance(model.similarity, GpuSession):
        return ON_DEVICE
    if model.takes_pairs:
        return TWO_PICTURES
    return None if same_in_any_company(model) else COMPANY


def same_in_any_company(model: LoadedModel) -> bool:
    """Whether rows of the canonical picture, moved about, give the same bits at other places and beside other rows.

    Those are reversed, or moved on by one; every other row is a board of black and white, which widens the range that a
    network may scale its numbers by.
    """
    batch, preprocessing, picture = model.run_settings.batch, model.preprocessing, model.bundle.canonical["picture"]
    rows = preprocessing.normalised(np.stack([np.roll(picture, 3 * i, (0, 1)) for i in range(batch)]))
    board = (np.indices(picture.shape[:2]).sum(0) % 2 * 255).astype(np.uint8)
    boards = preprocessing.normalised(np.stack([np.roll(np.stack([board] * 3, 2), i % 4 // 2, 0) for i in range(batch)]))
    odd = np.arange(batch) % 2 == 1
    other = rows.copy()
    other[odd] = boards[odd]
    expected = model.similarity.run(rows)[~odd]
    try:
        found = (
            model.similarity.run(np.ascontiguousarray(other[::-1]))[::-1],
            np.roll(model.similarity.run(np.roll(other, 1, axis=0)), -1, axis=0),
        )
    except BundleError:  # no number for such a row: it would fail the rows beside it
        return False
    return all(np.array_equal(one[~odd], expected) for one in found)
