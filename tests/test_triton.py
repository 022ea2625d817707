"""python -m export triton: the structure of the repository, by a small strict parser of protobuf's text format."""

import re
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from helpers import copy_bundle, error_line, exit_status, seal

from engine.bundle import demo_bundle
from export.commands import main
from export.triton import _quoted

TOKENS = re.compile(r'\s*("(?:[^"\\\n]|\\[0-7]{3})*"|[A-Za-z_][A-Za-z0-9_]*|-?[0-9]+|[\[\]{}:,])')


def parsed(text: str) -> dict[str, list[Any]]:
    """The fields of a message, each as the list of its values. Anything else than well-formed text fails."""
    tokens, at = [], 0
    while text[at:].strip():
        found = TOKENS.match(text, at)
        assert found, text[at : at + 40]
        tokens.append(found[1])
        at = found.end()
    fields = message(tokens)
    assert not tokens
    return fields


def message(tokens: list[str]) -> dict[str, list[Any]]:
    fields: dict[str, list[Any]] = {}
    while tokens and tokens[0] != "}":
        name = tokens.pop(0)
        assert name.isidentifier(), name
        scalar = tokens[0] == ":"
        if scalar:
            tokens.pop(0)
        values = fields.setdefault(name, [])
        if tokens[0] == "[":
            tokens.pop(0)
            while tokens[0] != "]":
                values.append(value(tokens, scalar))
                if tokens[0] == ",":
                    tokens.pop(0)
            tokens.pop(0)
        else:
            values.append(value(tokens, scalar))
    return fields


def value(tokens: list[str], scalar: bool) -> Any:
    token = tokens.pop(0)
    if token == "{":
        assert not scalar
        found = message(tokens)
        assert tokens.pop(0) == "}"
        return found
    assert scalar and token not in "[]{}:,"
    if token.startswith('"'):
        return re.sub(r"\\([0-7]{3})", lambda m: chr(int(m[1], 8)), token[1:-1])
    return int(token) if token.lstrip("-").isdecimal() else token


def test_a_repository_describes_its_graphs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "repository"
    assert exit_status(main, ["triton", str(demo_bundle()), str(out)]) == 0
    names = {"similarity_fp32": "any", "similarity_int8-cpu": "cpu", "attributes_fp32": "any"}
    assert capsys.readouterr().out.count("\n") == 1 + len(names)
    assert {folder.name for folder in out.iterdir()} == set(names)
    assert [left.name for left in tmp_path.iterdir()] == ["repository"]
    for name, target in names.items():
        config = parsed((out / name / "config.pbtxt").read_text())
        assert config["name"] == [name]
        assert config["backend"] == ["onnxruntime"]
        assert config["max_batch_size"] == [64]
        assert config["dynamic_batching"] == [{"max_queue_delay_microseconds": [1000]}]
        assert config["instance_group"] == [{"count": [1], "kind": [{"any": "KIND_AUTO", "cpu": "KIND_CPU"}[target]]}]
        (file,) = config["default_model_filename"]
        session = onnxruntime.InferenceSession(out / name / "1" / file, providers=["CPUExecutionProvider"])
        for which, own in (("input", session.get_inputs()), ("output", session.get_outputs())):
            assert [one["name"] for one in config[which]] == [[node.name] for node in own]
            assert {kind for one in config[which] for kind in one["data_type"]} == {"TYPE_FP32"}
        shown = np.zeros((2, *config["input"][0]["dims"]), np.float32)
        (found,) = session.run(None, {config["input"][0]["name"][0]: shown})
        wanted = config["output"][0]["dims"]
        assert len(wanted) == found.ndim - 1
        assert all(size in (-1, real) for size, real in zip(wanted, found.shape[1:], strict=True))


def test_weights_beside_a_graph_come_along(tmp_path: Path) -> None:
    bundle = copy_bundle(demo_bundle(), tmp_path / "bundle")
    file = bundle / "similarity.fp32.onnx"
    onnx.save(onnx.load(file), file, save_as_external_data=True, location="similarity.weights", size_threshold=1024)
    for report in ("precision.json", "calibration.json"):  # about the graph as it was
        (bundle / report).unlink()
    seal(bundle)
    assert exit_status(main, ["triton", str(bundle), str(tmp_path / "out")]) == 0
    version = tmp_path / "out" / "similarity_fp32" / "1"
    assert {one.name for one in version.iterdir()} == {"similarity.fp32.onnx", "similarity.weights"}
    onnxruntime.InferenceSession(version / "similarity.fp32.onnx", providers=["CPUExecutionProvider"])


def test_nothing_is_written_over(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "mine").write_text("text")
    assert exit_status(main, ["triton", str(demo_bundle()), str(tmp_path / "mine")]) == 2
    assert "it is there already" in error_line(capsys)
    assert (tmp_path / "mine").read_text() == "text"


def test_names_are_quoted() -> None:
    name = 'a"b\\c\n'
    assert parsed("name: " + _quoted(name)) == {"name": [name]}
