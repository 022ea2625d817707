"""References that are vectors: every form that Python has for them, files on the command line, what is said of others."""

import json
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers import BANDAGE, CAT, Trap, error_line, exit_status, views_of

from engine import Explainer, Explanation, ImageError, LearnedMask, Rise
from engine.explain import main

FEW = Rise(masks=16)
WANTED = r"must be a picture \(a path, a PIL image or a uint8 array \(H, W, 3\)\) or an embedding .*\(64,\) or \(1, 64\)"


class Foreign:
    """An array of another library."""

    def __init__(self, values: np.ndarray) -> None:
        self.values = values

    def __array__(self, dtype: object = None, copy: object = None) -> np.ndarray:
        return self.values


class Unreadable:
    """An array that cannot be read, as one on a device that is gone."""

    def __array__(self, dtype: object = None, copy: object = None) -> np.ndarray:
        raise RuntimeError("no such device\nat all")


@pytest.fixture(scope="module")
def vector(demo: Explainer) -> np.ndarray:
    """The embedding of a picture: numbers that float16 and bfloat16 have too, so that every form is equal."""
    rounded: np.ndarray = torch.tensor(demo.embed([CAT[1]])[0]).bfloat16().float().numpy()
    return rounded


FORMS: dict[str, Callable[[np.ndarray], object]] = {
    "float64": lambda v: v.astype(np.float64),
    "float16": lambda v: v.astype(np.float16),
    "big-endian": lambda v: v.astype(">f4"),
    "one row": lambda v: v[None],
    "list": lambda v: v.tolist(),
    "tuple": tuple,
    "list of one row": lambda v: [v.tolist()],
    "tensor": torch.tensor,
    "bfloat16 tensor": lambda v: torch.tensor(v)[None].bfloat16(),
    "tensor with a gradient": lambda v: torch.nn.Parameter(torch.tensor(v)) * 1,
    "another library's array": Foreign,
}


@pytest.mark.parametrize("form", FORMS)
def test_every_form_of_a_vector_gives_the_same_explanation(demo: Explainer, vector: np.ndarray, form: str) -> None:
    wanted, prepared = demo.explain(CAT[0], vector, FEW), demo.prepare(CAT[0], FEW)
    given = FORMS[form](vector)
    found = [
        demo.explain(CAT[0], given, FEW),  # type: ignore[arg-type]
        demo.explain_many(CAT[0], [BANDAGE[1], given], FEW)[1],  # type: ignore[list-item]
        prepared.explain(given),  # type: ignore[arg-type]
        next(demo.refining(CAT[0], given, FEW)),  # type: ignore[arg-type]
    ]
    for explanation in found:
        assert explanation.similarity == pytest.approx(wanted.similarity, abs=1e-12)
        np.testing.assert_allclose(explanation.saliency, wanted.saliency, atol=1e-6)
        assert (explanation.reference_image, explanation.reference_size, explanation.passes) == (None, None, 17)


def test_the_rows_of_an_array_or_tensor_are_references(demo: Explainer, vector: np.ndarray) -> None:
    rows = np.stack([vector, -vector])
    for references in (rows, torch.tensor(rows), rows.tolist()):
        found = demo.explain_many(CAT[0], references, FEW)  # type: ignore[arg-type]
        assert found[0].similarity == pytest.approx(-found[1].similarity)


def test_whole_numbers_in_a_list_are_numbers(demo: Explainer) -> None:
    one_hot = [0] * 63 + [1]
    assert demo.explain(CAT[0], one_hot, FEW).similarity == demo.explain(CAT[0], np.float32(one_hot), FEW).similarity


def test_learned_masks_take_vectors_too(demo: Explainer, vector: np.ndarray) -> None:
    options = LearnedMask(iterations=1)
    assert demo.explain(CAT[0], vector.tolist(), options).similarity == demo.explain(CAT[0], vector, options).similarity


