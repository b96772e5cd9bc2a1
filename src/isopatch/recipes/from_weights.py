"""Which model a set of weights holds, where nobody named it."""

from __future__ import annotations

from pathlib import Path

from isopatch.errors import UsageError
from isopatch.models.spec import ModelSpec
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
    return _node(stored)


def stored_model(source: str) -> ModelNode | None:
    """Return the model node written beside weights of ours; None for other people's, and for hub ids.

    Raises IsopatchError where the files are damaged, UsageError where there are none.
    """
    from isopatch.models.locate import locate
    from isopatch.models.native import read_spec

    folder = locate(source).folder if Path(source).exists() else None
    return None if folder is None else _node(read_spec(folder))


def _node(stored: ModelSpec) -> ModelNode:
    arguments = {key: value for key, value in stored.arguments.items() if key != "num_classes"}
    return ModelNode.model_validate({"name": stored.name, **arguments})
