"""Work in the processes of a Ray cluster. Results come in the order of the tasks, whoever did them, and however often."""

import argparse
import collections
import contextlib
import dataclasses
import functools
import os
import pickle
from collections.abc import Callable, Iterable, Iterator
from typing import Any, TypeVar

from engine.errors import EngineError, OptionError, ProcessError, first_line
from engine.protocol import require_whole

Task = TypeVar("Task")
Finding = TypeVar("Finding")

LOCAL = "local"
"""In place of an address: a cluster of this machine alone, which is started and ended."""
RETRIES = 3
"""How often a task is tried again whose worker died."""
GIVEN, AHEAD = 2, 4
"""Tasks that a worker is given at a time, and those that are begun before the first of them is done, for each worker."""
LOCAL_STORE = 200 * 2**20
"""Bytes of the object store of a local cluster: tasks and results are small."""
MOST_CLUSTER_WORKERS = 100_000


@dataclasses.dataclass(frozen=True)
class Cluster:
    """Where to work.

    address: of a Ray cluster, "auto" for the one of this machine, or "local"
    workers: processes, which divide the CPUs among them; None: one for each CPU, or for each GPU
    gpus: whether each worker needs a GPU

    Raises OptionError.
    """

    address: str
    workers: int | None = None
    gpus: bool = False

    def __post_init__(self) -> None:
        if self.workers is not None:
            require_whole("workers", self.workers, 1, MOST_CLUSTER_WORKERS)
        if not self.address:
            raise OptionError(f"a cluster needs an address, such as auto or {LOCAL}")


def add_cluster_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of every command that can work on a cluster."""
    add = parser.add_argument
    add(
        "--ray",
        metavar="ADDRESS",
        help=f"work on a Ray cluster: its address, auto, or {LOCAL} for one of this machine alone",
    )
    add("--workers", type=int, metavar="N", help="with --ray: processes (default: one for each CPU, or for each GPU)")


def cluster_asked_for(options: argparse.Namespace, provider: str) -> Cluster | None:
    """Return the cluster that `add_cluster_options` asked for; None: there is none. provider: what workers run on"""
    if options.ray is None:
        if options.workers is not None:
            raise OptionError("--workers divides the work on a cluster: name one by --ray ADDRESS")
        return None
    return Cluster(options.ray, options.workers, provider in ("cuda", "tensorrt"))


def require_ray() -> Any:
    """Return Ray, which is told to report nothing to its makers. Raises OptionError if it is not installed."""
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"  # on by default; the processes that Ray starts inherit it
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")  # keeps it from warning about a change of its own
    try:
        import ray  # noqa: PLC0415 - of the extra `ray`
    except ImportError as error:
        raise OptionError("--ray needs Ray: pip install 'sane-engine[ray]'") from error
    return ray


def on_cluster(
    make: Callable[[int], Callable[[Task], Finding]], tasks: Iterable[Task], cluster: Cluster
) -> Iterator[Finding]:
    """Give the result of every task, in order.

    make: makes, in each worker, what does the tasks; given the number of its CPUs. It and the tasks are pickled
    A task whose worker died is done again by the one that takes its place, so work must bear being done twice. Tasks are
    taken from their iterator when there is room: some for each worker.
    Raises what the work raises, OptionError if there is no such cluster, ProcessError for a task that kills its workers.
    """
    ray = require_ray()
    with _connected(ray, cluster):
        count, cpus = _division(ray, cluster)
        kind = ray.remote(num_cpus=cpus, num_gpus=int(cluster.gpus), max_restarts=-1, max_task_retries=RETRIES)(_Worker)
        held = ray.cloudpickle.dumps(
            (make, cpus)
        )  # bytes: what an actor that is begun again needs must not be Ray's to lose
        workers = [kind.remote(held) for _ in range(count)]
        free, running, order = collections.deque(workers * GIVEN), {}, collections.deque[Any]()
        left = iter(tasks)
        while True:
            while free and len(order) < AHEAD * count and (task := next(left, _NO_TASK)) is not _NO_TASK:
                worker = free.popleft()
                order.append(worker.work.remote(task))
                running[order[-1]] = worker
            if not order:
                return
            for done in ray.wait(list(running), num_returns=1)[0]:
                free.append(running.pop(done))
            while order and order[0] not in running:
                yield _result(ray, order.popleft())


_NO_TASK: Any = object()


class _Worker:
    """A process of the cluster. It opens the model with its first task, so that what is wrong is that task's error."""

    def __init__(self, held: bytes) -> None:
        self._held = held

    def work(self, task: Any) -> Any:
        """Do a task."""
        return self._done_by(task)

    @functools.cached_property
    def _done_by(self) -> Callable[[Any], Any]:
        make, cpus = pickle.loads(self._held)
        done_by: Callable[[Any], Any] = make(cpus)
        return done_by


def _result(ray: Any, reference: Any) -> Any:
    try:
        return ray.get(reference)
    except ray.exceptions.RayTaskError as error:
        if isinstance(error.cause, EngineError):
            raise error.cause from error
        raise
    except ray.exceptions.RayError as error:
        raise ProcessError(
            f"a task ended {RETRIES + 1} workers, one after the other ({first_line(error)}): try fewer --workers, if memory "
            "was short"
        ) from error


@contextlib.contextmanager
def _connected(ray: Any, cluster: Cluster) -> Iterator[None]:
    """Connect to the cluster, or start one of this machine, and end what was begun."""
    quiet = {"log_to_driver": False, "logging_level": "ERROR", "configure_logging": False}
    try:
        if cluster.address == LOCAL:
            ray.init("local", include_dashboard=False, object_store_memory=LOCAL_STORE, **quiet)
        else:
            ray.init(cluster.address, **quiet)
    except Exception as error:  # Ray raises its own, Python's and gRPC's
        raise OptionError(
            f"there is no Ray cluster at {cluster.address!r} ({first_line(error)}): `ray start` makes one"
        ) from error
    try:
        yield
    finally:
        ray.shutdown()


def _division(ray: Any, cluster: Cluster) -> tuple[int, int]:
    """Return how many workers there are, and CPUs for each. Raises OptionError if the cluster has too few."""
    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    own = [(int(node.get("CPU", 0)), int(node.get("GPU", 0))) for node in nodes]

    def places(each: int) -> int:
        """Workers that find so many CPUs, and a GPU if they need one, on one node."""
        return sum(min(cpus // each, gpus) if cluster.gpus else cpus // each for cpus, gpus in own)

    count = cluster.workers or places(1)
    if not 0 < count <= places(1):
        what = "GPUs with a CPU each" if cluster.gpus else "CPUs"
        raise OptionError(
            f"the cluster has {places(1)} {what}, which is too few for {max(count, 1)} workers: ask for fewer by --workers"
        )
    most = max((cpus for cpus, _ in own), default=1)
    return count, next(each for each in range(most, 0, -1) if places(each) >= count)
