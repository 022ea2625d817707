"""Rows of several explanations share runs: each gets its own results, as if it were alone."""

import json
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers import CAT, until

pytest.importorskip("fastapi", reason="the service needs the extra serve")

from service_client import client_of, form, service_of_client

from engine import Explainer, Lime, Rise, Window
from engine.errors import BundleError
from engine.passes import MaskedPasses
from engine.protocol import Renderer, Stage
from engine.runtime.host_stage import HostStage
from engine.service.answers import answer
from engine.service.limits import Limits
from engine.service.service import Service
from engine.service.sharing import COMPANY, sharing
from engine.service.tickets import Cancelled, Ticket
from engine.service.turns import Place, Turns, WaitingRows

BATCH, POISON = 8, -1.0


class Network:
    """Doubles each number; rows are one number. runs: what it was given; fails where POISON is among it"""

    path = Path("fake.onnx")

    def __init__(self) -> None:
        self.runs: list[list[float]] = []
        self.begun, self.go_on = threading.Event(), threading.Event()
        self.go_on.set()

    def run(self, batch: np.ndarray) -> np.ndarray:
        assert len(batch) == BATCH
        self.runs.append(batch[:, 0].tolist())
        self.begun.set()
        assert self.go_on.wait(30)
        if POISON in batch:
            raise BundleError("not finite")
        return 2 * batch


class Queue:
    """Threads that wait, in order, while the test has the turn; then they are let go."""

    def __init__(self) -> None:
        self.turns, self.network = Turns(), Network()
        self.results: dict[str, object] = {}
        self._threads: list[threading.Thread] = []
        assert self.turns.take()

    def rows(self, *numbers: float, wanted: Callable[[], bool] = lambda: True) -> WaitingRows:
        return WaitingRows(self.network, np.array(numbers, np.float32)[:, None], BATCH, wanted)

    def wait(self, name: str, rows: WaitingRows, urgent: bool = False, timeout: float | None = None) -> WaitingRows:
        def work() -> None:
            try:
                self.results[name] = self.turns.run(rows, urgent, timeout)
            except BundleError as error:
                self.results[name] = str(error)

        self.start(work)
        return rows

    def start(self, work: Callable[[], object]) -> None:
        """Begin a thread, and return when it waits."""
        before = len(self.turns._waiting)
        self._threads.append(threading.Thread(target=work))
        self._threads[-1].start()
        until(lambda: len(self.turns._waiting) == before + 1)

    def let_go(self) -> None:
        self.turns.give()
        self.join()
        assert self.turns.take(timeout=0)  # nobody has it, and nobody waits

    def join(self) -> None:
        for thread in self._threads:
            thread.join(30)
            assert not thread.is_alive()


def doubled(rows: WaitingRows) -> bool:
    return rows.embeddings is not None and np.array_equal(rows.embeddings, 2 * rows.rows) and not rows.left


def test_runs_are_filled_with_rows_of_whoever_waits_longest_and_an_entry_may_be_split() -> None:
    queue = Queue()
    waiting = [
        queue.wait("a", queue.rows(1, 2, 3, 4, 5)),
        queue.wait("b", queue.rows(11, 12, 13, 14)),
        queue.wait("c", queue.rows(21, 22, 23, 24, 25, 26)),
    ]
    queue.let_go()
    assert queue.network.runs == [[1, 2, 3, 4, 5, 11, 12, 13], [14, 21, 22, 23, 24, 25, 26, 14]]
    assert all(map(doubled, waiting))
    assert queue.results == {"a": True, "b": True, "c": True}
    assert sum(rows.padded for rows in waiting) == 1


def test_one_request_alone_waits_for_nobody_and_is_padded() -> None:
    turns, network = Turns(), Network()
    rows = WaitingRows(network, np.array([[1], [2]], np.float32), BATCH, lambda: True)
    assert turns.run(rows)
    assert network.runs == [[1, 2, *[1] * 6]]
    assert doubled(rows)
    assert rows.padded == 6


def test_urgent_rows_come_before_all_others() -> None:
    queue = Queue()
    queue.wait("a", queue.rows(*range(1, 9)))
    queue.wait("b", queue.rows(*range(11, 16)))
    urgent = queue.wait("urgent", queue.rows(21, 22, 23), urgent=True)
    queue.let_go()
    assert queue.network.runs[0] == [21, 22, 23, 1, 2, 3, 4, 5]
    assert doubled(urgent)