@pytest.mark.parametrize(
    ("reference", "said"),
    [
        ({"a": 1}, "got dict"),
        (None, "got NoneType"),
        (3.5, "got float"),
        ([1.0, 2.0], r"got list of float64, shape \(2,\)"),
        ([[1.0], [1.0, 2.0]], "got list that is no array"),
        (["a.png", "b.png"], "got list of <U5"),
        (
            np.zeros((3, 64), np.float32),
            r"got ndarray of float32, shape \(3, 64\); give each row as a reference of its own",
        ),
        (np.zeros(64, np.int64), "got ndarray of int64"),
        (np.zeros(64, np.complex64), "got ndarray of complex64"),
        (np.zeros((8, 8, 3), np.float32), r"got ndarray of float32, shape \(8, 8, 3\)"),
        (torch.zeros(3, 8, 8), r"got Tensor of torch.float32, shape \(3, 8, 8\)"),
        (torch.zeros(64, dtype=torch.uint8), "got Tensor of torch.uint8"),
        (torch.zeros(64, device="meta"), "got Tensor that is no array"),
        (Unreadable(), r"got Unreadable that is no array \(.*no such device"),
    ],
)
def test_anything_else_is_refused_with_what_is_possible(demo: Explainer, reference: object, said: str) -> None:
    with pytest.raises(ImageError, match=f"{WANTED}.*{said}") as caught:
        demo.explain(CAT[0], reference, FEW)  # type: ignore[arg-type]
    assert "\n" not in str(caught.value)


def test_numbers_that_are_not_finite_are_refused_by_their_place(demo: Explainer) -> None:
    for value in (np.nan, np.inf, 1e300):
        with pytest.raises(ImageError, match="finite in float32; number 5"):
            demo.explain(CAT[0], [0.0] * 5 + [value] + [1.0] * 58, FEW)


