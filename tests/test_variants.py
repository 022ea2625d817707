"""The other ways to prepare pictures that `check --against` tries: each differs in one kind, and has its options."""

import argparse

import pytest
from helpers import CAT
from index_bench import OWN
from PIL import Image

from engine.pictures.preprocessing import Preprocessing
from export.preprocessing_options import add_preprocessing_options, given_fields, put_together
from export.variants import KINDS, Variant, changed_kinds, export_options, variants_of, words

BASES = [
    OWN,
    Preprocessing(32, 48, "stretch", interpolation="bicubic", antialias=False, scale=1.0, channel_order="bgr"),
    Preprocessing(32, 48, "pad", pad_colour=(1, 2, 3), pad_position="top-left", layout="nhwc"),
    Preprocessing(28, 28, mean=(0.1307,), std=(0.3081,), channels=1, resize=(32,), crop_rounding="down"),
]


@pytest.mark.parametrize("base", BASES)
@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "loading"])
def test_variants_differ_in_one_kind_and_their_options_make_such_a_bundle(kind: str, base: Preprocessing) -> None:
    variants = variants_of(kind, Variant(base))
    assert len(variants) == len(set(variants))
    for variant in variants:
        assert changed_kinds(Variant(base), variant) == [kind]
        assert words(kind, variant) != words(kind, Variant(base))
        options = export_options(kind, Variant(base), variant)
        variant.preprocessing.fitted(Image.open(CAT[0]).convert("RGB"))
        if "(without" in options or "--preprocessor" in options:
            continue
        parser = argparse.ArgumentParser()
        add_preprocessing_options(parser)
        made = put_together(given_fields(parser.parse_args(options.split())), None, base)
        assert changed_kinds(Variant(made), variant) == []