def test_rows_wait_for_the_turns_of_work_that_shares_nothing() -> None:
    queue, order = Queue(), []

    def alone() -> None:
        assert queue.turns.take()
        order.append(len(queue.network.runs))
        queue.turns.give()

    queue.wait("a", queue.rows(1, 2))
    queue.start(alone)
    queue.wait("b", queue.rows(*range(11, 19)))
    queue.let_go()
    assert queue.network.runs == [[1, 2, *range(11, 17)], [17, 18, *[17] * 6]]
    assert order == [1]


def test_rows_of_another_network_are_not_mixed_in() -> None:
    queue, other = Queue(), Network()
    queue.wait("a", queue.rows(1, 2))
    queue.wait("b", WaitingRows(other, np.array([[11]], np.float32), BATCH, lambda: True))
    queue.let_go()
    assert queue.network.runs == [[1, 2, *[1] * 6]]
    assert other.runs == [[11] * 8]


def test_an_error_reaches_whose_rows_cause_it_and_nobody_else() -> None:
    queue = Queue()
    good = [queue.wait("a", queue.rows(1, 2)), queue.wait("c", queue.rows(11, 12, 13))]
    queue.wait("bad", queue.rows(21, POISON))
    good.append(queue.wait("d", queue.rows(31, 32)))
    queue.let_go()
    assert queue.results == {"a": True, "c": True, "bad": "not finite", "d": True}
    assert all(map(doubled, good))


def test_rows_that_nobody_wants_any_longer_are_not_run() -> None:
    queue, unwanted = Queue(), threading.Event()
    queue.wait("gone", queue.rows(1, 2, wanted=lambda: not unwanted.is_set()))
    kept = queue.wait("kept", queue.rows(11, 12))
    queue.wait("gone too", queue.rows(21, wanted=lambda: not unwanted.is_set()))
    unwanted.set()
    queue.let_go()
    assert queue.network.runs == [[11, 12, *[11] * 6]]
    assert queue.results == {"gone": False, "kept": True, "gone too": False}
    assert doubled(kept)


def test_rows_leave_the_queue_when_their_time_is_over() -> None:
    queue = Queue()
    assert not queue.turns.run(queue.rows(1), timeout=0.01)
    assert not queue.turns._waiting
    queue.let_go()
    assert not queue.network.runs


def test_a_run_under_way_is_waited_for() -> None:
    """Its end is nearer than a new run's would be."""
    queue = Queue()
    queue.network.go_on.clear()
    queue.wait("a", queue.rows(1, 2))
    waiting = queue.wait("b", queue.rows(11, 12), timeout=0.2)
    queue.turns.give()
    assert queue.network.begun.wait(30)
    place = queue.turns._waiting[0]
    assert not place.called.wait(0.3)
    queue.network.go_on.set()
    queue.join()
    assert queue.results == {"a": True, "b": True}
    assert doubled(waiting)


def test_passes_end_where_the_network_is_not_free_in_time() -> None:
    class Busy:
        batch, waited = 4, 0.0
        asked: list[float | None]

        def __enter__(self) -> "Busy":
            self.asked = []
            return self

        def __exit__(self, *_: object) -> None:
            pass

        def embed(self, first: int, count: int, until: float | None = None) -> bool:
            self.asked.append(until)
            return len(self.asked) < 3

        def wait(self) -> None:
            pass

        def embeddings(self) -> list[np.ndarray]:
            return [np.zeros((4, 1), np.float32)] * (len(self.asked) - 1)

    stage: Stage = Busy()
    told: list[int] = []
    found = MaskedPasses(stage).run(0, 100, 1e12, lambda done, _: told.append(done), 100)
    assert told == [4, 8]
    assert sum(map(len, found)) == 8
    assert stage.asked == [None, 1e12, 1e12]  # type: ignore[attr-defined]  # no map without the first


