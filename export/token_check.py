"""Can a network's tokens be left out? Seen on a picture, without PyTorch, by what must not change the tokens.

Blocks that know nothing but the tokens treat them alike: in another order they give the same in that order, and if every
token is there twice, attention gives each what it gave before. Where positions follow the tokens (RoPE), the kept ones must
be what they are where all are there and none attends to the others. What is read from the tokens in the end may be that of
the class token, or a mean with or without the prefix: so it is judged by itself, on the tokens that the blocks gave.
"""

from collections.abc import Callable

import numpy as np

from engine.bundle.manifest import TokenLayout
from engine.runtime.token_tail import KEPT_INPUT, TOKENS_INPUT
from export.errors import ExportError
from export.light_graph import LightGraph, LightRunner
from export.token_graph import TokenGraphs
from export.token_positions import HIDDEN_INPUT, UNSEEN

ROWS_TOGETHER = 3
TOKEN_TOLERANCE = 1e-4
"""Largest difference between what must be equal, relative to the largest entry."""


def verify_tokens(graphs: TokenGraphs, whole: LightGraph, pictures: np.ndarray, channels_last: bool) -> None:
    """Raise ExportError unless the two graphs are right for any tokens that are kept.

    whole: the graph that was cut; pictures: (n, ...) float32 as it takes them, of which the first is used; channels_last:
    whether they are (n, H, W, C)
    """
    layout, picture = graphs.layout, pictures[:1]
    random = np.random.default_rng(0)
    stem, embed = graphs.stem.runner(), whole.runner()
    (tokens,) = _only(stem, {_input(graphs.stem): picture})
    _require_places(lambda p: _only(stem, {_input(graphs.stem): p}), layout, picture, channels_last, random)
    prefix = np.arange(layout.prefix)
    grid = layout.prefix + random.permutation(layout.count - layout.prefix)
    tail = graphs.tail.runner()
    got = _only(tail, {TOKENS_INPUT: tokens, KEPT_INPUT: np.arange(layout.count)[None]})
    _require_equal(got, _only(embed, {_input(whole): picture}), "all of the tokens do not give the picture's embedding")
    half = np.concatenate([prefix, grid[: len(grid) // 2]])
    mixed = np.concatenate([prefix, random.permutation(half[layout.prefix :])])
    blocks, readout = _taking(graphs.blocks.runner(), tokens), graphs.readout.runner()
    alone = blocks(half)
    order = [half.tolist().index(token) for token in mixed]
    _require_equal(blocks(mixed), alone[:, order], "its blocks know the tokens' places in another way (relative positions)")
    if graphs.attending is None:
        twice = blocks(np.concatenate([half, half]))
        _require_equal(twice, np.concatenate([alone, alone], axis=1), "its blocks depend on how many tokens there are")
    else:
        seen = _attending(graphs.attending, tokens, half)
        _require_equal(alone, seen, "its blocks give other tokens than where none attends to those left out")
    _require_readout(lambda t: _only(readout, {_input(graphs.readout): t}), alone, layout.prefix)
    expected = _only(readout, {_input(graphs.readout): alone})
    got = _only(tail, {TOKENS_INPUT: tokens, KEPT_INPUT: half[None]})
    _require_equal(got, expected, "half of the tokens do not give what its blocks make of them")
    _require_rows(lambda kept: _only(tail, {TOKENS_INPUT: tokens, KEPT_INPUT: kept}), layout, random)


def _require_rows(embed: Callable[[np.ndarray], np.ndarray], layout: TokenLayout, random: np.random.Generator) -> None:
    """Passes that keep different tokens must give together what each gives alone. embed: (N, K) kept -> (N, E)"""
    patches = layout.count - layout.prefix
    prefix, grid = np.arange(layout.prefix), [layout.prefix + random.permutation(patches) for _ in range(ROWS_TOGETHER)]
    kept = np.stack([np.concatenate([prefix, np.sort(order[: patches // 2])]) for order in grid])
    alone = np.concatenate([embed(row[None]) for row in kept])
    for count in range(2, ROWS_TOGETHER + 1):
        _require_equal(embed(kept[:count]), alone[:count], "a pass depends on the others that run with it")


def _require_places(
    stem: Callable[[np.ndarray], np.ndarray],
    layout: TokenLayout,
    picture: np.ndarray,
    channels_last: bool,
    random: np.random.Generator,
) -> None:
    """Change every other patch at random: these tokens must change, and no others."""
    changed = random.random((layout.rows, layout.columns)) < 0.5
    height, width = picture.shape[1:3] if channels_last else picture.shape[2:]
    pixels = np.kron(changed, np.ones((height // layout.rows, width // layout.columns)))
    other = picture + (pixels[None, :, :, None] if channels_last else pixels[None, None]).astype(np.float32)
    differs = np.abs(stem(other) - stem(picture))[0].max(1) > 0
    if differs[: layout.prefix].any() or not np.array_equal(differs[layout.prefix :], changed.ravel()):
        raise ExportError("its tokens do not follow the patches row by row, after those of no place")


def _require_readout(readout: Callable[[np.ndarray], np.ndarray], tokens: np.ndarray, prefix: int) -> None:
    """The same tokens twice, with or without the prefix, must give one embedding. tokens: (1, K, D), after the blocks"""
    expected, grid = readout(tokens), tokens[:, prefix:]
    doubled = [np.concatenate([tokens, more], axis=1) for more in (grid, tokens)]
    if not any(_equal(readout(t), expected) for t in doubled):
        raise ExportError("what is read from its tokens depends on how many there are")
    back = np.concatenate([tokens[:, :prefix], grid[:, ::-1]], axis=1)
    _require_equal(readout(back), expected, "what is read from its tokens depends on their order")


def _attending(blocks: LightGraph, tokens: np.ndarray, kept: np.ndarray) -> np.ndarray:
    """Return the kept tokens after all blocks, which see all of them and attend to the kept ones alone: (1, K, D)."""
    hidden = np.full(len(tokens), UNSEEN, np.float32)
    hidden[kept] = 0
    return _only(blocks.runner(), {_input(blocks): tokens[None], HIDDEN_INPUT: hidden})[:, kept]


def _taking(runner: LightRunner, tokens: np.ndarray) -> Callable[[np.ndarray], np.ndarray]:
    return lambda kept: _only(runner, {TOKENS_INPUT: tokens, KEPT_INPUT: kept[None]})


def _only(runner: LightRunner, feeds: dict[str, np.ndarray]) -> np.ndarray:
    try:
        (found,) = runner.run(feeds).values()
    except ExportError as error:
        raise ExportError(f"its graph does not run on some of its tokens ({error})") from error
    return found


def _require_equal(got: np.ndarray, expected: np.ndarray, fault: str) -> None:
    if not _equal(got, expected):
        raise ExportError(fault)


def _equal(got: np.ndarray, expected: np.ndarray) -> bool:
    return got.shape == expected.shape and float(np.abs(got - expected).max()) <= TOKEN_TOLERANCE * float(
        np.abs(expected).max()
    )


def _input(light: LightGraph) -> str:
    return light.model.graph.input[0].name
