"""python -m engine.serve: explanations over HTTP."""

import argparse
import importlib.util
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

from engine.errors import OptionError
from engine.runtime.providers import PROVIDERS
from engine.terminal import CommandParser, run_command

NEEDED = ("fastapi", "uvicorn", "prometheus_client", "python_multipart", "threadpoolctl")

_EXAMPLES = """examples:
  python -m engine.serve                                       the embedded emoji demo, on http://127.0.0.1:8000
  python -m engine.serve --bundle models/shoes --port 9000
  python -m engine.serve --bundle models/shoes --host 0.0.0.0 --api-key-file keys.txt     for other machines
  python -m engine.serve --bundle models/shoes --workers 4 --limit references=16 --limit seconds=10
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit status, see `engine.terminal`."""
    return run_command(lambda: _serve(_parser().parse_args(arguments)))


def _parser() -> argparse.ArgumentParser:
    parser = CommandParser(
        prog="python -m engine.serve",
        description="Serve a bundle over HTTP (docs/service.md).",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add(
        "--bundle",
        metavar="DIR",
        help="model made by `python -m export` (default: the index's, else the emoji demo)",
    )
    add("--index", type=Path, metavar="DIR", help="index to search, of `python -m engine.index build` (default: none)")
    add("--host", default="127.0.0.1", metavar="H", help="address to listen on (default: %(default)s, this machine alone)")
    add("--port", type=int, default=8000, metavar="N", help="port to listen on; 0: any that is free (default: %(default)s)")
    add("--provider", default="auto", metavar="P", help=f"auto, {', '.join(PROVIDERS)} (default: %(default)s)")
    add("--precision", default="auto", metavar="P", help="auto, fp32, fp16, bf16, int8 (default: %(default)s)")
    add(
        "--threads",
        type=int,
        metavar="N",
        help="CPU threads per network run (default: all cores, divided among the workers)",
    )
    add("--workers", type=int, default=1, metavar="N", help="processes, each with the bundle open (default: %(default)s)")
    add("--api-key-file", type=Path, metavar="FILE", help="keys that open the service, one a line (default: it is open)")
    add("--cors", action="append", default=[], metavar="ORIGIN", help="origin whose pages may call it; may be repeated")
    add("--apply-profiles", action="store_true", help="convert colours to sRGB by the profiles of the pictures")
    add(
        "--limit",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="one of the limits that docs/service.md lists, as in --limit references=16; may be repeated",
    )
    return parser


def _serve(options: argparse.Namespace) -> None:
    missing = [name for name in NEEDED if importlib.util.find_spec(name) is None]
    if missing:
        raise OptionError(f"the service needs {', '.join(missing)}: pip install 'sane-engine[serve]'")
    from engine.service.opening import Settings  # noqa: PLC0415 - an extra
    from engine.service.workers import serve  # noqa: PLC0415 - as above

    settings = Settings(
        options.bundle,
        options.host,
        options.port,
        options.provider,
        options.precision,
        options.threads,
        options.workers,
        options.api_key_file,
        tuple(options.cors),
        tuple(options.limit),
        options.index,
        options.apply_profiles,
    )
    serve(settings)


def _main() -> NoReturn:
    sys.exit(main())


if __name__ == "__main__":
    _main()
