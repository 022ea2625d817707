"""Tokens: which of a vision transformer's tokens are left out in each pass (docs/method.md, Tokens)."""

import dataclasses
from typing import ClassVar

import numpy as np

from engine.errors import OptionError
from engine.methods.rise import hadamard
from engine.protocol import LARGEST_PLAN, random_words, require_arrays, require_seed, require_whole
from engine.saliency.designs import TokenDesign
from engine.saliency.stopping import AUTO
from kernels.segments import SegmentRenderer

CELLS_ABOVE = 150
"""Above so many tokens, cells of CELL x CELL are left out together: single ones would need as many passes as tokens."""
CELL = 2
PARTS = {0.5: 2, 0.25: 4}
"""By the share of tokens that is kept: into how many parts they are divided, one for each pass of a group."""
FIRST_LOOK, STEP = 192, 64
"""128 passes are a whole block of halves of 64 tokens: orthogonal, so that noise looks as effects do. Where passes are
fewer than what they ask about, the noise falls faster than 1 / passes: what that predicts would be too many."""


@dataclasses.dataclass(frozen=True, eq=False)
class TokenPlan:
    """Tokens that are kept or left out.

    kept: (N, rows, columns) bool, True if the token is kept; each pass keeps as many
    parts: so many passes after one another keep different tokens: 2 or 4
    Raises OptionError for other shapes or values.
    """

    kept: np.ndarray
    parts: int

    def __post_init__(self) -> None:
        require_arrays(kept=self.kept)
        if self.kept.dtype != bool or self.kept.ndim != 3 or not self.kept.size:
            raise OptionError(f"a plan's kept must be bool (N, rows, columns), got {self.kept.dtype} {self.kept.shape}")
        if self.parts not in PARTS.values():
            raise OptionError(f"a plan's parts must be one of {', '.join(map(str, PARTS.values()))}, got {self.parts!r}")
        counts = self.kept.sum((1, 2))
        if not counts[0] or (counts != counts[0]).any():
            raise OptionError("every pass of a plan must keep as many tokens, and one at the least")

    def __len__(self) -> int:
        return len(self.kept)

    def first(self, count: int) -> "TokenPlan":
        """Return the plan of the first `count` passes."""
        return TokenPlan(self.kept[:count], self.parts)

    def patches(self, start: int, stop: int) -> np.ndarray:
        """Return the indices of the tokens that passes start..stop keep, row by row: (n, K) int64, ascending."""
        rows = self.kept[start:stop].reshape(stop - start, -1)
        return np.nonzero(rows)[1].reshape(stop - start, -1)

    def design(self, size: tuple[int, int]) -> TokenDesign:
        """Return what the regression knows of the passes. size: (H, W) of the picture"""
        return TokenDesign(self.kept, self.parts, size)

    def renderer(self, height: int, width: int) -> SegmentRenderer:
        """Return what draws the tokens that are kept as masks over height x width pixels."""
        return SegmentRenderer(self._token_of_pixel(height, width), self.kept.reshape(len(self), -1))

    def maps(self, scores: np.ndarray, height: int, width: int) -> np.ndarray:
        """(N, R) scores y -> (R, H, W) float32 maps: the mean score of the passes that keep a token, less that of all.

        A token that no pass keeps has saliency 0.
        """
        shown = self.kept.reshape(len(self), -1).astype(np.float64)
        times = shown.sum(0)[:, None]
        means = np.divide(
            shown.T @ (scores - scores.mean(0)), times, out=np.zeros((len(times), scores.shape[1])), where=times > 0
        )
        return means.T[:, self._token_of_pixel(height, width)].astype(np.float32)

    def _token_of_pixel(self, height: int, width: int) -> np.ndarray:
        rows, columns = self.kept.shape[1:]
        return (np.arange(height) * rows // height)[:, None] * columns + np.arange(width) * columns // width


@dataclasses.dataclass(frozen=True)
class Tokens:
    """Leave tokens out of a vision transformer (docs/method.md, Tokens). Needs a bundle with the graphs of tokens.

    masks: passes over the picture; "auto": from 192 to 1024, until the map's estimated correlation with its limit is .97
    kept: share of the tokens that a pass keeps, 0.5 or 0.25; the others are left out by a pass of the same group
    seed: 0..2^64-1; the same seed leaves out the same tokens, and fewer passes are the first of more

    Raises OptionError for values out of range.
    """

    masks: int | str = "auto"
    kept: float = 0.5
    seed: int = 0

    name: ClassVar[str] = "tokens"
    baseline: ClassVar[str] = "none"
    estimator: ClassVar[str] = "regression"
    ends_early: ClassVar[bool] = True
    enough: ClassVar[float | None] = 0.97
    first_look: ClassVar[int] = FIRST_LOOK
    step: ClassVar[int | None] = STEP

    def __post_init__(self) -> None:
        if isinstance(self.kept, bool) or self.kept not in PARTS:
            raise OptionError(f"kept must be one of {', '.join(map(str, PARTS))}, got {self.kept!r}")
        if self.masks != "auto":
            require_whole("masks", self.masks, PARTS[self.kept], LARGEST_PLAN)
        require_seed(self.seed)

    @property
    def automatic(self) -> bool:
        """Whether the stopping rule decides how many passes are enough."""
        return self.masks == "auto"

    @property
    def most_masks(self) -> int:
        """The number of passes of the plan: at most so many are run."""
        return self.masks if isinstance(self.masks, int) else AUTO[1]

    def plan(self, rows: int, columns: int) -> TokenPlan:
        """Return the plan for rows x columns tokens. Raises OptionError if there are too few of them."""
        parts = PARTS[self.kept]
        if rows * columns < 2 * parts:
            raise OptionError(
                f"method tokens needs at least {2 * parts} tokens to keep {self.kept} of, got {rows} x {columns}"
            )
        labels = draw_parts(self.seed, -(-self.most_masks // parts), parts, rows, columns)
        kept = labels[:, None] == np.arange(parts)[:, None, None]  # (groups, parts, rows, columns)
        return TokenPlan(kept.reshape(-1, rows, columns)[: self.most_masks], parts)


def draw_parts(seed: int, groups: int, parts: int, rows: int, columns: int) -> np.ndarray:
    """Divide the tokens into `parts` equal parts, `groups` times: (groups, rows, columns) int, -1 for what is left over.

    A block of groups is a Hadamard matrix of order h: its columns are permuted, and one is kept for each token, or cell of
    tokens. A row divides them in halves, and two rows in quarters; where parts are not equal, tokens move at random. Cells
    are shifted by up to a token, around the borders.

    The randomness is raw Philox words (key = seed), cut into 32-bit halves, low half first. Each block takes h halves whose
    order permutes the columns, as many as it has groups whose order permutes these, and for each group two that shift the
    cells and one for each token, whose order says which move.
    """
    cell = CELL if rows * columns > CELLS_ABOVE else 1
    cells = (-(-rows // cell), -(-columns // cell))
    order = _order(cells[0] * cells[1], parts)
    divisions = _divisions(order, parts)  # (g, h)
    size, each = len(divisions), 2 + rows * columns
    words = (order + size * (1 + each) + 1) // 2
    blocks = []
    for block in random_words(seed, -(-groups // size), words).view("<u4").astype(np.int64):
        chosen = np.argsort(block[:order], kind="stable")[: cells[0] * cells[1]]
        at = np.argsort(block[order : order + size], kind="stable")
        own = block[order + size : order + size * (1 + each)].reshape(size, each)
        for division, halves in zip(divisions[at][:, chosen], own, strict=True):
            fine = np.kron(division.reshape(cells), np.ones((cell, cell), np.int64))[:rows, :columns]
            shifted = np.roll(fine, tuple(halves[:2] * cell >> 32), (0, 1))
            blocks.append(balanced(shifted.ravel(), halves[2:], parts))
    return np.stack(blocks[:groups]).reshape(groups, rows, columns)


def balanced(labels: np.ndarray, keys: np.ndarray, parts: int) -> np.ndarray:
    """Return labels (T,) of which each occurs T // parts times; those with the largest keys (T,) change, or become -1."""
    wanted, result = len(labels) // parts, labels.copy()
    order = np.argsort(keys, kind="stable")
    surplus = []
    for part in range(parts):
        surplus += order[labels[order] == part][wanted:].tolist()
    result[surplus] = -1
    missing = [part for part in range(parts) for _ in range(wanted - int((result == part).sum()))]
    result[sorted(surplus, key=lambda token: keys[token])[: len(missing)]] = missing
    return result


def _order(cells: int, parts: int) -> int:
    """Return the least power of two, and of four for quarters, that is not below the number of cells."""
    bits = max((cells - 1).bit_length(), 2)
    return 1 << (bits + bits % 2 if parts == max(PARTS.values()) else bits)


def _divisions(order: int, parts: int) -> np.ndarray:
    """Return divisions of h = `order` columns into equal parts, whose contrasts are orthogonal: (g, h) int.

    Halves: a row of the Hadamard matrix each. Quarters: two rows each, a and w a, where w multiplies each base-4 digit in
    the field of four elements: then a, w a and their product are three rows, and no two groups share one. The row of index 0
    divides nothing: there all tokens move at random.
    """
    rows = 1 - hadamard(order).astype(np.int64)
    if parts == 2:
        return rows
    times = np.array([0, 2, 3, 1])
    index, places = np.arange(order), 2 * np.arange(order.bit_length() // 2)
    product = (times[(index[:, None] >> places) & 3] << places).sum(1)  # w a for every a
    least = index[(index <= product) & (index <= product[product])]  # one of a, w a, w^2 a
    return 2 * rows[least] + rows[product[least]]
