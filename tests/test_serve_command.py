"""The service as a process: it starts, ends without losing what it accepted, and reaches nothing outside."""

import concurrent.futures
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from helpers import CAT, copy_bundle, error_line, exit_status

pytest.importorskip("fastapi", reason="the service needs the extra serve")

from served import Served
from service_client import b64, form

from engine.bundle import demo_bundle
from engine.serve import main


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    return copy_bundle(demo_bundle(), tmp_path / "bundle")


@pytest.fixture
def served(bundle: Path) -> Iterator[Served]:
    server = Served("--bundle", str(bundle), "--limit", "queue=64")
    yield server
    server.process.kill()
    server.process.wait(60)


def test_a_server_that_is_told_to_end_answers_what_it_accepted(served: Served) -> None:
    with concurrent.futures.ThreadPoolExecutor(8) as clients:
        asked = [clients.submit(served.post, "/v1/explain", **form({"masks": 800, "seed": i})) for i in range(8)]
        while 'lane="quick"} 8.0' not in served.get("/metrics").text:
            assert not any(one.done() for one in asked)
        served.process.send_signal(signal.SIGTERM)
        served.wait_for("draining")
        refused = served.post("/v1/explain", **form())
        answers = [one.result() for one in asked]
    assert [one.status_code for one in answers] == [200] * 8
    assert refused.status_code == 503
    assert served.process.wait(60) == 0


def test_a_reload_opens_what_is_there_now_and_a_broken_bundle_changes_nothing(served: Served, bundle: Path) -> None:
    before = served.get("/v1/models").json()
    attributes = (bundle / "attributes.json").read_bytes()
    (bundle / "attributes.json").write_bytes(attributes + b" ")
    served.process.send_signal(signal.SIGHUP)
    assert "attributes.json" in served.wait_for("reload failed")["error"]
    assert served.get("/v1/models").json() == before
    (bundle / "attributes.json").write_bytes(attributes)
    served.process.send_signal(signal.SIGHUP)
    served.wait_for("reloaded")
    assert served.post("/v1/explain", **form({"masks": 16})).status_code == 200
    assert served.end(signal.SIGINT) == 0


def test_workers_share_what_is_kept_and_one_that_is_killed_is_replaced() -> None:
    served = Served("--workers", "2", "--threads", "1")
    try:
        served.wait_for("listening")
        key = served.post("/v1/prepare", **form({"masks": 256}, references=())).json()["id"]
        body = {"query": {"id": key}}
        found = [served.post("/v1/explain", **form(body, query=None)).json()["explanations"][0] for _ in range(8)]
        assert len({one["similarity"] for one in found}) == 1
        assert {served.get(one["files"]["json"]).status_code for one in found} == {200}
        assert served.get("/v1/explanations/..%2F..%2Fx.json").status_code == 404
        body_of_job = {"query": b64(CAT[0]), "references": [{"id": key}], "masks": 4000}
        jobs = [f"/v1/jobs/{served.post('/v1/jobs', json=body_of_job).json()['id']}" for _ in range(3)]
        assert {served.get(jobs[0]).status_code for _ in range(8)} == {200}
        assert "sane_passes_count 8.0" in served.get("/metrics").text  # of both
        killed = subprocess.check_output(["pgrep", "-P", str(served.process.pid), "-f", "spawn_main"], text=True).split()[0]
        os.kill(int(killed), signal.SIGKILL)
        assert served.wait_for("worker replaced")["pid"] == int(killed)
        served.wait_for("listening")
        assert served.post("/v1/explain", **form(body, query=None)).status_code == 200
        for job in jobs:
            assert decided(served, job)["status"] in ("done", "failed")
        served.process.send_signal(signal.SIGHUP)
        for _ in range(2):
            served.wait_for("reloaded")
        assert served.end() == 0
    finally:
        served.process.terminate()
        served.process.wait(60)


def decided(served: Served, job: str) -> dict[str, Any]:
    for _ in range(600):
        state: dict[str, Any] = served.get(job).json()
        if state["status"] not in ("queued", "running"):
            return state
        time.sleep(0.1)
    pytest.fail(f"the job is {state}")


@pytest.mark.skipif(shutil.which("strace") is None, reason="strace is not installed")
def test_no_connection_is_made(tmp_path: Path) -> None:
    calls = tmp_path / "calls"
    if subprocess.run(["strace", "-o", os.devnull, "true"], check=False, capture_output=True).returncode:
        pytest.skip("this machine does not allow tracing")
    server = Served(before=("strace", "-f", "-qq", "-e", "trace=connect", "-o", str(calls)))
    try:
        assert server.post("/v1/explain", **form({"masks": 16})).status_code == 200
        server.get("/openapi.json")
    finally:
        os.kill(int(subprocess.check_output(["pgrep", "-P", str(server.process.pid)], text=True).split()[0]), signal.SIGTERM)
        server.process.wait(60)
    assert "AF_INET" not in calls.read_text()


def test_bad_options_are_one_line(capsys: pytest.CaptureFixture[str], served: Served, tmp_path: Path) -> None:
    port = served.url.rsplit(":", 1)[1]
    for arguments, said in (
        (["--limit", "speed=1"], "--limit takes NAME=VALUE"),
        (["--api-key-file", str(tmp_path / "none")], "cannot read the keys"),
        (["--port", port], f"cannot listen on 127.0.0.1, port {port}"),
        (["--port", "99999"], "cannot listen"),
        (["--bundle", str(tmp_path)], "bundle"),
        (["--workers", "0", "--port", "0"], "workers must be a whole number from 1"),
        (["--workers", "2", "--port", "0", "--bundle", str(tmp_path)], "bundle"),
        (["--port", "x"], "invalid int value"),
    ):
        assert exit_status(main, arguments) == 2
        assert said in error_line(capsys)


@pytest.mark.parametrize(("asked", "threads"), [({}, 1), ({"OMP_NUM_THREADS": "2"}, 2)], ids=["nothing", "two"])
def test_algebra_has_one_thread_unless_the_environment_says_more(asked: dict[str, str], threads: int) -> None:
    code = (
        "from engine.service.opening import compute_on_one_thread\n"
        "from threadpoolctl import threadpool_info\n"
        "compute_on_one_thread()\n"
        "print([pool['num_threads'] for pool in threadpool_info() if pool['user_api'] == 'blas'])\n"
    )
    environment = {k: v for k, v in os.environ.items() if not k.endswith("_NUM_THREADS")} | asked
    found = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert set(json.loads(found.stdout)) == {min(threads, len(os.sched_getaffinity(0)))}


def test_without_the_extra_the_command_says_what_to_install(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("engine.serve.NEEDED", ("fastapi", "nothing_by_this_name"))
    assert exit_status(main, []) == 2
    assert "pip install 'sane-engine[serve]'" in error_line(capsys)
