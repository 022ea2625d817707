"""Turns at the network are fair, urgent ones come first, and work that nobody waits for ends."""

import threading
import time
from pathlib import Path

import pytest
from helpers import BANDAGE, CAT, until

pytest.importorskip("fastapi", reason="the service needs the extra serve")

from service_client import client_of, form, service_of_client

from engine import Explainer, Rise
from engine.service.executor import Executor
from engine.service.kept import Kept, Shelf
from engine.service.limits import Limits, Refused
from engine.service.tickets import Cancelled, Ticket
from engine.service.turns import Turns


def test_whoever_waits_longest_is_next_and_urgent_first_turns_come_before() -> None:
    turns, order = Turns(), []
    assert turns.take()

    def wait(name: str, urgent: bool) -> None:
        assert turns.take(urgent)
        order.append(name)
        turns.give()

    threads = []
    for count, name in enumerate(("one", "two", "urgent"), 1):
        threads.append(threading.Thread(target=wait, args=(name, name == "urgent")))
        threads[-1].start()
        until(lambda count=count: len(turns._waiting) == count)  # type: ignore[misc]
    turns.give()
    for thread in threads:
        thread.join(30)
    assert order == ["urgent", "one", "two"]
    assert turns.take(timeout=0)


def test_a_turn_that_does_not_come_in_time_is_given_up() -> None:
    turns = Turns()
    assert turns.take()
    assert not turns.take(timeout=0.01)
    turns.give()
    assert turns.take(timeout=0)


def test_two_explanations_take_turns_batch_by_batch(demo: Explainer) -> None:
    turns, order, lock = Turns(), [], threading.Lock()
    assert turns.take()  # until both wait

    def explain(name: str) -> None:
        ticket = Ticket(turns, None, 60)

        def progress(done: int, total: int) -> None:
            with lock:
                order.append(name)
            ticket.progress(done, total)

        with ticket.network():
            demo.explain(*CAT, Rise(masks=512), progress=progress)

    threads = [threading.Thread(target=explain, args=(name,)) for name in "ab"]
    for thread in threads:
        thread.start()
    until(lambda: len(turns._waiting) == 2)
    turns.give()
    for thread in threads:
        thread.join(60)
    first = "".join(order)
    assert len(first) >= 8
    assert "aaa" not in first[:-2]
    assert "bbb" not in first[:-2]


def test_a_deadline_is_kept_beside_a_long_explanation(demo: Explainer) -> None:
    """The long one runs on: it never holds the network for longer than a batch."""
    executor = Executor(Limits(concurrency=1))
    long, short = executor.accept(), executor.accept(deadline=0.2)

    def explain(ticket: Ticket, masks: int) -> int:
        with ticket.network():
            return demo.explain(
                *CAT, Rise(masks=masks), deadline=ticket.left() if ticket.hurried else None, progress=ticket.progress
            ).passes

    running = executor.submit(long, lambda: explain(long, 20_000))
    until(lambda: long.done > 0)
    partial = executor.submit(short, lambda: explain(short, 20_000)).result(60)
    assert not running.done()
    assert partial < 20_000
    long.cancel()
    with pytest.raises(Cancelled):
        running.result(60)
    executor.close()


def test_work_that_nobody_waits_for_does_not_begin() -> None:
    executor = Executor(Limits(concurrency=1))
    go_on, begun = threading.Event(), []
    blocking = executor.submit(executor.accept(), lambda: go_on.wait(30))
    waits = executor.accept()
    future = executor.submit(waits, lambda: begun.append(1))
    waits.cancel()
    go_on.set()
    with pytest.raises(Cancelled):
        future.result(30)
    blocking.result(30)
    assert not begun
    until(lambda: not any(executor.waiting().values()))
    executor.close()


def test_what_cannot_end_early_is_refused_when_it_took_too_long() -> None:
    ticket = Ticket(Turns(), None, 0.01)
    ticket.accepted -= 2
    with pytest.raises(Refused, match="longer than"), ticket.network():
        pytest.fail("it began")


