"""Work on a Ray cluster equals that of one process, and survives workers that die."""

import os
import pickle
import signal
import threading
import time
import types
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from helpers import CAT, copy_bundle, error_line, exit_status, python, seal, write_demo_pairs
from index_pictures import write_catalogue

from engine import BundleError, Explainer, ImageError, OptionError, ProcessError, Rise
from engine.batch.command import main as batch
from engine.bundle import ATTRIBUTES, demo_bundle
from engine.cluster import AHEAD, Cluster, _division, on_cluster
from engine.index import Index, building
from engine.index.command import main as index_command

OPTIONS = ("--masks", "32", "--precision", "fp32", "--provider", "cpu", "--quiet")


class Doubling:
    """What tests let workers do: double a number, and die on the way as often as `deaths` says."""

    def __init__(self, folder: Path, deaths: int, cpus: int) -> None:
        self.folder, self.deaths, self.cpus = folder, deaths, cpus

    def __call__(self, number: int) -> tuple[int, int, int]:
        if number == 3:
            before = len(list(self.folder.iterdir()))
            if before < self.deaths:
                (self.folder / str(before)).touch()
                os.kill(os.getpid(), signal.SIGKILL)
        if number == 99:
            raise ImageError("99 is no picture")
        return 2 * number, os.getpid(), self.cpus


class MakeDoubling:
    def __init__(self, folder: Path, deaths: int = 0) -> None:
        self.folder, self.deaths = folder, deaths

    def __call__(self, cpus: int) -> Doubling:
        return Doubling(self.folder, self.deaths, cpus)


@pytest.fixture(scope="module")
def ray_here() -> Iterator[None]:
    """A cluster of this machine, small, that all tests of the module connect to."""
    ray = pytest.importorskip("ray", reason="needs Ray, of the extra `ray`")
    from engine.cluster import require_ray  # noqa: PLC0415 - sets what Ray reads when it starts

    require_ray()
    tests = str(Path(__file__).parent)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", os.pathsep.join([tests, str(Path(__file__).parent.parent)]))
        ray.init("local", num_cpus=2, include_dashboard=False, object_store_memory=100 * 2**20, log_to_driver=False)
        address = ray.get_runtime_context().gcs_address
        patch.setattr("engine.cluster._connected", _already(address))
        yield
        ray.shutdown()


def _already(address: str) -> Callable[..., object]:
    import contextlib  # noqa: PLC0415 - with its only use

    return lambda ray, cluster: contextlib.nullcontext(address)


@pytest.mark.usefixtures("ray_here")
def test_results_come_in_order_and_tasks_wait(tmp_path: Path) -> None:
    taken: list[int] = []

    def tasks() -> Iterator[int]:
        for i in range(40):
            taken.append(i)
            yield i

    results = on_cluster(MakeDoubling(tmp_path), tasks(), Cluster("local", 2))
    first = next(results)
    assert len(taken) <= 2 * AHEAD
    found = [first, *results]
    assert [one[0] for one in found] == [2 * i for i in range(40)]
    assert len({one[1] for one in found}) == 2
    assert {one[2] for one in found} == {1}


@pytest.mark.usefixtures("ray_here")
def test_the_task_of_a_worker_that_died_is_done_again(tmp_path: Path) -> None:
    found = list(on_cluster(MakeDoubling(tmp_path, deaths=2), range(8), Cluster("local", 2)))
    assert [one[0] for one in found] == [2 * i for i in range(8)]
    assert len(list(tmp_path.iterdir())) == 2


@pytest.mark.usefixtures("ray_here")
def test_a_task_that_kills_its_workers_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ProcessError, match="a task ended 4 workers"):
        list(on_cluster(MakeDoubling(tmp_path, deaths=100), range(4), Cluster("local", 1)))


@pytest.mark.usefixtures("ray_here")
def test_what_the_work_raises_is_raised(tmp_path: Path) -> None:
    with pytest.raises(ImageError, match="99 is no picture"):
        list(on_cluster(MakeDoubling(tmp_path), [1, 99], Cluster("local", 1)))
    with pytest.raises(OptionError, match="2 CPUs, which is too few for 3 workers"):
        list(on_cluster(MakeDoubling(tmp_path), [1], Cluster("local", 3)))


@pytest.mark.usefixtures("ray_here")
def test_an_index_by_two_workers_is_that_of_one_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(building, "SHARD", 3)
    pictures = write_catalogue(tmp_path / "pictures", blurred=3)
    (pictures / "broken.png").write_text("text")
    explainer = Explainer(precision="fp32", provider="cpu", threads=1)
    method = Rise(masks=32)
    one = Index.build(tmp_path / "one", explainer, pictures, method=method)
    seen: list[tuple[int, int]] = []
    two = Index.build(
        tmp_path / "two",
        explainer,
        pictures,
        method=method,
        cluster=Cluster("local", 2),
        progress=lambda done, total: seen.append((done, total)),
    )
    assert [done for done, total in seen if total == 12][-4:] == [3, 6, 9, 12]
    assert (one.ids, one.failed) == (two.ids, two.failed)
    a, b = (index._search.read(range(len(index)), index.ids) for index in (one, two))
    np.testing.assert_array_equal(a.embeddings, b.embeddings)
    for name in a.records.dtype.names:
        if name != "seconds":
            np.testing.assert_array_equal(a.records[name], b.records[name])
    assert a.maps == b.maps
    np.testing.assert_array_equal(one._store.table.fidelity(), two._store.table.fidelity())
    assert two.verify() == []
    assert two.add(pictures, cluster=Cluster("local", 2)).unchanged == 11


