"""Renaming state-dict keys both ways by short rules."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from torch import Tensor

from isopatch.errors import IsopatchError

State = dict[str, Tensor]
Rules = Sequence[tuple[str, str]]


def rename(state: Mapping[str, Tensor], rules: Rules) -> State:
    """Rename keys by rules (theirs, ours); keys that no rule knows keep their name.

    In a rule `{i}` and `{j}` stand for numbers and a trailing `.*` for weight, bias or any other leaf; both
    sides carry the same ones. Keys that stay unknown show up as unexpected in the comparison with the model.
    Raises IsopatchError when two keys would get one name.
    """
    compiled = [(_pattern(theirs), ours) for theirs, ours in rules]
    renamed: State = {}
    for key, tensor in state.items():
        name = key
        for pattern, target in compiled:
            found = pattern.fullmatch(key)
            if found:
                parts = found.groupdict(default="")
                name = target.replace("{i}", parts.get("i", "")).replace("{j}", parts.get("j", ""))
                name = name.replace("*", parts.get("leaf", ""))
                break
        if name in renamed:
            raise IsopatchError(f"two tensors of the file both mean {name} (one of them is {key})")
        renamed[name] = tensor
    return renamed


def reverse(rules: Rules) -> list[tuple[str, str]]:
    """Return the rules for the way back."""
    return [(ours, theirs) for theirs, ours in rules]


def _pattern(rule: str) -> re.Pattern[str]:
    body = re.escape(rule)
    for mark, group in (("{i}", r"(?P<i>\d+)"), ("{j}", r"(?P<j>\d+)"), ("*", r"(?P<leaf>\w+)")):
        body = body.replace(re.escape(mark), group)
    return re.compile(body)
