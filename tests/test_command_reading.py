"""Every other command that reads pictures can be told how, as the exports can: --max-pixels and --apply-profiles."""

import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers import CAT, COUPLE, PICTURES, error_line, exit_status
from test_colour_profiles import profile

from engine import Explainer, OptionError, benchmark
from engine.batch import command as batch
from engine.batch.table import read_failed
from engine.evaluate import sanity
from engine.pictures.loading import load_picture
from engine.pictures.reading import Reading

LIMIT = ("--max-pixels", "10")
REFUSED = "at most 10 in all are read"
FEW = 2000
"""Pixels: fewer than those of the demo's pictures."""


@pytest.fixture
def profiled(tmp_path: Path) -> Path:
    """The demo's pictures, with a profile that changes their colours."""
    folder = tmp_path / "profiled"
    folder.mkdir()
    for file in PICTURES.glob("*.png"):
        load_picture(file).save(folder / file.name, icc_profile=profile(gamma=1.0))
    return folder


def converted(files: list[Path], apply_profiles: bool) -> np.ndarray:
    return Explainer(precision="fp32", provider="cpu", apply_profiles=apply_profiles).embed(files)


def test_a_batch_reads_as_it_was_told_and_goes_on_only_so(
    profiled: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pq = pytest.importorskip("pyarrow.parquet")
    monkeypatch.chdir(tmp_path)
    Path("pairs.csv").write_text(f"query,reference\n{CAT[0].name},{CAT[1].name}\n")
    told = ["pairs.csv", "--images", str(profiled), "--masks", "32", "--quiet", "--precision", "fp32", "--provider", "cpu"]
    assert batch.main([*told, "--out", "none", *LIMIT]) == 0
    (failed,) = read_failed([Path("none/failed.parquet")]).to_pylist()
    assert REFUSED in failed["reason"]
    found = []
    for out, more in (("plain", []), ("converted", ["--apply-profiles"])):
        assert batch.main([*told, "--out", out, *more]) == 0
        found += pq.read_table(f"{out}/explanations")["similarity"].to_pylist()
    for got, apply_profiles in zip(found, (False, True), strict=True):
        query, reference = converted([profiled / file.name for file in CAT], apply_profiles)
        assert got == pytest.approx(query @ reference / np.linalg.norm(query) / np.linalg.norm(reference), abs=1e-5)
    assert abs(found[0] - found[1]) > 1e-4
    capsys.readouterr()
    assert exit_status(batch.main, [*told, "--out", "converted"]) == 2
    assert "(apply_profiles differ)" in error_line(capsys)


def test_a_benchmark_reads_as_it_was_told(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    told = ["--seconds", "0.01", "--quiet", "--providers", "cpu", "--precisions", "fp32", "--threads", "1"]
    assert exit_status(benchmark.main, [*told, *LIMIT]) == 2
    assert REFUSED in error_line(capsys)
    seen: list[Reading] = []

    def measured(setting: benchmark.Measured, _: object) -> dict[str, Any]:
        seen.append(setting.reading)
        raise OptionError("enough was seen")

    monkeypatch.setattr(benchmark, "_in_own_process", measured)
    assert exit_status(benchmark.main, [*told, "--apply-profiles"]) == 2
    assert seen == [Reading(apply_profiles=True)]


def test_checks_of_maps_read_as_they_were_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert exit_status(sanity.main, ["--sanity", "--out", str(tmp_path / "s.json"), "--quiet", *LIMIT]) == 2
    assert REFUSED in error_line(capsys)
    assert not (tmp_path / "s.json").exists()


@pytest.fixture
def index_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., int]:
    """`python -m engine.index` in an empty folder."""
    pytest.importorskip("lance", reason="needs pylance, of the extra `index`")
    from engine.index.command import main  # noqa: PLC0415 - an extra

    monkeypatch.chdir(tmp_path)
    return lambda *arguments: exit_status(main, list(arguments))


def test_the_limit_of_an_index_is_the_one_that_was_asked_for(
    index_command: Callable[..., int], demo_index: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    new = ["build", "new", "--images", str(PICTURES), "--masks", "32", "--quiet"]
    for told in (
        [*new, *LIMIT],
        ["search", str(demo_index), str(CAT[0]), *LIMIT],
        ["explain", str(demo_index), str(CAT[0]), "noto/cat.png", *LIMIT],
    ):
        capsys.readouterr()
        assert index_command(*told) == 2, told
        assert REFUSED in error_line(capsys), told


def test_an_index_reads_colours_as_in_its_build(
    index_command: Callable[..., int], profiled: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from engine.index import Index  # noqa: PLC0415 - an extra

    late = COUPLE[1].name
    (profiled / late).rename(late)
    told = ["--images", str(profiled), "--masks", "32", "--quiet", "--provider", "cpu"]
    assert index_command("build", "made", *told, "--precision", "fp32", "--apply-profiles") == 0
    Path(late).rename(profiled / late)
    assert index_command("add", "made", "--images", str(profiled), "--quiet", "--max-pixels", str(FEW)) == 0
    assert f"at most {FEW:,} in all are read" in capsys.readouterr().out
    assert index_command("add", "made", "--images", str(profiled), "--quiet") == 0
    index = Index.open("made")
    files = [profiled / name for name in index.ids]
    assert len(files) == 8
    wanted = converted(files, True)
    np.testing.assert_allclose(index.embeddings(index.ids), wanted, atol=1e-4 * np.abs(wanted).max())
    assert index.search(str(profiled / late), 1)[0].similarity == pytest.approx(1, abs=1e-4)
    with pytest.raises(OptionError, match="was built with apply_profiles=True"):
        Index.open("made", Explainer(precision="fp32", provider="cpu"))
    assert index_command("build", "made", *told, "--precision", "fp32") == 2  # goes on only as it was begun


def test_an_index_of_before_took_colours_as_they_are(demo_index: Path) -> None:
    pytest.importorskip("lance", reason="needs pylance, of the extra `index`")
    from engine.index.settings import IndexSettings  # noqa: PLC0415 - an extra

    fields = json.loads((demo_index / "index.json").read_text())
    del fields["apply_profiles"]
    assert not IndexSettings.from_json(json.dumps(fields), demo_index).apply_profiles


def test_what_is_sent_is_converted_where_that_was_asked_for(profiled: Path) -> None:
    pytest.importorskip("fastapi", reason="the service needs the extra serve")
    from service_client import b64, client_of  # noqa: PLC0415 - an extra

    file = profiled / CAT[0].name
    for apply_profiles in (True, False):
        explainer = Explainer(precision="fp32", provider="cpu", apply_profiles=apply_profiles)
        with client_of(explainer) as client:
            answer = client.post("/v1/models/emoji demo:predict", json={"instances": [b64(file)]})
        np.testing.assert_allclose(answer.json()["predictions"][0], converted([file], apply_profiles)[0], rtol=1e-4)


def test_a_service_reads_colours_as_its_index(profiled: Path, tmp_path: Path) -> None:
    pytest.importorskip("fastapi", reason="the service needs the extra serve")
    pytest.importorskip("lance", reason="needs pylance, of the extra `index`")
    from engine.index.command import main  # noqa: PLC0415 - an extra
    from engine.protocol import ignore_notice  # noqa: PLC0415 - with it
    from engine.service.limits import Limits  # noqa: PLC0415 - an extra
    from engine.service.opening import Settings, open_index, opened_explainer  # noqa: PLC0415 - an extra

    def opened(index: Path | None, asked: bool) -> Explainer:
        fixed = None, "127.0.0.1", 0, "cpu", "fp32", 1, 1, None, (), ()
        return opened_explainer(Settings(*fixed, index, asked), Limits(), ignore_notice)

    assert [opened(None, asked).model.reading.apply_profiles for asked in (False, True)] == [False, True]
    told = ["--images", str(profiled), "--masks", "32", "--quiet", "--provider", "cpu", "--precision", "fp32"]
    for name, more in (("converted", ["--apply-profiles"]), ("plain", [])):
        assert main(["build", str(tmp_path / name), *told, *more]) == 0
    open_index(tmp_path / "converted", opened(tmp_path / "converted", False))
    with pytest.raises(OptionError, match="was built with apply_profiles=False"):
        open_index(tmp_path / "plain", opened(tmp_path / "plain", True))


def test_the_service_takes_the_option(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("fastapi", reason="the service needs the extra serve")
    from engine.serve import main  # noqa: PLC0415 - an extra

    seen = io.StringIO()
    monkeypatch.setattr("engine.service.workers.serve", lambda settings: seen.write(str(settings.apply_profiles)))
    assert [main([]), main(["--apply-profiles"])] == [0, 0]
    assert seen.getvalue() == "FalseTrue"
