"""Every explanation there is, in the order in which a page shows them: of the weights, then of pictures."""

from __future__ import annotations

from collections.abc import Sequence
from importlib import import_module
from importlib.util import find_spec

from isopatch.errors import UsageError, nearest
from isopatch.explain.contract import Explanation
from isopatch.explain.of_pictures import EXPLANATIONS as OF_PICTURES

OF_WEIGHTS: tuple[Explanation, ...] = ()
if find_spec("isopatch.explain.of_weights") is not None:  # written beside this; the merge imports it plainly
    OF_WEIGHTS = import_module("isopatch.explain.of_weights").EXPLANATIONS

EXPLANATIONS: tuple[Explanation, ...] = (*OF_WEIGHTS, *OF_PICTURES)


def find(names: Sequence[str]) -> list[Explanation]:
    """Return the explanations of these names, each once; raises UsageError for an unknown one."""
    known = {explanation.name: explanation for explanation in EXPLANATIONS}
    for name in names:
        if name not in known:
            raise UsageError(
                f"'{name}' is no explanation{nearest(name, known)}; there are {', '.join(known)}"
            )
    return [known[name] for name in dict.fromkeys(names)]