@pytest.mark.usefixtures("ray_here")
def test_a_batch_by_two_workers_one_of_which_is_killed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("engine.batch.pairs.PART_QUERIES", 1)
    monkeypatch.chdir(tmp_path)
    write_demo_pairs(tmp_path)
    names = [f"{name}-{vendor}.png" for name in ("cat", "couple", "gesture") for vendor in ("noto", "twemoji")]
    (tmp_path / "pairs.csv").write_text("query,reference\n" + "".join(f"{a},{b}\n" for a in names for b in names))
    monkeypatch.setattr("engine.model.usable_cores", lambda: 1)
    assert exit_status(batch, ["pairs.csv", "--out", "one", *OPTIONS]) == 0
    killed: list[int] = []
    killer = threading.Thread(target=kill_a_worker, args=[tmp_path / "two" / "explanations", killed])
    killer.start()
    assert exit_status(batch, ["pairs.csv", "--out", "two", *OPTIONS, "--ray", "local", "--workers", "2"]) == 0
    killer.join()
    assert killed
    files = sorted(file.name for file in (tmp_path / "one" / "explanations").iterdir())
    assert len(files) == 6
    for name in files:
        first, second = (tmp_path / out / "explanations" / name for out in ("one", "two"))
        assert first.read_bytes() == second.read_bytes()


def kill_a_worker(parts: Path, killed: list[int]) -> None:
    """End a process of Ray's that runs tasks, as soon as the first part is there."""
    for _ in range(600):
        if parts.is_dir() and any(parts.glob("0*.parquet")):
            break
        time.sleep(0.05)
    for folder in Path("/proc").iterdir():
        if folder.name.isdecimal() and os.getpid() in ancestors(int(folder.name)):
            words = (folder / "cmdline").read_bytes()
            if words.startswith(b"ray::_Worker"):
                os.kill(int(folder.name), signal.SIGKILL)
                killed.append(int(folder.name))
                return


def ancestors(process: int) -> list[int]:
    found = []
    while process > 1:
        try:
            process = int(Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[1])
        except (OSError, ValueError):
            return found
        found.append(process)
    return found


@pytest.fixture
def changed(tmp_path: Path) -> Explainer:
    """An explainer whose bundle was changed since it was opened, as if another machine had another one there."""
    explainer = Explainer(copy_bundle(demo_bundle(), tmp_path / "bundle"), "cpu", "fp32")
    opening = pickle.loads(pickle.dumps(explainer.elsewhere()))
    assert opening(threads=1).model.threads == 1
    (tmp_path / "bundle" / ATTRIBUTES).write_text((tmp_path / "bundle" / ATTRIBUTES).read_text() + "\n")
    seal(tmp_path / "bundle")
    return explainer


OTHER_BUNDLE = rf"bundle on .* is another bundle than where the work is given out \({ATTRIBUTES} differs\)"


def test_another_bundle_at_the_same_path_is_refused(changed: Explainer) -> None:
    with pytest.raises(BundleError, match=OTHER_BUNDLE):
        pickle.loads(pickle.dumps(changed.elsewhere()))(threads=1)


@pytest.mark.usefixtures("ray_here")
def test_a_worker_with_another_bundle_writes_nothing(changed: Explainer, tmp_path: Path) -> None:
    index = Index.build(tmp_path / "index", changed, {"a": CAT[0]}, method=Rise(masks=32))
    with pytest.raises(BundleError, match=OTHER_BUNDLE):
        index.add({"b": CAT[1]}, cluster=Cluster("local", 1))
    assert Index.open(tmp_path / "index", changed).ids == ["a"]


def test_ray_reports_nothing(tmp_path: Path) -> None:
    pytest.importorskip("ray", reason="needs Ray, of the extra `ray`")
    code = (
        "from engine.cluster import require_ray; ray = require_ray()\n"
        "from ray._common.usage import usage_lib; print(usage_lib.usage_stats_enabled())"
    )
    done = python("-c", code, env={"RAY_USAGE_STATS_ENABLED": "1"}, cwd=tmp_path)
    assert done.stdout.strip() == "False", done.stderr


def test_no_ray_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setitem(__import__("sys").modules, "ray", None)
    write_demo_pairs(tmp_path)
    out = str(tmp_path / "out")
    assert exit_status(batch, [str(tmp_path / "pairs.csv"), "--out", out, *OPTIONS, "--ray", "local"]) == 2
    assert "--ray needs Ray: pip install 'sane-engine[ray]'" in error_line(capsys)


@pytest.mark.parametrize("workers", ["0", "2"])
def test_workers_need_a_cluster_and_are_counted(workers: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("lance", reason="needs pylance, of the extra `index`")
    pictures = str(write_catalogue(tmp_path / "pictures"))
    more = ["--ray", "local"] if workers == "0" else []
    arguments = ["build", str(tmp_path / "index"), "--images", pictures, "--workers", workers, *more, "--quiet"]
    assert exit_status(index_command, arguments) == 2
    assert ("workers must be a whole number from 1" if more else "name one by --ray ADDRESS") in error_line(capsys)


@pytest.mark.parametrize(
    ("nodes", "gpus", "division"),
    [
        ([{"CPU": 4, "GPU": 1}, {"CPU": 64}], True, (1, 4)),  # CPUs of nodes without a GPU are no worker's
        ([{"CPU": 2, "GPU": 8}], True, (2, 1)),  # a worker needs a CPU too
        ([{"CPU": 16}, {"CPU": 16}], False, (32, 1)),
    ],
)
def test_no_worker_waits_for_what_no_node_has(nodes: list[dict[str, int]], gpus: bool, division: tuple[int, int]) -> None:
    ray = types.SimpleNamespace(nodes=lambda: [{"Alive": True, "Resources": node} for node in nodes])
    assert _division(ray, Cluster("auto", gpus=gpus)) == division