def test_a_batch_is_as_slow_as_its_run_and_not_as_the_wait_before_it(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 0.0
    monkeypatch.setattr("engine.passes.time.perf_counter", lambda: now)

    class Late:
        batch, waited = 4, 9.0

        def __enter__(self) -> "Late":
            return self

        def __exit__(self, *_: object) -> None:
            pass

        def embed(self, first: int, count: int, until: float | None = None) -> bool:
            nonlocal now
            now += 10.0
            return True

        def wait(self) -> None:
            pass

        def embeddings(self) -> list[np.ndarray]:
            return []

    told: list[int] = []
    MaskedPasses(Late()).run(0, 100, 25.0, lambda done, _: told.append(done), 100)
    assert told == [4, 8, 12]  # the last begins at 20; with one of 10 s it would not


def test_what_comes_before_the_passes_is_no_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 0.0
    monkeypatch.setattr("engine.service.tickets.time.perf_counter", lambda: now)
    ticket = Ticket(Turns(), 60, 60)
    with ticket.network():
        now = 5.0
        ticket.share_runs()
        now = 5.25
        ticket.progress(4, 100)
    assert (ticket._slowest, ticket.stages["network"]) == (0.25, 5.25)


def test_every_run_that_a_map_needs_is_urgent_for_work_with_a_deadline() -> None:
    """Of the passes only the first is, whose rows come without a time by which to have them."""
    queue, order = Queue(), list[str]()

    def turn(name: str, ticket: Ticket) -> None:
        with ticket.turn():
            order.append(name)

    def rows(name: str, ticket: Ticket, until: float | None) -> None:
        ticket._urgent = False  # as after a batch
        ticket.run_shared(queue.network, np.ones((BATCH, 1), np.float32), BATCH, until)
        order.append(name)

    tickets = {name: Ticket(queue.turns, deadline, 60) for name, deadline in zip("abcd", (None, 50, 50, 50), strict=True)}
    queue.start(lambda: turn("a", tickets["a"]))
    queue.start(lambda: rows("b", tickets["b"], tickets["b"].until))
    queue.start(lambda: turn("c", tickets["c"]))
    queue.start(lambda: rows("d", tickets["d"], None))
    assert [place.urgent for place in queue.turns._waiting] == [True, True, False, False]
    queue.let_go()
    assert sorted(order) == ["a", "b", "c", "d"]


def test_rows_whose_time_is_over_leave_with_the_run_under_way() -> None:
    queue, done = Queue(), threading.Event()
    queue.network.go_on.clear()

    def keep_the_turn() -> None:
        assert queue.turns.take()
        assert done.wait(30)
        queue.turns.give()

    queue.wait("a", queue.rows(1, 2, 3, 4, 5))
    queue.start(keep_the_turn)
    late = queue.wait("b", queue.rows(11, 12, 13, 14, 15), timeout=1.0)
    queue.turns.give()
    assert queue.network.begun.wait(30)
    until(lambda: any(place.leaves for place in queue.turns._waiting))
    queue.network.go_on.set()
    until(lambda: "b" in queue.results)  # while another has the turn
    assert (queue.results["b"], late.done) == (False, 3)
    done.set()
    queue.join()
    assert queue.results["a"] is True
    assert queue.turns.take(timeout=0)


def test_the_network_is_free_while_rows_are_drawn_and_maps_are_made() -> None:
    turns = Turns()
    ticket = Ticket(turns, None, 60)
    with ticket.network():
        assert not turns.take(timeout=0)
        ticket.share_runs()
        assert turns.take(timeout=0)
        turns.give()
        with ticket.turn():  # an attribute network's run
            assert not turns.take(timeout=0)
        assert turns.take(timeout=0)
        turns.give()
    assert turns.take(timeout=0)
    turns.give()
    with ticket.turn():
        assert not turns.take(timeout=0)
        with ticket.turn():
            assert not turns.take(timeout=0)
        assert not turns.take(timeout=0)
    assert turns.take(timeout=0)


class Around:
    """A network whose results are changed a little. change: takes (B, D), and gives the same"""

    def __init__(self, inner: object, change: Callable[[np.ndarray], np.ndarray]) -> None:
        self._inner, self._change = inner, change
        self.path = Path("around.onnx")

    def run(self, batch: np.ndarray) -> np.ndarray:
        return self._change(self._inner.run(batch))  # type: ignore[attr-defined]

    def stage(
        self, renderer: Renderer, image: np.ndarray, baseline: np.ndarray, channels_last: bool, batch: int
    ) -> HostStage:
        return HostStage(self, renderer, image, baseline, channels_last, batch)


QUESTIONS = (
    ({"masks": 250}, Rise(masks=250), "fixed"),
    ({"masks": 133, "seed": 3, "mode": "pair"}, Rise(masks=133, seed=3), "pair"),
    ({"method": "window"}, Window(), "fixed"),
    ({"method": "lime", "masks": 99}, Lime(samples=99), "fixed"),
)


def test_answers_of_requests_that_share_runs_equal_the_engine_s_own_bit_for_bit(demo: Explainer) -> None:
    found: dict[int, list[dict[str, Any]]] = {}
    waiting: list[Place] = []
    armed = threading.Event()

    def others_wait(embeddings: np.ndarray) -> np.ndarray:
        """End each run when all requests that are not answered wait for the next, so that they share all they can."""
        if armed.is_set():
            until(lambda: len(waiting) >= len(QUESTIONS) - len(found) - 1)
        return embeddings

    slow = demo.with_model(demo.model.running(Around(demo.model.similarity, others_wait)))
    with client_of(slow) as client:
        turns = service_of_client(client).executor._turns
        waiting = turns._waiting
        armed.set()

        def ask(i: int) -> None:
            found[i] = client.post("/v1/explain", **form(QUESTIONS[i][0])).json()["explanations"]

        threads = [threading.Thread(target=ask, args=(i,)) for i in range(len(QUESTIONS))]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
        lines = client.get("/metrics").text.splitlines()
    batch, masked, alone = demo.model.run_settings.batch, 0, 0
    for i, (_, method, mode) in enumerate(QUESTIONS):
        told: list[int] = []
        direct = demo.explain(*CAT, method, mode, progress=lambda done, _, told=told: told.append(done))  # type: ignore[misc]
        assert said(found[i][0]) == said(json.loads(json.dumps(answer(direct))))
        masked += direct.passes - 2
        alone += len(told) * batch
    rows = {line.split('"')[1]: float(line.split()[-1]) for line in lines if line.startswith("sane_rows_total")}
    assert rows["masked"] == masked
    assert 0 <= rows["padded"] < alone - masked


def said(explanation: dict[str, Any]) -> dict[str, Any]:
    """What an answer says, without what is of the call."""
    return {k: v for k, v in explanation.items() if k not in ("timings", "id", "files")}


def test_the_model_says_that_it_shares_runs(demo: Explainer) -> None:
    with client_of(demo) as client:
        (name,) = client.get("/v1/models").json()["models"]
        assert client.get(f"/v1/models/{name}").json()["shares_runs"] is True


BY_COMPANY = {
    "its neighbours": lambda found: found + found.mean(0) * np.float32(1e-6),
    "the last place": lambda found: found + (np.arange(len(found)) == len(found) - 1)[:, None] * np.float32(1e-6),
    "even places": lambda found: found * (1 + np.float32(1e-6) * (np.arange(len(found)) % 2 == 0))[:, None],
}


@pytest.mark.parametrize("dependence", BY_COMPANY)
def test_requests_share_no_runs_where_a_result_depends_on_its_company(
    demo: Explainer, dependence: str, capsys: pytest.CaptureFixture[str]
) -> None:
    odd = demo.with_model(demo.model.running(Around(demo.model.similarity, BY_COMPANY[dependence])))
    assert sharing(odd) == (odd, COMPANY)
    with client_of(odd) as client:
        (name,) = client.get("/v1/models").json()["models"]
        assert client.get(f"/v1/models/{name}").json()["shares_runs"] is False
        found = client.post("/v1/explain", **form({"masks": 64})).json()["explanations"]
    direct = odd.explain(*CAT, Rise(masks=64))
    assert found[0]["saliency_reliability"] == direct.saliency_reliability
    logged = [json.loads(line) for line in capsys.readouterr().err.splitlines()]
    assert [entry["reason"] for entry in logged if entry["event"] == "runs not shared"] == [COMPANY]


def test_a_long_explanation_that_shares_runs_holds_up_no_deadline(demo: Explainer) -> None:
    service = Service(lambda: demo, Limits(concurrency=1))
    long, short = service.executor.accept(), service.executor.accept(deadline=0.2)

    def explain(ticket: Ticket, masks: int) -> int:
        with ticket.network():
            deadline = ticket.left() if ticket.hurried else None
            return service.explainer.explain(*CAT, Rise(masks=masks), deadline=deadline, progress=ticket.progress).passes

    running = service.executor.submit(long, lambda: explain(long, 200_000))
    until(lambda: long.done > 0)
    partial = service.executor.submit(short, lambda: explain(short, 20_000)).result(60)
    assert not running.done()
    assert partial < 20_000
    long.cancel()
    with pytest.raises(Cancelled):
        running.result(60)
    service.close()


@pytest.mark.parametrize(("least", "most", "said"), [(1e-3, 9.0, None), (0.0, 2.0, COMPANY)], ids=["flat", "boards"])
def test_a_network_that_takes_not_every_picture_is_served(
    demo: Explainer, least: float, most: float, said: str | None
) -> None:
    """Flat pictures are not shown to it; one that cannot take what the check shows it shares no runs.

    least, most: of how much a row that it takes varies
    """

    class Refusing(Around):
        def run(self, batch: np.ndarray) -> np.ndarray:
            varied = batch.reshape(len(batch), -1).std(1)
            if not least <= varied.min() <= varied.max() <= most:
                raise BundleError("not finite")
            return super().run(batch)

    odd = demo.with_model(demo.model.running(Refusing(demo.model.similarity, np.asarray)))
    assert sharing(odd)[1] == said
