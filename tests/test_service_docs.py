"""docs/service.md: every line of it runs as written, it leaves no call out, and its table has the limits."""

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from helpers import CAT, ROOT, python

pytest.importorskip("fastapi", reason="the service needs the extra serve")
pytest.importorskip("lance", reason="needs pylance, of the extra `index`")

from served import Served

from engine import Explanation
from engine.service.limits import Limits

PAGE = (ROOT / "docs" / "service.md").read_text()
SCRIPT = "\n".join(re.findall(r"^```bash\n(.*?)^```", PAGE, flags=re.DOTALL | re.MULTILINE))


@pytest.fixture(scope="module")
def served(demo_index: Path) -> Iterator[Served]:
    with Served("--index", str(demo_index)) as server:
        yield server


@pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")
def test_every_line_runs_as_written(served: Served, tmp_path: Path) -> None:
    for name, file in zip(("query.png", "match.png"), CAT, strict=True):
        shutil.copy(file, tmp_path / name)
    script = "set -euo pipefail\n" + SCRIPT.replace("localhost:8000", served.url.removeprefix("http://"))
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    environment = {**os.environ, "PATH": path, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(["bash", "-c", script], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert Explanation.load(tmp_path / "why.npz").similarity > 0.9
    found, annotated = (json.loads((tmp_path / f"{name}.json").read_text()) for name in ("found", "annotated"))
    assert [match["id"] for match in found["matches"]][:2] == ["noto/cat.png", "twemoji/cat.png"]
    assert [one and len(one["saliency"]) for one in annotated["explanations"]] == [16, None, 16]
    assert "event: explanation" in (tmp_path / "events.txt").read_text()
    assert "sane_passes_count" in (tmp_path / "metrics.txt").read_text()


def test_no_call_is_left_out(served: Served) -> None:
    calls = {line for line in SCRIPT.replace("\\\n", "").splitlines() if "curl" in line}
    for path, methods in served.get("/openapi.json").json()["paths"].items():
        pattern = "localhost:8000" + re.sub(r"\\\{\w+\\\}", r"[^ /]+", re.escape(path))
        if path == "/v1/explanations/{key}.{kind}":  # the call before answered the path
            pattern = r"localhost:8000\$\S+"
        matching = [call for call in calls if re.search(pattern + r"([\s)?]|$)", call)]
        assert len(matching) >= len(methods), path


def test_the_table_has_the_limits() -> None:
    table = PAGE.split("<!-- limits -->")[1].split("<!-- end of limits -->")[0]
    rows = {name: int(value.replace(",", "")) for name, value in re.findall(r"\| `(\w+)` \| ([\d,]+) \|", table)}
    assert rows == vars(Limits())


def test_the_client_in_python(served: Served, tmp_path: Path) -> None:
    out = tmp_path / "why.png"
    done = python(ROOT / "examples" / "serve_client.py", *CAT, "--url", served.url, "--out", out)
    assert done.stdout.startswith("similarity 0.9"), done.stderr
    assert out.read_bytes().startswith(b"\x89PNG")
    wrong = python(ROOT / "examples" / "serve_client.py", CAT[0], ROOT / "README.md", "--url", served.url)
    assert wrong.stderr.startswith("422: references[0] is not a readable picture")
