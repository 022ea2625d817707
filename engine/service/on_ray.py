"""The service as an application of Ray Serve: replicas on a cluster in place of `--workers` on one machine.

serve run engine.service.on_ray:application bundle=/shared/shoes replicas=4 shared=/shared/kept
"""

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from engine.errors import OptionError
from engine.service.limits import Limits
from engine.service.opening import Settings
from engine.service.server import opened_app

if TYPE_CHECKING:
    from fastapi import FastAPI
    from ray.serve import Application


Several = Annotated[
    tuple[str, ...], BeforeValidator(lambda given: tuple(given.split(",")) if isinstance(given, str) else given)
]
"""Ray's command line gives texts alone."""


class Replicas(BaseModel):
    """What is served, and by how many. Paths must be there on every node."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    bundle: str | None = Field(None, description="left out: the index's, else the emoji demo")
    index: Path | None = None
    provider: str = "auto"
    precision: str = "auto"
    threads: int = Field(1, ge=1, description="CPUs of a replica, and threads of its network runs")
    gpus: float = Field(0, ge=0, description="GPUs of a replica, or a part of one")
    api_key_file: Path | None = None
    cors: Several = ()
    limits: Several = Field((), description="of each replica, as NAME=VALUE")
    apply_profiles: bool = False
    replicas: int = Field(1, ge=1)
    shared: Path | None = Field(None, description="a folder where replicas find what others keep; needed by several")


def application(asked: Replicas) -> "Application":
    """Return the application, for `serve run`, a file of `serve deploy`, or `ray.serve.run`. Raises OptionError."""
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"  # as in engine.cluster
    try:
        from ray import serve  # noqa: PLC0415 - of an extra
    except ImportError as error:
        raise OptionError("the service on a cluster needs Ray Serve: pip install 'sane-engine[serve,ray]'") from error
    if asked.replicas > 1 and asked.shared is None:
        raise OptionError(
            f"{asked.replicas} replicas must find what the others keep: name a folder that all of them see, shared=FOLDER"
        )
    limits = Limits.of(list(asked.limits))
    deployment = serve.deployment(serve.ingress(lambda: app_of_replica(asked))())
    return deployment.options(
        name="explanations",
        num_replicas=asked.replicas,
        ray_actor_options={"num_cpus": asked.threads, "num_gpus": asked.gpus},
        max_ongoing_requests=limits.most_at_once,  # more are refused by the service itself, with its own sentence
        graceful_shutdown_timeout_s=limits.drain_seconds,
    ).bind()


def app_of_replica(asked: Replicas) -> "FastAPI":
    """Open the bundle in a replica. Raises OptionError, BundleError, ProviderError, OutputError."""
    given = (asked.bundle, "", 0, asked.provider, asked.precision, asked.threads, 1, asked.api_key_file, asked.cors)
    if asked.shared is not None:
        asked.shared.mkdir(mode=0o700, parents=True, exist_ok=True)
        found = asked.shared.stat()
        if found.st_uid != os.getuid() or found.st_mode & 0o077:
            raise OptionError(f"{asked.shared} is another user's folder or open to others: make one with `mkdir -m 700`")
    return opened_app(Settings(*given, asked.limits, asked.index, asked.apply_profiles), asked.shared)
