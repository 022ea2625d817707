"""The service on a Ray cluster: what one replica keeps, the others find. Skipped where Ray Serve is missing."""

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from helpers import ROOT
from pydantic import ValidationError

pytest.importorskip("fastapi", reason="the service needs the extra serve")
pytest.importorskip("ray.serve", reason="needs Ray Serve, of the extra `ray`")

from service_client import form, sentence

from engine import OptionError
from engine.service.on_ray import Replicas, app_of_replica, application

SECONDS = 180
"""Until a test gives up: a cluster takes long to begin on a busy machine."""


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Of the example, on a cluster of this machine."""
    import ray  # noqa: PLC0415 - of an extra

    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(ROOT))
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        ray.init("local", num_cpus=2, include_dashboard=False, object_store_memory=100 * 2**20, log_to_driver=False)
    try:
        environment = {**os.environ, "PYTHONPATH": str(ROOT), "RAY_ADDRESS": ray.get_runtime_context().gcs_address}
        command = [sys.executable, str(ROOT / "examples" / "ray_serve.py"), "--port", str(port)]
        command += ["--shared", str(tmp_path_factory.mktemp("ray") / "kept")]
        with subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True) as example:
            try:
                wait_for(f"http://127.0.0.1:{port}", example)
                yield f"http://127.0.0.1:{port}"
            finally:
                example.send_signal(signal.SIGINT)
                example.communicate(timeout=SECONDS)
    finally:
        ray.shutdown()


def wait_for(url: str, example: "subprocess.Popen[str]") -> None:
    until = time.monotonic() + SECONDS
    while time.monotonic() < until:
        assert example.poll() is None, example.communicate()[1]
        with contextlib.suppress(httpx.HTTPError):
            if httpx.get(f"{url}/v2/health/ready", timeout=SECONDS).status_code == 200:
                return
        time.sleep(0.2)
    raise AssertionError("the example does not answer")


def post(url: str, path: str, **request: Any) -> httpx.Response:
    return httpx.post(url + path, timeout=SECONDS, **request)


def test_it_answers_as_on_one_machine_and_replicas_find_what_others_keep(url: str) -> None:
    explained = post(url, "/v1/explain", **form({"masks": 64})).json()["explanations"][0]
    assert explained["similarity"] > 0.9
    answers = [httpx.get(url + explained["files"]["npz"], timeout=SECONDS) for _ in range(8)]
    assert {answer.status_code for answer in answers} == {200}
    key = post(url, "/v1/prepare", **form({"masks": 64}, references=())).json()["id"]
    for _ in range(4):
        again = post(url, "/v1/explain", **form({"query": {"id": key}}, query=None)).json()["explanations"][0]
        assert again["saliency"] == explained["saliency"]
    events = post(url, "/v1/explain", headers={"accept": "text/event-stream"}, **form({"masks": 256})).text
    assert "event: explanation" in events
    assert "Why do these pictures match?" in httpx.get(url, timeout=SECONDS).text


def test_what_cannot_be_explained_is_said_there_too(url: str) -> None:
    assert "not a readable picture" in sentence(post(url, "/v1/prepare", **form(query=Path(__file__), references=())), 422)
    assert "nothing at this path" in sentence(httpx.get(url + "/v3", timeout=SECONDS), 404)


def test_what_cannot_be_served_is_said_at_once() -> None:
    with pytest.raises(OptionError, match="name a folder that all of them see"):
        application(Replicas(replicas=2))
    with pytest.raises(OptionError, match="the names are body_bytes"):
        application(Replicas(limits=("bodies=1",)))
    with pytest.raises(ValidationError, match="greater than or equal to 1"):
        Replicas(replicas=0)


def test_the_command_line_gives_texts() -> None:
    asked = Replicas.model_validate({"limits": "masks=64,references=2", "cors": "https://a", "apply_profiles": "true"})
    assert (asked.limits, asked.cors, asked.apply_profiles) == (("masks=64", "references=2"), ("https://a",), True)
    assert Replicas(limits=("masks=64",)).limits == ("masks=64",)


def test_a_folder_that_others_see_is_refused(tmp_path: Path) -> None:
    (tmp_path / "kept").mkdir(mode=0o755)
    with pytest.raises(OptionError, match="is another user's folder or open to others: make one with `mkdir -m 700`"):
        app_of_replica(Replicas(shared=tmp_path / "kept"))


def test_the_example_says_what_is_wrong(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(ROOT / "examples"))
        from ray_serve import main  # noqa: PLC0415 - an example is no package
    assert main(["--shared", "kept", "--replicas", "0"]) == 2
    assert "greater than or equal to 1" in capsys.readouterr().err


def test_no_ray_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(OptionError, match=r"needs Ray Serve: pip install 'sane-engine\[serve,ray\]'"):
        application(Replicas())
