"""Every explanation there is, in the order in which a page shows them: of the weights, then of pictures."""

from __future__ import annotations

from collections.abc import Sequence

from isopatch.errors import UsageError, nearest
from isopatch.explain.contract import Explanation
from isopatch.explain.of_pictures import EXPLANATIONS as OF_PICTURES
from isopatch.explain.of_weights import EXPLANATIONS as OF_WEIGHTS

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