def test_a_vector_cannot_be_masked(demo: Explainer, vector: np.ndarray, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("engine.passed.MaskedPasses", None)  # calling it would be a TypeError
    for method in (FEW, LearnedMask(iterations=1)):
        with pytest.raises(ImageError, match=r"modes pair and both mask the references too.*or use mode fixed"):
            demo.explain_many(CAT[0], [CAT[1], vector.tolist()], method, mode="both")
    with pytest.raises(ImageError, match="modes pair and both"):
        next(demo.refining(CAT[0], vector, FEW, mode="both"))


@pytest.fixture
def files(demo: Explainer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> np.ndarray:
    """Files of embeddings in the working folder; returns those of three pictures (3, 64)."""
    monkeypatch.chdir(tmp_path)
    rows = demo.embed([CAT[1], BANDAGE[1], CAT[0]])
    np.save("one.npy", rows[0])
    np.save("all.npy", rows.astype(np.float64))
    np.savez("single.npz", rows)
    np.savez("index.npz", vectors=rows, ids=np.arange(3), **{"a:b": rows[:1]})
    np.save("narrow.npy", np.zeros((10, 512), np.float32))
    np.save("cube.npy", np.zeros((2, 2, 64), np.float32))
    np.save("none.npy", np.zeros((0, 64), np.float32))
    np.save("whole.npy", np.zeros((2, 64), np.int8))
    np.save("nan.npy", np.where(np.arange(3)[:, None] == 1, np.nan, rows))
    np.save("objects.npy", np.array([Trap(tmp_path / "sprung")]), allow_pickle=True)
    Path("broken.npz").write_bytes(Path("index.npz").read_bytes()[:300])
    Path("cut.npy").write_bytes(Path("all.npy").read_bytes()[:500])
    Path("empty.npy").write_bytes(b"")
    Path("text.npy").write_text("0.1 0.2 0.3")
    np.savez("nothing.npz")
    return rows


@pytest.mark.parametrize(
    ("given", "names"),
    [
        (["one.npy"], ["one.npy"]),
        (["all.npy"], ["all.npy[0]", "all.npy[1]", "all.npy[2]"]),
        (["single.npz"], ["single.npz[0]", "single.npz[1]", "single.npz[2]"]),
        (["index.npz:a:b", "one.npy"], ["index.npz:a:b", "one.npy"]),
        (["./index.npz:vectors"], ["index.npz:vectors[0]", "index.npz:vectors[1]", "index.npz:vectors[2]"]),
    ],
)
def test_rows_of_files_are_references(
    files: np.ndarray, demo: Explainer, given: list[str], names: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    options = [part for name in given for part in ("--reference-embedding", name)]
    shared = ["--masks", "16", "--precision", "fp32"]
    assert main([str(CAT[0]), *options, *shared]) == 0
    printed = re.findall(r"^(\S+): similarity ([-.\d]+)", capsys.readouterr().out, flags=re.MULTILINE)
    assert [name for name, _ in printed] == names
    rows = files if len(names) == 3 else files[[0] * len(names)]
    similarities = [e.similarity for e in demo.explain_many(CAT[0], list(rows), FEW)]
    assert [float(number) for _, number in printed] == pytest.approx(similarities, abs=6e-4)
    drawn = {"explanation.png"} if len(names) == 1 else {f"explanation-{i + 1}.png" for i in range(len(names))}
    assert {p.name for p in Path().glob("*.png")} == drawn


def test_pictures_come_first_and_vectors_after_them(files: np.ndarray, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = [str(CAT[0]), "--reference-embedding", "all.npy", str(BANDAGE[1]), "--masks", "16", "--precision", "fp32"]
    assert main([*arguments, "--json", "--out", "e.npz"]) == 0
    fields = json.loads(capsys.readouterr().out)
    assert [f["reference_size"] for f in fields] == [[64, 64], None, None, None]
    assert fields[0]["similarity"] == pytest.approx(fields[2]["similarity"], abs=1e-5)
    assert fields[3]["similarity"] == pytest.approx(1, abs=1e-5)
    assert Explanation.load("e-2.npz").reference_image is None
    assert main([*arguments, "--out", "e.html"]) == 0
    assert len(views_of(Path("e.html").read_text())) == 4


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (
            "narrow.npy",
            r"an embedding of this model has 64 numbers, narrow.npy holds \(10, 512\): shape \(64,\) or \(n, 64\)",
        ),
        ("cube.npy", r"cube.npy holds \(2, 2, 64\)"),
        ("none.npy", r"none.npy holds \(0, 64\)"),
        ("whole.npy", "has 64 numbers, float16, float32 or float64; whole.npy holds int8"),
        ("nan.npy", r"nan.npy\[1\] in . is not finite in float32 at number 0: leave it out"),
        ("index.npz", "index.npz holds 3 arrays: name one of vectors, ids, a:b, as in index.npz:vectors"),
        ("index.npz:what", "index.npz has no array 'what': name one of vectors, ids, a:b"),
        ("index.npz:ids", "index.npz:ids holds int64"),
        ("one.npy:key", "one.npy holds one array without a name: leave out :key"),
        ("nothing.npz", "nothing.npz holds no array"),
        ("objects.npy", r"objects.npy: it is not an array of numbers that numpy wrote \(it holds Python objects"),
        ("text.npy", "text.npy: it is not an array of numbers"),
        ("cut.npy", "cut.npy: it is not an array of numbers"),
        ("empty.npy", "empty.npy: it is not an array of numbers"),
        ("broken.npz", "broken.npz: it is not an .npz archive"),
        ("absent.npy", "cannot read absent.npy: No such file"),
        ("vectors.pt", "cannot read embeddings from vectors.pt: the name must end in .npy or .npz"),
        (".", "the name must end in"),
    ],
)
def test_other_files_exit_2_with_one_line(
    files: np.ndarray, given: str, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert exit_status(main, [str(CAT[0]), "--reference-embedding", given, "--masks", "16"]) == 2
    assert re.search(said, error_line(capsys))
    assert not list(Path().glob("*.png"))
    assert not Path("sprung").exists()


def test_vectors_need_a_query_and_mode_fixed(files: np.ndarray, capsys: pytest.CaptureFixture[str]) -> None:
    assert exit_status(main, ["--reference-embedding", "one.npy"]) == 2
    assert "--reference-embedding needs a query, as in: QUERY --reference-embedding FILE" in error_line(capsys)
    assert exit_status(main, [str(CAT[0]), "--reference-embedding", "one.npy", "--mode", "both"]) == 2
    assert "modes pair and both mask the references too" in error_line(capsys)
