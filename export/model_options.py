"""The options that say which model is exported, and which of its tensors."""

import argparse
from pathlib import Path
from typing import TypeAlias

POOLS = ("none", "cls", "mean")
"""none: the output is (batch, D) already; cls: the first token; mean: of all tokens, or of all positions of a map."""
SourceGroup: TypeAlias = "argparse._MutuallyExclusiveGroup"


def add_source_options(parser: argparse.ArgumentParser) -> SourceGroup:
    """Add the sources that a similarity and an attribute model can come from; returns their group, which takes more."""
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--module", metavar="PACKAGE:FACTORY", help="a function that returns the PyTorch module")
    source.add_argument("--onnx", type=Path, metavar="FILE", help="an ONNX file")
    source.add_argument(
        "--trained", type=Path, metavar="FILE", help="a file that training.similarity or training.attributes wrote"
    )
    add = parser.add_argument
    add("--weights", type=Path, metavar="FILE", help="a state dict for --module or --timm: .pt, .pth or .safetensors")
    add("--input", metavar="NAME", help="the graph's input, if the --onnx file has more than one")
    add("--output", metavar="NAME", help="any tensor of the --onnx file (default: its only output)")
    return source


def add_embedding_options(parser: argparse.ArgumentParser, source: SourceGroup) -> None:
    """Add the sources of similarity models alone, and what their embedding is."""
    source.add_argument(
        "--hf", metavar="DIR|NAME", help="a vision model of transformers, CLIP or SigLIP, with its preprocessing: a folder "
        "that save_pretrained wrote, or a name on the hub, with @REVISION if wanted"
    )  # fmt: skip
    source.add_argument(
        "--timm", metavar="NAME", help="a network of timm without its classifier, with its preprocessing; its weights are "
        "fetched unless --weights names a file, or is `random`"
    )  # fmt: skip
    add = parser.add_argument
    add(
        "--pool",
        choices=POOLS,
        help="how tokens (batch, T, D) or maps become an embedding: cls, the first token; mean, of all",
    )
    add(
        "--yes-embedding", action="store_true", default=None, help="take the output for an embedding although it looks like "
        "the scores of classes"
    )  # fmt: skip
