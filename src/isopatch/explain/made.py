"""Run explanations in a context: those that were asked for, or all that the model and the context allow."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass

from isopatch.errors import IsopatchError, UsageError
from isopatch.explain.contract import Context, Explanation, Figure, TooLittle
from isopatch.explain.table import EXPLANATIONS, find
from isopatch.nn.classifier import Classifier

log = logging.getLogger("isopatch")

_WANTED = {
    "pictures": "pictures: give files, or --data DATA --pictures N",
    "data": "a data set: give --data DATA",
    "other": "another model and a data set: give --compare OTHER and --data DATA",
}


@dataclass(frozen=True)
class Made:
    """An explanation and what came of it: figures, or why there are none."""

    explanation: Explanation
    figures: tuple[Figure, ...] = ()
    skipped: str | None = None


def make(context: Context, what: Sequence[str] | None = None) -> list[Made]:
    """Make the explanations named by `what`, or all; why one is left out stands in its place.

    Raises UsageError for an unknown name, and where one asked for by name cannot be made of this model or
    without something that was not given; IsopatchError where the model's output is not finite.
    """
    wanted = EXPLANATIONS if what is None else find(what)
    reasons = [_reason(explanation, context) for explanation in wanted]
    if what is not None:
        for explanation, reason in zip(wanted, reasons, strict=True):
            if reason is not None:
                raise UsageError(f"{explanation.name} of {context.name}: {reason}")
    made = []
    for explanation, reason in zip(wanted, reasons, strict=True):
        if reason is not None:
            made.append(Made(explanation, skipped=reason))
            continue
        log.info("%s ...", explanation.name)
        try:
            made.append(Made(explanation, tuple(explanation.make(context))))
        except TooLittle as error:
            if what is not None:
                raise
            made.append(Made(explanation, skipped=str(error)))
    return made


def _reason(explanation: Explanation, context: Context) -> str | None:
    """Say why an explanation cannot be made, or None."""
    missing = explanation.missing(context.model)
    if missing is not None:
        return missing
    given = {
        "weights": True,
        "pictures": bool(context.pictures),
        "data": context.sample is not None,
        "other": context.other is not None and context.sample is not None,
    }
    return None if given[explanation.needs] else f"needs {_WANTED[explanation.needs]}"


def require_finite(model: Classifier, name: str) -> None:
    """Raise IsopatchError naming the first tensor of a model that holds NaN or an infinity."""
    for key, tensor in model.state_dict().items():
        if tensor.is_floating_point() and not bool(tensor.isfinite().all()):
            raise IsopatchError(f"{name}: its weights are not finite ({key}): there is nothing to explain")
