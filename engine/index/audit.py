"""Why does a catalogue match as it does? What matches share beside chance, and where the maps of all of them lie.

(docs/method.md, What a catalogue matches by)
"""

from collections.abc import Mapping, Sequence

import numpy as np

from engine.attributes.table import AttributeTable
from engine.errors import OptionError
from engine.index.audit_queries import AskedRow, RowAsker
from engine.index.audited import LEAST_TIMES, Audit, AuditedGroup, MeanInterval, RegionWeight, SharedAttribute
from engine.index.explaining import RowExplainer
from engine.index.regions import BACKGROUND, CENTRE, REGION_SIDE, regions
from engine.index.searching import RowSearch
from engine.protocol import Progress

LEAST_QUERIES = 10
"""Fewer say nothing of a group."""
POOL = 256
"""Random rows that chance is measured with."""
LEAST_AREA = 0.05
"""A smaller background says nothing."""
MOST_GROUPS, EXAMPLES = 40, 3
ALL = "all pictures"


def audit_rows(
    explainers: tuple[RowExplainer, RowExplainer],
    search: RowSearch,
    names: Mapping[int, str],
    options: tuple[int, int, int],
    progress: Progress,
) -> Audit:
    """Return what random rows and their best matches say. Raises OptionError for too few rows.

    explainers: with maps of REGION_SIDE, and with those of the examples; search: among the rows; names: their ids by place
    options: rows to ask, matches of each, and the seed of both
    """
    sample, k, seed = options
    if len(names) < LEAST_QUERIES:
        raise OptionError(f"an audit needs {LEAST_QUERIES} rows or more, the index has {len(names)}: add pictures")
    order = np.random.default_rng(seed).permutation(sorted(names))
    strangers = order[::-1][:POOL].tolist()
    pool = search.read(strangers, [names[place] for place in strangers])
    asker, asked, chosen = RowAsker(*explainers, search, names, k, pool), [], order[:sample].tolist()
    for number, place in enumerate(chosen):
        progress(number, len(chosen))
        found = asker.asked(place)
        asked += [] if found is None else [found]
    progress(len(chosen), len(chosen))
    if len(asked) < LEAST_QUERIES:
        raise OptionError(f"{len(asked)} of the rows asked have a match that is no near-duplicate: ask more with --sample")
    table = explainers[0].model.bundle.attributes
    return Audit(
        rows=len(names),
        queries=len(asked),
        k=k,
        seed=seed,
        duplicates=sum(one.duplicates for one in asked),
        unreadable=sum(one.small is None for one in asked),
        attributes=_shared(table, asked),
        groups=_groups(asker, asked, _members(table, names, asked)),
        steadiness=MeanInterval.of(np.array([one.steady for one in asked])),
        random_steadiness=MeanInterval.of(np.array([one.random_steady for one in asked])),
    )


def _shared(table: AttributeTable | None, asked: Sequence[AskedRow]) -> tuple[SharedAttribute, ...]:
    if table is None:
        return ()
    shared, chance = np.array([one.shared for one in asked]), np.array([one.chance for one in asked])
    found = [
        SharedAttribute(
            name, float(ours.mean()), float(by_chance.mean()), MeanInterval.of(ours - by_chance, len(table.names))
        )
        for name, ours, by_chance in zip(table.names, shared.T, chance.T, strict=True)
    ]
    return tuple(sorted(found, key=lambda one: -one.more.low))


def _members(table: AttributeTable | None, names: Mapping[int, str], asked: Sequence[AskedRow]) -> dict[str, list[AskedRow]]:
    """Return the rows of each folder, and those that each attribute is true of: the largest MOST_GROUPS."""
    found: dict[str, list[AskedRow]] = {}
    for one in asked:
        folder = names[one.place].rpartition("/")[0]
        true = [] if table is None else [table.names[a] for a in np.flatnonzero(one.confidences >= table.threshold)]
        for group in (*([f"folder {folder}"] if folder else []), *(f"attribute {name}" for name in true)):
            found.setdefault(group, []).append(one)
    large = sorted(found, key=lambda name: -len(found[name]))[:MOST_GROUPS]
    return {name: found[name] for name in large if LEAST_QUERIES <= len(found[name]) < len(asked)}


def _groups(asker: RowAsker, asked: list[AskedRow], members: dict[str, list[AskedRow]]) -> tuple[AuditedGroup, ...]:
    tests = (1 + len(members)) * (len(regions()) + 1)
    overall = _weights(asked, tests, {})
    beside = {weight.region: weight.times.mean for weight in overall}
    first = _group(asker, ALL, asked, overall)
    others = [_group(asker, name, chosen, _weights(chosen, tests, beside)) for name, chosen in members.items()]
    return first, *sorted(others, key=lambda group: -max((r.times.mean for r in group.found), default=0))


def _group(asker: RowAsker, name: str, chosen: Sequence[AskedRow], weights: tuple[RegionWeight, ...]) -> AuditedGroup:
    maps = [one.where for one in chosen if one.where is not None]
    pictures = [one.small for one in chosen if one.small is not None]
    found = max((weight for weight in weights if weight.stands_out), key=lambda w: w.times.mean, default=None)
    shown = [one for one in chosen if one.small is not None] if found is not None or name == ALL else []
    if found is not None:
        shown = sorted(shown, key=lambda one: -np.nan_to_num(_times(one, found.region)))
    return AuditedGroup(
        name,
        len(chosen),
        weights,
        np.mean(maps, axis=0).astype(np.float32) if maps else np.zeros((REGION_SIDE, REGION_SIDE), np.float32),
        np.rint(np.mean(pictures, axis=0)).astype(np.uint8) if pictures else None,
        tuple(asker.example(one) for one in shown[:EXAMPLES]),
    )


def _times(one: AskedRow, region: str) -> float:
    """Return what raises the similarity in a region as a share of all that does, over its area; NaN: not known."""
    cells = one.behind if region == BACKGROUND else regions()[region]
    if one.where is None or cells is None or cells.mean() < LEAST_AREA:
        return float("nan")
    return float((one.where * cells).mean() / cells.mean())


def _weights(asked: Sequence[AskedRow], tests: int, beside: Mapping[str, float]) -> tuple[RegionWeight, ...]:
    """Return how much each region counts. beside: how many times its area each counts in all pictures; {} for these"""
    found = []
    for name in (*regions(), BACKGROUND):
        every = [(one, value) for one in asked if np.isfinite(value := _times(one, name))]
        if len(every) < LEAST_QUERIES:
            continue
        times = MeanInterval.of(np.array([value for _, value in every]), tests)
        cells = [one.behind if name == BACKGROUND else regions()[name] for one, _ in every]
        least = 1.0 if name == BACKGROUND else LEAST_TIMES
        if beside:
            least = max(least, LEAST_TIMES * beside.get(name, 1.0))
        area = float(np.mean([c.mean() for c in cells if c is not None]))
        found.append(RegionWeight(name, len(every), area, times, name != CENTRE and times.low > least))
    return tuple(found)
