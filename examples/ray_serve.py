"""The service on a Ray cluster: two replicas behind one address.

Needs the extras serve and ray: pip install 'sane-engine[serve,ray]', and python examples/ray_serve.py --shared ~/kept
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from pydantic import ValidationError

from engine.errors import EngineError
from engine.service.on_ray import Replicas, application


def main(arguments: Sequence[str] | None = None) -> int:
    """Serve until interrupted; on the cluster at RAY_ADDRESS if it is set, else on one of this machine alone."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--bundle", help="model made by `python -m export`, on every node (default: the emoji demo)")
    parser.add_argument("--shared", type=Path, required=True, help="folder that all nodes see, for what replicas keep")
    parser.add_argument("--replicas", type=int, default=2)
    parser.add_argument("--port", type=int, default=8000)
    options = parser.parse_args(arguments)
    try:
        served = application(Replicas(bundle=options.bundle, replicas=options.replicas, shared=options.shared))
    except (EngineError, ValidationError) as error:
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    from ray import serve  # noqa: PLC0415 - application() has said so if it is missing

    serve.start(http_options={"host": "127.0.0.1", "port": options.port})
    serve.run(served, blocking=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