def test_a_deadline_gives_a_map_with_its_error_and_says_so(demo: Explainer) -> None:
    with client_of(demo, Limits(masks=20_000)) as client:
        options = {"masks": 20_000, "deadline": 0.7}
        (found,) = client.post("/v1/explain", **form(options)).json()["explanations"]
        text = client.get("/metrics").text
    assert found["passes"] < 20_000
    assert "deadline" in found["notes"][0]
    assert len(found["saliency_error"]) == 16
    assert "sane_deadlines_reached_total 1.0" in text


def test_metrics_count_what_was_answered(demo: Explainer) -> None:
    with client_of(demo) as client:
        client.post("/v1/explain", **form({"masks": 250}))
        client.post("/v1/explain", **form({"masks": 250, "method": "nothing"}))
        client.get("/nowhere")
        lines = client.get("/metrics").text.splitlines()
    for wanted in (
        'sane_requests_total{route="/v1/explain",status="200"} 1.0',
        'sane_requests_total{route="/v1/explain",status="422"} 1.0',
        'sane_requests_total{route="none",status="404"} 1.0',
        "sane_passes_count 1.0",
        "sane_passes_sum 252.0",
        "sane_reliability_count 1.0",
        'sane_queue_depth{lane="quick"} 0.0',
        'sane_rows_total{kind="masked"} 250.0',
        f'sane_rows_total{{kind="padded"}} {-250 % demo.model.run_settings.batch}.0',
    ):
        assert wanted in lines, wanted
    stages = {line.split('"')[1] for line in lines if line.startswith("sane_stage_seconds_count")}
    assert stages == {"decode", "queue", "network", "algebra"}
    assert any(line.startswith("sane_resident_bytes ") for line in lines)


def test_rows_of_passes_that_end_early_are_counted_once(demo: Explainer) -> None:
    """The engine tells how many they were when it ends them; no run is behind that."""
    executor, batch = Executor(Limits()), demo.model.run_settings.batch
    ticket = executor.accept()
    with ticket.network():
        passes = demo.explain(*CAT, progress=ticket.progress).passes - 2
    assert 0 < passes < Rise().most_masks
    assert (ticket.rows, ticket.batches) == (passes, -(-passes // batch))
    executor.close()


def test_the_oldest_go_first_and_all_go_in_time(monkeypatch: pytest.MonkeyPatch) -> None:
    kept: Kept[bytes] = Kept("thing", 10, 100, len)
    first, second, third = kept.put(b"x" * 40), kept.put(b"y" * 40), kept.put(b"z" * 40)
    assert (kept.get(second), kept.get(third), kept.nbytes) == (b"y" * 40, b"z" * 40, 80)
    with pytest.raises(Refused, match="no thing with this id"):
        kept.get(first)
    with pytest.raises(Refused, match="101 bytes, and at most 100"):
        kept.put(b"x" * 101)
    now = time.monotonic()
    monkeypatch.setattr(time, "monotonic", lambda: now + 11)
    with pytest.raises(Refused, match="not any longer"):
        kept.get(third)
    assert (len(kept), kept.nbytes) == (0, 0)


def test_what_one_process_keeps_another_finds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def kept() -> Kept[bytes]:
        def write(value: bytes, path: Path) -> None:
            path.write_bytes(value)

        shelf = Shelf(tmp_path / "shelf", 10, 100, write, Path.read_bytes)
        return Kept("thing", 10, 100, len, shelf)

    one, other = kept(), kept()
    first, second, third = one.put(b"x" * 40), one.put(b"y" * 40), one.put(b"z" * 40)
    assert other.get(third) == b"z" * 40
    assert other.nbytes == 40
    with pytest.raises(Refused, match="no thing"):
        other.get(first)
    (tmp_path / "secret.npz").write_bytes(b"secret")
    with pytest.raises(Refused, match="no thing"):
        other.get("../secret")
    now = time.time()
    monkeypatch.setattr(time, "time", lambda: now + 11)
    with pytest.raises(Refused, match="not any longer"):
        other.get(second)


def test_a_cancelled_request_frees_the_network(demo: Explainer) -> None:
    with client_of(demo) as client:
        service = service_of_client(client)
        ticket = service.executor.accept()
        ticket.cancel()
        with pytest.raises(Cancelled), ticket.network():
            pytest.fail("it began")
        assert client.post("/v1/explain", **form({"masks": 16}, references=(BANDAGE[0],))).status_code == 200
