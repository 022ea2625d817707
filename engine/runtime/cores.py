"""How many cores this process may use: by its affinity, and by the CPU quota of its control groups (a container's)."""

import contextlib
import math
import os
from pathlib import Path

CGROUP, MOUNTS = Path("/proc/self/cgroup"), Path("/sys/fs/cgroup")
"""Where Linux says in which control groups this process is, and where their files are."""


def usable_cores() -> int:
    """Return the number of cores that this process may use, 1 or more."""
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(math.ceil(min(allowed, cpu_quota())), 1)


def cpu_quota(cgroup: Path = CGROUP, mounts: Path = MOUNTS) -> float:
    """Return the CPU seconds a second that control groups allow this process: infinity where they set no limit.

    cgroup, mounts: the files to read, of version 1 or 2; the strictest of a group and those above it counts
    """
    try:
        lines = [line.split(":", 2) for line in cgroup.read_text().splitlines()]
    except OSError:
        return math.inf
    quotas = [math.inf]
    for _, controllers, own in (parts for parts in lines if len(parts) == 3):
        if controllers and "cpu" not in controllers.split(","):
            continue
        folder = mounts / "cpu" if controllers else mounts
        inside = Path(own.lstrip("/"))  # in a container, the mount may be the group itself: then only "." is there
        quotas += [_quota(folder / group) for group in (inside, *inside.parents)]
    return min(quotas)


def _quota(group: Path) -> float:
    """Return the quota that a group's own files set: version 2 has one file of two numbers, version 1 two files."""
    with contextlib.suppress(OSError, ValueError):
        quota, period = (group / "cpu.max").read_text().split()
        return math.inf if quota == "max" else _share(int(quota), int(period))
    with contextlib.suppress(OSError, ValueError):
        return _share(int((group / "cpu.cfs_quota_us").read_text()), int((group / "cpu.cfs_period_us").read_text()))
    return math.inf


def _share(quota: int, period: int) -> float:
    return quota / period if quota > 0 and period > 0 else math.inf  # -1: no limit
