"""The settings of two implementations side by side: what explains a difference between their logits."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from torch import nn

from isopatch.image.contract import InputContract

# Classes of other projects that are no torch class: by name, so that nothing has to be imported.
_ACTIVATIONS = {
    "ReLU": "relu",
    "GELUTanh": "gelu_tanh",
    "GELUActivation": "gelu",
    "NewGELUActivation": "gelu_tanh",
    "PytorchGELUTanh": "gelu_tanh",
}
_INPUT = ("height", "width", "resize", "interpolation", "crop_fraction", "mean", "std")


def of_modules(blocks: nn.Module, model: nn.Module) -> dict[str, Any]:
    """Return activation, LayerNorm eps and GroupNorm eps as the modules of a model have them.

    blocks: where the activation is looked for (a hybrid's stem has another).
    """
    activations = {name for module in blocks.modules() if (name := activation(module)) is not None}
    return {
        "activation": _one(activations),
        "LayerNorm eps": _one(m.eps for m in model.modules() if isinstance(m, nn.LayerNorm)),
        "GroupNorm eps": _one(m.eps for m in model.modules() if isinstance(m, nn.GroupNorm)),
    }


def activation(module: nn.Module) -> str | None:
    """Return the name of an activation module, None for any other."""
    if isinstance(module, nn.GELU):
        return "gelu" if module.approximate == "none" else "gelu_tanh"
    return _ACTIVATIONS.get(type(module).__name__)


def of_heads(count: int) -> str:
    """Say how a model's heads become one result."""
    return "one head" if count == 1 else f"mean of {count} heads' logits"


def of_input(contract: InputContract) -> dict[str, Any]:
    """Return the settings by which pictures are prepared."""
    values = contract.to_json()
    return {f"input {key}": values[key] for key in _INPUT}


def side_by_side(ours: Mapping[str, Any], theirs: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return one row per setting that either side says: setting, ours, theirs, differs.

    What one side does not say (None) does not differ.
    """
    rows = []
    for key in dict.fromkeys((*ours, *theirs)):
        mine, other = ours.get(key), theirs.get(key)
        if mine is not None or other is not None:
            differs = mine is not None and other is not None and mine != other
            rows.append({"setting": key, "ours": mine, "theirs": other, "differs": differs})
    return rows


def _one(values: Iterable[Any]) -> Any:
    """The one value; a list where modules differ; None where there are none."""
    found = sorted(set(values))
    return None if not found else found[0] if len(found) == 1 else found
