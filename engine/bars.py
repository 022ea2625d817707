"""Progress bars on standard error; none where that is not a terminal."""


class Bar:
    """Shows (done, total)."""

    def __init__(self, quiet: bool, what: str, unit: str) -> None:
        from tqdm import tqdm  # noqa: PLC0415 - `import engine` stays without it

        self._bar = tqdm(disable=True if quiet else None, unit=unit, desc=what, leave=False)

    def __enter__(self) -> "Bar":
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.close()

    def show(self, done: int, total: int) -> None:
        self._bar.total = total
        self._bar.update(done - self._bar.n)
