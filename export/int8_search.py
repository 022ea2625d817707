"""Find the int8 graph to write: faithful, with as few nodes in fp32 as that takes; or say which nodes cost what."""

import dataclasses
import itertools
from collections.abc import Sequence

import numpy as np

from export.fidelity import SPEED_SECONDS
from export.graph_trials import PER_TOKEN, TUNING_MASKS, GraphTrials, QuantizedGraph
from export.low_precision import Quantizer, is_transformer

GOAL = 0.9985
"""Map correlation on the tuning pictures that is good enough. Behind half of the report's masks, rounding changes maps about
twice as much: this is .999 in the report, with a margin for other pictures."""
LEAST_GAIN_TO_SEARCH = 1.25
"""With less speed to lose than this, no node can be left in fp32."""
PROBE_PICTURES, PROBE_QUERIES, PROBE_MASKS, PROBE_SEED = 4, 2, 32, 3
"""What the error of each group of nodes is measured on."""
PROBE_SHARE, LEAST_GROUPS = 0.4, 8
"""Share of the search's time for measuring groups of nodes, and the fewest groups."""
NAMED_GROUPS = 3
"""So many of the costliest groups are named."""


@dataclasses.dataclass(frozen=True)
class Found:
    """The outcome. made: the graph to write, None for none; remark: what people should know about it, "" for nothing"""

    made: QuantizedGraph | None
    remark: str = ""


@dataclasses.dataclass(frozen=True)
class _Tried:
    """A graph that was compared. worse: its mean map correlation, or its tenth percentile if that is lower"""

    made: QuantizedGraph
    worse: float


@dataclasses.dataclass(frozen=True)
class _Ranked:
    """What groups of nodes cost. order: of the groups, the costliest first; costs: for people; tried: the fidelity with so
    many of them in fp32
    """

    groups: list[list[str]]
    order: list[int]
    costs: str
    tried: dict[int, float]


