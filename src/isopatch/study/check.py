"""What must be right between the keys of a study: levels that exist, references that lead somewhere, claims
that can be tested."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping
from typing import Any

from isopatch.errors import nearest
from isopatch.study.cells import all_cells, cells, matches
from isopatch.study.references import referred
from isopatch.study.schema import BEST, Hypothesis, Levels, Settings, Study, level_name, named
from isopatch.study.shortcuts import KEYS, flat, key_problem

BEFORE_SEEDS = "seeds"
DECIDED = {
    "seed": "the study's seeds say it",
    "epochs": "the study's equal says how long runs are",
    "steps": "the study's equal says how long runs are",
}


def problems_of(study: Study) -> list[str]:
    """Return everything that is wrong, one line each."""
    problems: list[str] = []
    _settings(study.base, "base", problems)
    _factors(study, problems)
    _seeds(study, problems)
    if problems:  # what refers to levels would repeat each of these
        return [*problems, *_before(study)]
    problems += _cells(study)
    problems += _match(study)
    present = cells(study)
    for number, hypothesis in enumerate(study.hypotheses, start=1):
        told = [*_compared(study, hypothesis, present), *_measured(study, hypothesis)]
        problems += [f"hypotheses {number}: {problem}" for problem in told]
    return problems + _before(study)


def inherited(study: Study, name: str) -> tuple[Settings, str]:
    """Return a `before` run's settings, with what it takes from base, and "each" or "one": its seeds."""
    own = dict(study.before[name])
    seeds = str(own.pop(BEFORE_SEEDS, "each"))
    base = flat(study.base, [], "base")
    machine = ("threads", "kernels", "precision", "device")
    taken = {key: value for key, value in base.items() if key.startswith("data.") or key in machine}
    return {**taken, **flat(own, [], name)}, seeds


def _settings(settings: Settings, where: str, problems: list[str], *, length: bool = False) -> None:
    found = flat(settings, problems, where)
    for key, why in DECIDED.items():
        if key in found and not (length and key != "seed"):
            problems.append(f"{where}: {key} cannot be set here: {why}")
    if str(found.get("distill.teacher", "")) == "auto":
        problems.append(f'{where}: teacher auto: name a run under before and refer to it, as "@teacher"')


def _factors(study: Study, problems: list[str]) -> None:
    for factor, levels in study.factors.items():
        where = f"factors.{factor}"
        if not levels:
            problems.append(f"{where}: has no levels")
            continue
        plain = isinstance(levels, list) or any(not isinstance(value, dict) for value in levels.values())
        problem = key_problem(factor) if plain else None
        if problem is not None:
            problems.append(f"{where}: {problem}; a factor of another name has named levels, each a mapping")
            continue
        names = [level_name(level) for level in levels]
        problems += [f"{where}: level {name} is given twice" for name in _repeated(names)]
        if isinstance(levels, list) and any(isinstance(level, Mapping) for level in levels):
            problems.append(f"{where}: levels that are mappings need names: write 'name: {{...}}' lines")
            continue
        for name, settings in study.factor_levels[factor].items():
            _settings(settings, f"{where}.{name}", problems)
    if not problems:
        _overlaps(study, problems)


def _overlaps(study: Study, problems: list[str]) -> None:
    """Two factors that set one key: whichever came last would win, and the other would do nothing."""
    keys = {
        factor: {key for settings in levels.values() for key in flat(settings, [], factor)}
        for factor, levels in study.factor_levels.items()
    }
    for first, second in itertools.combinations(keys, 2):
        for key in sorted(keys[first] & keys[second]):
            problems.append(f"factors: both {first} and {second} set {key}")


def _seeds(study: Study, problems: list[str]) -> None:
    if not study.seed_list:
        problems.append("seeds: give one at least")
    problems += [f"seeds: {seed} is given twice" for seed in _repeated(study.seed_list)]


def _cells(study: Study) -> list[str]:
    problems: list[str] = []
    for number, cell in enumerate(study.cells or [], start=1):
        problems += _unknown_levels(study, named(cell), f"cells {number}")
        for factor in study.factors.keys() - cell.keys():
            problems.append(f"cells {number}: says nothing about factor {factor}")
    if problems:
        return problems
    everything = all_cells(study)
    if study.cells is not None:
        problems += [f"cells: {text} is given twice" for text in _repeated([_words(c) for c in everything])]
    for number, part in enumerate(study.exclude, start=1):
        found = list(_unknown_levels(study, named(part), f"exclude {number}"))
        if not found and not any(matches(cell, named(part)) for cell in everything):
            found.append(f"exclude {number}: no cell is like that")
        problems += found
    if not problems and not cells(study):
        problems.append("exclude: nothing is left of the study")
    return problems


