"""What a study calls things outside its folder: levels, cells and runs, without paths of the machine.

In the folder a level is called as it was declared, so `data: [digits, /home/ann/pictures]` has a level with a
path, and a cell and runs named after it. On the page and in the export it is `pictures`.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from isopatch.study.cells import slugs
from isopatch.study.planned import Plan
from isopatch.study.schema import level_name

# A path at the start of a value, or after "," "=" ":", as in NAME=FILE; "//" is a web address.
_PATH = re.compile(r"(^|[,=:])(?!//)((?:~[^/,\n]*|\.{1,2})?/[^,\n]*)")
_IN_TEXT = re.compile(r"(?<![\w/.~])(?!//)(?:~\w*|\.{1,2})?/[^\s,;:'\"()]+")
SENTENCES = ("question", "paper", "hypotheses")  # of a study.yaml: their words are no names


class PublicNames:
    """Names in the folder -> names outside it, all different; nothing is renamed where there are no paths."""

    def __init__(self, texts: Mapping[str, str] | None = None, ids: Mapping[str, str] | None = None) -> None:
        """texts: values and levels; ids: cells and runs."""
        self._whole = {**(texts or {}), **(ids or {})}
        # Within sentences: a path that is no part of a longer one, a name that is no part of another.
        self._within = [
            re.compile(rf"(?<![{before}])(?:{'|'.join(map(re.escape, _longest_first(names)))})(?![{after}])")
            for names, before, after in ((texts, r"\w.~/-", r"\w/-"), (ids, r"\w-", r"\w-"))
            if names
        ]

    @classmethod
    def of(cls, plan: Plan, declared: Mapping[str, Any]) -> PublicNames:
        """Return the names of a planned study; declared: its study.yaml."""
        settings = {key: part for key, part in declared.items() if key not in SENTENCES}
        sides = [(claim["better"], claim["worse"]) for claim in declared.get("hypotheses") or ()]
        strings = [*_strings([settings, sides]), *(level for run in plan for level in run.levels.values())]
        texts = _distinct(strings)
        cells = {run.cell: dict(run.levels) for run in plan if not run.before}
        public = slugs(
            [{name: texts.get(level, level) for name, level in levels.items()} for levels in cells.values()]
        )
        of_cell = dict(zip(cells, public, strict=True))
        ids = {**of_cell, **{run.id: f"{of_cell[run.cell]}-seed{run.seed}" for run in plan if not run.before}}
        return cls(texts, {name: new for name, new in ids.items() if name != new})

    def __call__(self, value: Any) -> Any:
        """Return a value with its names replaced, however deep, keys of mappings too."""
        if isinstance(value, Mapping):
            return {self(key): self(inner) for key, inner in value.items()}
        if isinstance(value, list | tuple):
            return type(value)(self(inner) for inner in value)
        if not isinstance(value, str):
            return value
        if value in self._whole:
            return self._whole[value]
        for pattern in self._within:
            value = pattern.sub(lambda found: self._whole[found[0]], value)
        return value


def without_paths(value: Any) -> Any:
    """Replace absolute paths by their last part: what is passed on tells no paths."""
    if isinstance(value, Mapping):
        return {without_paths(key): without_paths(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [without_paths(inner) for inner in value]
    return _PATH.sub(lambda found: found[1] + _last(found[2]), value) if isinstance(value, str) else value


def told_without_paths(text: str) -> str:
    """Cut every path within a sentence to its last part."""
    return _IN_TEXT.sub(lambda found: _last(found[0]), text)


def _last(path: str) -> str:
    return Path(path).name or path


def _strings(value: Any) -> Iterator[str]:
    """All values and keys, and levels by their names, which lists have too."""
    if isinstance(value, Mapping):
        for key, inner in value.items():
            yield str(key)
            yield from _strings(inner)
    elif isinstance(value, list | tuple):
        yield level_name(value)
        for inner in value:
            yield from _strings(inner)
    elif isinstance(value, str):
        yield value


def _distinct(strings: Iterable[str]) -> dict[str, str]:
    """path -> its last part, with a number where that is taken by another."""
    found = list(dict.fromkeys(strings))
    taken = {text for text in found if without_paths(text) == text}
    names: dict[str, str] = {}
    for text in found:
        if text not in taken:
            name = str(without_paths(text))
            numbered = (f"{name}.{number}" for number in itertools.count(2))
            names[text] = next(each for each in itertools.chain([name], numbered) if each not in taken)
            taken.add(names[text])
    return names


def _longest_first(names: Iterable[str]) -> list[str]:
    return sorted(names, key=len, reverse=True)
