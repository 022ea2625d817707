"""What one process of the service takes at most, and the answer to a request that asks for more."""

import dataclasses

from starlette.exceptions import HTTPException

from engine.errors import OptionError


@dataclasses.dataclass(frozen=True)
class Limits:
    """Each can be set by `--limit NAME=VALUE`.

    body_bytes: of a request; pixels: of a picture, before it is decoded
    instances, references: of a request, references of each instance; masks: passes over a picture
    concurrency: explanations computed at the same time, and as many more that have a deadline
    queue: requests that wait for those, and as many more that have a deadline; jobs: jobs that are not done
    seconds, job_seconds: what a request and a job may take
    kept_seconds: for which prepared pictures, explanations and results of jobs are kept; kept_bytes: for either of the first
        two, the oldest go first; cache_bytes: for the engine's cache of prepared pictures
    drain_seconds: for which a server that was told to end waits for the requests that it accepted
    """

    body_bytes: int = 32 * 2**20
    pixels: int = 50_000_000
    instances: int = 16
    references: int = 64
    masks: int = 4000
    concurrency: int = 4
    queue: int = 32
    jobs: int = 32
    seconds: int = 60
    job_seconds: int = 600
    kept_seconds: int = 600
    kept_bytes: int = 256 * 2**20
    cache_bytes: int = 0
    drain_seconds: int = 30

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            least = 0 if name in ("queue", "cache_bytes") else 1
            if isinstance(value, bool) or not isinstance(value, int) or value < least:
                raise OptionError(f"limit {name} must be a whole number from {least}, got {value!r}")

    @property
    def most_at_once(self) -> int:
        """Requests with a body that are read at the same time, so that bodies take no more memory either."""
        return 2 * (self.concurrency + self.queue) + self.jobs

    @classmethod
    def of(cls, given: list[str]) -> "Limits":
        """Return the defaults with what was given as NAME=VALUE. Raises OptionError."""
        changes = {}
        for text in given:
            name, _, value = text.partition("=")
            if name not in cls.__dataclass_fields__ or not value.isdecimal():
                names = ", ".join(cls.__dataclass_fields__)
                raise OptionError(f"--limit takes NAME=VALUE with a whole number, got {text!r}; the names are {names}")
            changes[name] = int(value)
        return cls(**changes)


class Refused(HTTPException):
    """A request that is answered with an error.

    status: of HTTP; sentence: what was got, what was wanted, what to do; retry_after: seconds until it may succeed
    """

    def __init__(self, status: int, sentence: str, retry_after: int | None = None) -> None:
        super().__init__(status, sentence, None if retry_after is None else {"Retry-After": str(retry_after)})