def _match(study: Study) -> list[str]:
    if study.match is None:
        return []
    like = named(study.match.like)
    if not like:
        return ["match.like: names no level, so nothing would be matched; give those of the reference"]
    problems = list(_unknown_levels(study, like, "match.like"))
    problem = key_problem(study.match.solve)
    if problem is not None:
        problems.append(f"match.solve: {problem}")
    elif not KEYS.get(study.match.solve, study.match.solve).startswith("model."):
        problems.append(f"match.solve: {study.match.solve} is no argument of the model; give model.dim")
    if problems:
        return problems
    present = cells(study)
    missing = [cell for cell in present if {**cell, **like} not in present]
    if missing:
        reference = {**missing[0], **like}
        problems.append(f"match.like: {_words(missing[0])} would be matched to {_words(reference)}, no cell")
    return problems


def _compared(study: Study, hypothesis: Hypothesis, present: list[Levels]) -> list[str]:
    """What keeps two parts of cells from being compared: what is not seen here shows after all the runs."""
    problems: list[str] = []
    blocks: list[set[frozenset[tuple[str, str]]]] = []
    better, worse = named(hypothesis.better), named(hypothesis.worse)
    for side, part in (("better", better), ("worse", worse)):
        found = list(_unknown_levels(study, part, side, best=True))
        known = {factor: level for factor, level in part.items() if level != BEST}
        inside = [cell for cell in present if matches(cell, known)]
        if not found and not inside:
            found.append(f"{side}: the study has no such cell")
        blocks.append({frozenset(item for item in cell.items() if item[0] not in part) for cell in inside})
        problems += found
    if better == worse:
        problems.append("better and worse are the same cells")
    if problems:
        return problems
    apart = sorted(better.keys() ^ worse.keys())
    if apart:
        return [f"better and worse must name the same factors; only one of them names {', '.join(apart)}"]
    if not blocks[0] & blocks[1]:
        return ["no two cells differ in this alone: list one of each side with the same other levels"]
    return []


def _measured(study: Study, hypothesis: Hypothesis) -> list[str]:
    """What is wrong with the figure that is compared, and with how far apart is still equal."""
    from isopatch.study.rows import SHARE, WHOLE  # rows reads studies

    problems = []
    metric = hypothesis.metric
    probe, _, figure = metric.removeprefix("probe.").partition(".")
    if not metric.startswith("probe."):
        columns = [name for name in (*SHARE, *WHOLE) if name != "seed"]
        if metric not in columns:
            problems.append(f"metric: {metric} is no column of the results{nearest(metric, columns)}")
    elif probe not in study.probes:
        declared = ", ".join(study.probes) or "none"
        hint = nearest(probe, study.probes)
        problems.append(f"metric: {metric}: {probe} is not under probes{hint}; there are {declared}")
    elif not figure:
        problems.append(f"metric: {metric}: say which of its figures, as probe.knn.k-10")
    if hypothesis.margin is not None and not 0 < hypothesis.margin < math.inf:
        problems.append(f"margin: {hypothesis.margin:g}: give how far apart is still equal, above 0")
    return problems


def _before(study: Study) -> list[str]:
    problems: list[str] = []
    for name, settings in study.before.items():
        where = f"before.{name}"
        if not name.replace("-", "").isalnum() or not name.isascii() or name.lower() != name:
            problems.append(f"{where}: a name is made of a-z, 0-9 and -")
        own = dict(settings)
        if own.pop(BEFORE_SEEDS, "each") not in ("each", "one"):
            problems.append(f"{where}.seeds: give each (one run per seed of the study) or one")
        _settings(own, where, problems, length=True)
    places = {"base": referred(study.base)}
    places |= {f"before.{name}": referred(settings) for name, settings in study.before.items()}
    places |= {
        f"factors.{factor}.{name}": referred(settings)
        for factor, levels in study.factor_levels.items()
        for name, settings in levels.items()
    }
    for where, names in places.items():
        for name in names - study.before.keys():
            known = ", ".join(study.before) or "none"
            hint = nearest(name, study.before)
            problems.append(f"{where}: @{name} is no run under before{hint}; there are {known}")
    problems += _circles(study)
    return problems


def _circles(study: Study) -> list[str]:
    """`before` runs that wait for each other."""
    left = {name: referred(settings) & study.before.keys() for name, settings in study.before.items()}
    while left:
        ready = [name for name, needed in left.items() if not needed & left.keys()]
        if not ready:
            return [f"before: {', '.join(sorted(left))} wait for each other"]
        for name in ready:
            del left[name]
    return []


def _unknown_levels(study: Study, part: Levels, where: str, *, best: bool = False) -> Iterator[str]:
    for factor, level in part.items():
        levels = study.factor_levels.get(factor)
        if levels is None:
            yield f"{where}: {factor} is no factor{nearest(factor, study.factors)}"
        elif level not in levels and not (best and level == BEST):
            hint = nearest(level, levels)
            yield f"{where}: {factor} has no level {level}{hint}; there are {', '.join(levels)}"


def _repeated(items: list[Any]) -> list[Any]:
    return [item for item, count in {item: items.count(item) for item in items}.items() if count > 1]


def _words(cell: Levels) -> str:
    return ", ".join(f"{factor} {cell[factor]}" for factor in sorted(cell))
