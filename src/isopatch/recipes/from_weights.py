"""Which model a set of weights holds, where nobody named it."""

from __future__ import annotations

from isopatch.errors import UsageError
from isopatch.training.config import ModelNode


def model_of_weights(source: str) -> ModelNode:
    """Return the model node of whatever `isopatch.load` opens; the class count is left out: it is the data's.

    Raises UsageError where the weights do not say, IsopatchError where they are damaged.
    """
    from isopatch.models.load import load  # torch, and the weights themselves: only when nobody says the name

    try:
        stored = load(source).spec
    except UsageError as error:
        raise UsageError(f"weights: {error}; --model NAME says which model a file holds") from None
    arguments = {key: value for key, value in stored.arguments.items() if key != "num_classes"}
    return ModelNode.model_validate({"name": stored.name, **arguments})
