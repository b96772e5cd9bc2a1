"""What a checkpoint stores about its model, and how a model is made from it. Imports no torch by itself.

The table of names stands in `table.py`; `MODELS`, `resolve` and `list_models` are offered here too. Functions
that need an architecture's signature or build a model import it, and torch with it, when they are called.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from isopatch.errors import UsageError
from isopatch.image.contract import InputContract
from isopatch.models.architectures import architecture_function, architecture_module
from isopatch.models.arguments import NotTaken, check_against, complete
from isopatch.models.entry import ModelEntry as ModelEntry
from isopatch.models.table import ALIASES as ALIASES
from isopatch.models.table import MODELS as MODELS
from isopatch.models.table import list_models as list_models
from isopatch.models.table import resolve as resolve

if TYPE_CHECKING:
    from isopatch.nn.classifier import Classifier

# Pictures up to this many pixels a side are taken whole: a crop would cost what a few pixels show.
SMALL_IMAGE = 64


@dataclass(frozen=True)
class ModelSpec:
    """Everything needed to build a model again, as plain values.

    name: canonical. arguments: complete keyword arguments of the architecture function, JSON values.
    classes: names of the outputs in order, or None where they are not known.
    """

    name: str
    architecture: str
    arguments: dict[str, Any]
    input: InputContract
    classes: tuple[str, ...] | None = None

    def to_json(self) -> dict[str, Any]:
        """Return plain JSON values; the inverse of `from_json`."""
        return {
            "name": self.name,
            "architecture": self.architecture,
            "arguments": dict(self.arguments),
            "input": self.input.to_json(),
            "classes": None if self.classes is None else list(self.classes),
        }

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> ModelSpec:
        """Rebuild a spec from `to_json`'s result; missing or unknown keys raise UsageError."""
        expected = set(cls.__dataclass_fields__)
        if not isinstance(values, Mapping) or set(values) != expected:
            found = sorted(values) if isinstance(values, Mapping) else type(values).__name__
            raise UsageError(f"model description has keys {found}, expected {sorted(expected)}")
        classes = values["classes"]
        return cls(
            name=str(values["name"]),
            architecture=str(values["architecture"]),
            arguments=dict(values["arguments"]),
            input=InputContract.from_json(dict(values["input"])),
            classes=None if classes is None else tuple(str(name) for name in classes),
        )


def check_arguments(name: str, arguments: Mapping[str, Any]) -> list[str]:
    """Return every problem of a model node, one line each; empty when the model can be built.

    Unknown names, missing ones and wrong types are found from the signature; parts that do not fit together
    by building the model without memory (meta device). An unknown model name raises UsageError.
    """
    entry = resolve(name)
    function = architecture_function(entry.architecture)
    merged = {**entry.arguments, **arguments}
    problems = check_against(function, merged, prefix="model.") + _renamed(entry, arguments)
    if problems:
        return problems
    import torch

    try:
        with torch.device("meta"):
            function(**_as_keywords(merged))
    except NotTaken as error:
        return [f"model.{error}"]
    except UsageError as error:
        return [f"model: {error}"]
    return []


def make_spec(
    name: str,
    arguments: Mapping[str, Any],
    *,
    input_overrides: Mapping[str, Any] | None = None,
    classes: Sequence[str] | None = None,
) -> ModelSpec:
    """Return the complete spec of a name with overridden arguments.

    input_overrides: fields of the input contract; None values keep the model's own. The contract's size is
    the model's image_size, unless overridden; pictures of at most 64 pixels are taken whole.
    Raises UsageError with every problem in one line.
    """
    entry = resolve(name)
    merged = {**entry.arguments, **arguments}
    problems = check_against(architecture_function(entry.architecture), merged, prefix="model.")
    problems += _renamed(entry, arguments)
    overrides = {key: value for key, value in (input_overrides or {}).items() if value is not None}
    unknown = sorted(set(overrides) - set(InputContract.__dataclass_fields__))
    problems += [f"input.{key}: unknown" for key in unknown]
    if problems:
        raise UsageError("; ".join(problems))
    if classes is not None:
        if len(classes) != arguments.get("num_classes", len(classes)):
            raise UsageError(
                f"model.num_classes {arguments['num_classes']}: there are {len(classes)} class names"
            )
        merged["num_classes"] = len(classes)
    size = merged["image_size"]
    height, width = (size, size) if isinstance(size, int) else size
    if height == width:
        merged["image_size"] = height
    sized: dict[str, Any] = {"height": height, "width": width}
    if max(height, width) <= SMALL_IMAGE:
        sized["crop_fraction"] = 1.0
    return ModelSpec(
        name=entry.name,
        architecture=entry.architecture,
        arguments=complete(architecture_function(entry.architecture), merged),
        input=replace(entry.input, **{**sized, **overrides}),
        classes=None if classes is None else tuple(classes),
    )


def build(spec: ModelSpec) -> Classifier:
    """Build a model with fresh weights from torch's global generator; its `spec` is set.

    Raises UsageError where the arguments are not those of the architecture or do not fit together.
    """
    function = architecture_function(spec.architecture)
    problems = check_against(function, spec.arguments, prefix="model.")
    if problems:
        raise UsageError("; ".join(problems))
    model = function(**_as_keywords(spec.arguments))
    model.spec = spec
    return model


def no_weight_decay(model: Classifier) -> set[str]:
    """Return the architecture's own names to spare from weight decay.

    The generic rule (biases, 1-D tensors) is the optimiser's and not in this set.
    """
    names: set[str] = architecture_module(model.spec.architecture).no_weight_decay(model)
    return names


def _renamed(entry: ModelEntry, arguments: Mapping[str, Any]) -> list[str]:
    """The argument `model` of another library's models is what the name says."""
    named = entry.arguments.get("model")
    if named is None or arguments.get("model", named) == named:
        return []
    return [f"model.model: {arguments['model']}, but the name is {entry.name}; change the name alone"]


def _as_keywords(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """JSON has lists where functions take tuples."""
    return {key: tuple(value) if isinstance(value, list) else value for key, value in arguments.items()}