class Int8Search:
    """The search for one target. file: of the graph; until: seconds of the keeper's clock at which it ends"""

    def __init__(self, trials: GraphTrials, file: str, target: str, until: float) -> None:
        self._trials, self._keeper = trials, trials.keeper
        self._file, self._target, self._until = file, target, until
        self._goal = GOAL
        self._tried: list[_Tried] = []
        self._build_seconds = 0.0
        self._last: tuple[Quantizer, str] | None = None
        self._ranked: _Ranked | None = None

    def run(self) -> Found:
        """Return the graph to write. Speed is looked at first: what gains nothing needs no calibration and no search."""
        gain = None
        if self._trials.measurable(self._target):
            gain = self._trials.whole_int8_speed()
            self._say(f"{gain:.2f} times as fast as fp32 with all nodes in int8")
            if gain <= 1:
                return Found(None, f"left out, because int8 is only {gain:.2f} times as fast as fp32 on this processor")
        self._last = quantizer, calibration = self._trials.quantizer(self._target, False)
        if self._try(quantizer, calibration, (), gain):
            return self._best()
        if is_transformer(self._trials.model):
            self._last = quantizer, calibration = self._trials.quantizer(self._target, True)
            if self._try(quantizer, calibration, ()):
                return self._best()
        if gain is not None and gain < LEAST_GAIN_TO_SEARCH:
            worse = max(one.worse for one in self._tried)
            return Found(
                None,
                f"left out: int8 is only {gain:.2f} times as fast as fp32, and its maps correlate {worse:.4f} with fp32's "
                f"({GOAL} wanted); leaving nodes in fp32 would undo the gain",
            )
        return self._leave_nodes(quantizer, calibration)

    def again(self, until: float) -> Found:
        """Return a graph of a stricter search, for one that passed the search and not the report. until: as above"""
        if self._last is None:
            return self._best()
        self._goal, self._until = 1 - (1 - self._goal) / 2, until
        self._say(f"the report's pictures are harder: {self._goal:g} wanted now")
        return self._leave_nodes(*self._last)

    def _leave_nodes(self, quantizer: Quantizer, calibration: str) -> Found:
        """Return a faithful graph with the costliest nodes in fp32, or the most faithful one and what the nodes cost."""
        ranked = self._ranked = self._ranked or self._rank(quantizer)
        groups, order, costs = ranked.groups, ranked.order, ranked.costs
        if not order:
            return self._best("the time limit ended the search for nodes to leave in fp32: give a larger --time-limit")
        low = max((n for n, worse in ranked.tried.items() if worse < self._goal), default=0)
        high = len(order)  # so many groups in fp32 are too few, and enough or too slow
        count = (low + high + 1) // 2  # with more nodes in fp32 there is little left to gain
        while low < count < high:
            if self._until - self._keeper.spent < self._try_seconds:
                return self._best(f"the time limit ended the search for nodes to leave in fp32; {costs}")
            kept = [name for i in sorted(order[:count]) for name in groups[i]]
            good = self._try(quantizer, calibration, kept)
            if good is not None:
                ranked.tried[count] = self._tried[-1].worse
            if good is not False:
                high = count
            elif high == len(order):
                break
            else:
                low = count
            count = (low + high) // 2
        return self._best(costs)

    def _rank(self, quantizer: Quantizer) -> "_Ranked":
        """Measure what groups of nodes cost, each alone in int8."""
        groups = self._groups(quantizer.candidates())
        errors = self._errors(quantizer, groups)
        order = sorted(errors, key=lambda i: -errors[i])
        costs = _costs([groups[i] for i in order], [errors[i] for i in order]) if order else ""
        if costs:
            self._say(costs)
        return _Ranked(groups, order, costs, {})

    def _try(self, quantizer: Quantizer, calibration: str, kept: Sequence[str], speed: float | None = None) -> bool | None:
        """Make and compare a graph; say whether it is faithful, None if it is too slow to be compared.

        kept: nodes to leave in fp32; speed: if it was measured before
        """
        began = self._keeper.spent
        model = quantizer.quantized(kept=kept)
        made = self._trials.made(model, self._file, "int8", self._target, calibration, kept)
        self._build_seconds = self._keeper.spent - began
        if speed is None and self._trials.measurable(self._target):
            speed = self._trials.speed(made)
        made = dataclasses.replace(made, speed=speed)
        what = f"{len(kept)} nodes in fp32" if kept else "all nodes in int8"
        what += ", dynamic ranges" if PER_TOKEN in calibration else ""
        if speed is not None and speed <= 1:
            self._say(f"{what}: {speed:.2f} times as fast as fp32, too slow")
            return None
        found = self._trials.agreement(made)
        self._tried.append(_Tried(made, found.worse))
        self._say(f"{what}: map correlation {found.mean:.5f} (nine of ten {found.p10:.5f}), {self._goal:g} wanted")
        return found.worse >= self._goal

    def _best(self, remark: str = "") -> Found:
        """Return the fastest faithful graph that was tried, the one with fewest nodes in fp32 if no speed was measured; if
        none is faithful, the most faithful one. remark: why no better one was found
        """
        faithful = [t for t in self._tried if t.worse >= self._goal]
        if faithful:
            return Found(max(faithful, key=lambda t: (t.made.speed or 0, -len(t.made.kept_fp32))).made, remark)
        if not self._tried:
            return Found(None, f"left out: {remark}")
        return Found(max(self._tried, key=lambda t: t.worse).made, remark)

    def _groups(self, candidates: list[str]) -> list[list[str]]:
        """Cut the candidates into runs of neighbours, as many as there is time to measure."""
        passes = PROBE_PICTURES + PROBE_QUERIES * PROBE_MASKS
        seconds = self._build_seconds + passes * self._trials.pass_seconds
        affordable = int(PROBE_SHARE * (self._until - self._keeper.spent) / seconds)
        count = min(max(affordable, LEAST_GROUPS), len(candidates))
        edges = np.linspace(0, len(candidates), count + 1).astype(int)
        return [candidates[a:b] for a, b in itertools.pairwise(edges)]

    def _errors(self, quantizer: Quantizer, groups: list[list[str]]) -> dict[int, float]:
        """Return the error of the score differences if one group alone is in int8, for each group that there is time for."""
        probe = self._trials.probe(PROBE_PICTURES, PROBE_MASKS, PROBE_SEED)
        errors: dict[int, float] = {}
        with self._keeper.bar(groups, "trying nodes") as shown:
            for i, group in enumerate(shown):
                if self._keeper.spent > self._until:
                    break
                alone = self._trials.made(quantizer.quantized(only=group), "alone.onnx", "int8", "any", "")
                errors[i] = probe.score_error(probe.runs(self._trials.session(alone)), range(PROBE_QUERIES))
        return errors

    @property
    def _try_seconds(self) -> float:
        """Seconds that one more trial takes at most."""
        passes = TUNING_MASKS * len(self._trials.tuning_queries)
        return self._build_seconds + SPEED_SECONDS + passes * self._trials.pass_seconds

    def _say(self, line: str) -> None:
        self._keeper.say(f"int8 for {self._target}: {line}")


def _costs(groups: list[list[str]], errors: list[float]) -> str:
    """Say which nodes change the score differences most. groups, errors: the costliest first"""
    named = [
        f"{group[0]}{f' to {group[-1]} ({len(group)} nodes)' if group[1:] else ''} {error:.2g}"
        for group, error in zip(groups[:NAMED_GROUPS], errors, strict=False)
    ]
    return (
        f"costliest nodes, by the share of the score differences that is wrong if only they are in int8: {', '.join(named)};"
        f" the cheapest of {len(groups)} costs {errors[-1]:.2g}"
    )
