"""How a recipe fits the model it is given: sizes it reads, arguments it sets where the model has them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from isopatch.models import spec
from isopatch.training.config import ModelNode

Notes = list[str]
"""Sentences a recipe has to say about this run; they are printed once, before it starts."""

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
HALF = (0.5, 0.5, 0.5)


def arguments_of(model: ModelNode) -> dict[str, Any]:
    """Return the arguments the model would be built with: the table's, then those given."""
    return {**spec.resolve(model.name).arguments, **model.arguments}


def accepts(model: ModelNode, key: str, value: Any) -> bool:
    """Return whether the model's architecture takes the argument `key` with this value."""
    problems = spec.check_arguments(model.name, {**model.arguments, key: value})
    return not any(problem.startswith(f"model.{key}:") for problem in problems)


def with_arguments(model: ModelNode, recipe: str, notes: Notes, wanted: Mapping[str, Any]) -> ModelNode:
    """Return the model with the recipe's arguments, except those the user gave or the architecture lacks.

    What is left out is said in `notes`, in one sentence.
    """
    arguments = model.arguments
    left_out = []
    for key, value in wanted.items():
        if key in arguments:
            continue
        if accepts(model, key, value):
            arguments[key] = value
        else:
            left_out.append(f"{key} {value}")
    if left_out:
        notes.append(
            f"recipe {recipe} also sets {', '.join(left_out)}, for which {model.name} has no part: left out"
        )
    return ModelNode.model_validate({"name": model.name, **arguments})


def fitting_batch(wanted: int, pictures: int) -> int:
    """Return an even batch size, at most `wanted`, that gives few pictures four steps an epoch or more."""
    return max(2, min(wanted, pictures // 4 // 2 * 2))
