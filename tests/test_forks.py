"""Forks and pickles: a fork says that the model must be loaded after it, and ends; a pickled explainer is loaded again."""

import multiprocessing
import os
import pickle
import sys
from pathlib import Path

import numpy as np
import pytest
from helpers import CAT, copy_bundle, python

from engine import Explainer, Rise
from engine.bundle import demo_bundle
from engine.protocol import ignore_notice

if not hasattr(os, "fork"):
    pytest.skip("this system has no fork", allow_module_level=True)

FORKS = """
import os, signal, sys, threading, time
from engine import EngineError, Explainer, ProcessError, Rise

PATIENCE = 60

def forked(child):
    "What a fork prints when it runs `child` and ends as programs do, with everything freed."
    sys.stdout.flush()
    number = os.fork()
    if not number:
        signal.alarm(PATIENCE)  # the default action ends a fork that hangs
        child()
        sys.exit(0)
    return os.waitpid(number, 0)[1]

def refused(use):
    try:
        use()
    except ProcessError as error:
        assert "load it after the fork" in str(error) and "\\n" not in str(error)
    else:
        raise AssertionError(use)

pair = sys.argv[2:]
explainer = Explainer(provider=sys.argv[1], threads=2, cache_bytes=10**8)
prepared = explainer.prepare(pair[0], Rise(masks=64))
expected = prepared.explain(pair[1]).saliency
"""
"""The beginning of each script: run with a provider and two pictures."""

USES = """
def child():
    refused(lambda: explainer.explain(*pair))
    refused(lambda: explainer.embed(pair))
    refused(lambda: explainer.prepare(pair[0]))
    refused(lambda: explainer.load_prepared("none.npz"))
    refused(explainer.cache_info)
    refused(lambda: prepared.explain(pair[1]))
    refused(lambda: prepared.refine())
    refused(lambda: model.embed([picture]))
    refused(lambda: next(further))

model, picture = explainer.model, explainer.model.picture(pair[0])
further = explainer.refining(*pair, Rise(masks=512))
next(further)
assert forked(child) == 0
assert (prepared.explain(pair[1]).saliency == expected).all()  # the parent goes on
"""

WHILE_ANOTHER_THREAD_EXPLAINS = """
def child():
    refused(lambda: explainer.explain(*pair))
    refused(lambda: prepared.explain(pair[1]))

ended = threading.Event()

def explain():
    seed = 0
    while not ended.is_set():
        seed += 1
        explainer.explain(*pair, Rise(masks=64, seed=seed))

thread = threading.Thread(target=explain)
thread.start()
found = [forked(child) for _ in range(5)]
ended.set()
thread.join()
assert found == [0] * 5, found
"""

WITH_LOCKS_HELD = """
def child():
    refused(lambda: explainer.explain(*pair))
    refused(explainer.cache_info)
    refused(lambda: prepared.explain(pair[1]))

with explainer._cache._lock, prepared.fits._lock:  # as another thread may hold them
    assert forked(child) == 0
"""

LOADED_AFTER = """
def child():
    own = Explainer(provider=sys.argv[1], threads=2)
    assert (own.prepare(pair[0], Rise(masks=64)).explain(pair[1]).saliency == expected).all()

assert forked(child) == 0
"""


@pytest.mark.parametrize("provider", ["cpu", "openvino"])
@pytest.mark.parametrize("script", [USES, WHILE_ANOTHER_THREAD_EXPLAINS, WITH_LOCKS_HELD, LOADED_AFTER])
def test_a_fork_says_what_to_do_and_ends(script: str, provider: str) -> None:
    if provider == "openvino":
        pytest.importorskip("openvino")
    # OpenBLAS stops its threads before a fork, and for ever if another thread is using them: nothing of ours can end that
    single = {"OPENBLAS_NUM_THREADS": "1"} if script is WHILE_ANOTHER_THREAD_EXPLAINS else {}
    done = python("-W", "ignore", "-c", FORKS + script, provider, *CAT, timeout=400, env=single)
    assert (done.returncode, done.stderr) == (0, "")


def test_the_gpu_device_of_another_process_is_refused() -> None:
    script = """
import types

import kernels.device
from kernels.device import Device, DeviceError

class Driver:
    "Stands in for a GPU."
    name, capability, streams = "none", (9, 0), {kernels.device.NETWORK: types.SimpleNamespace(handle=1)}

    def open(self, ordinal): pass
    def close(self): pass

kernels.device.Driver = Driver
device = Device()

def child():
    try:
        device.call(lambda: 1)
    except DeviceError as error:
        assert "fork" in str(error)
    else:
        raise AssertionError

held, ended = threading.Event(), threading.Event()

def hold():
    with device._jobs._lock:
        held.set()
        ended.wait()

threading.Thread(target=hold).start()
held.wait()
status = forked(child)
ended.set()
assert status == 0
assert device.call(lambda: 1) == 1
"""
    done = python("-W", "ignore", "-c", FORKS + script, "cpu", *CAT, timeout=400)
    assert (done.returncode, done.stderr) == (0, "")


def test_an_explainer_is_pickled_by_its_arguments(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    copy_bundle(demo_bundle(), tmp_path / "bundle")
    monkeypatch.chdir(tmp_path)
    explainer = Explainer("bundle", "cpu", "fp32", threads=1, cache_bytes=10**6, notice=ignore_notice)
    explainer.prepare(CAT[0], Rise(masks=4))
    content = pickle.dumps(explainer)
    assert len(content) < 1000  # arguments alone
    monkeypatch.chdir("/")  # a worker is in a folder of its own
    again = pickle.loads(content)
    assert (again.provider, again.precision, again.model.threads) == ("cpu", "fp32", 1)
    assert again.model.bundle.folder == tmp_path / "bundle"
    assert (again.cache_info().limit, again.cache_info().entries) == (10**6, 0)
    assert (again.embed(CAT) == explainer.embed(CAT)).all()
    assert pickle.loads(pickle.dumps(Explainer())).model.bundle.folder == demo_bundle()


def embedding(explainer: Explainer) -> np.ndarray:
    """Run in another process."""
    return explainer.embed(CAT)


def test_a_spawned_worker_gets_an_explainer_that_answers(explainer: Explainer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", [""])  # not pytest's own script, which the worker would import
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        assert (pool.apply(embedding, (explainer,)) == explainer.embed(CAT)).all()
