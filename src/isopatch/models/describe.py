"""What a model costs: exact parameters and multiply-adds, tokens, memory, and where the figures come from."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from isopatch.errors import UsageError
from isopatch.models.memory import backward_bytes, forward_bytes
from isopatch.models.published import checkpoints_of, parity_of
from isopatch.models.spec import ModelSpec, build, make_spec, resolve
from isopatch.models.table import aliases_of
from isopatch.nn.classifier import Classifier

HOW_COUNTED = (
    "counted here on the meta device (torch.utils.flop_counter): convolutions, matrix products and both "
    "attention products, a multiply-add once in macs and twice in flops; norms, activations, softmax, bias "
    "additions and pooling are not counted"
)
HOW_MEMORY = (
    "float32, one picture, traced on the meta device, weights not included: forward_memory_bytes is the "
    "largest sum of tensors alive at one time without gradients, backward_memory_bytes what training keeps "
    "for the backward pass; attention with its full score matrix, which fused kernels do not hold"
)


def describe(
    name: str,
    image_size: int | tuple[int, int] | None = None,
    arguments: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Return the facts of a model as plain JSON values.

    image_size: None keeps the model's own. arguments: overrides of the architecture's arguments.
    Keys: name, aliases, architecture, arguments, parameters, macs, flops, tokens, grid, image_size,
    weight_bytes, forward_memory_bytes, backward_memory_bytes (one picture, float32), input, accuracy,
    checkpoints (published weights: id, num_classes, licence), parity (what it was compared with) and sources;
    tokens and grid are None for another library's model that offers no feature map.
    Raises UsageError for unknown names and arguments that do not fit.
    """
    given = dict(arguments or {})
    if image_size is not None:
        given["image_size"] = image_size
    return describe_spec(make_spec(name, given))


def _tokens(model: Classifier, x: Tensor) -> tuple[int | None, list[int] | None]:
    """How many tokens there are before the heads, and on which grid."""
    try:
        with torch.no_grad():
            features = model.features(x)
    except UsageError:
        return None, None
    return features.tokens.shape[1], list(features.grid)


def describe_spec(spec: ModelSpec) -> dict[str, Any]:
    """Return what `describe` returns, of a complete spec, for pictures of the size in its input contract."""
    entry = resolve(spec.name)
    with torch.device("meta"):
        model = build(spec).eval()
        x = torch.empty(1, spec.arguments["in_channels"], spec.input.height, spec.input.width)
        parameters = sum(p.numel() for p in model.parameters())
        weight_bytes = sum(t.numel() * t.element_size() for t in model.state_dict().values())
        # Two pictures: BatchNorm refuses to train on one where a map has shrunk to one place.
        kept = backward_bytes(model.train(), x.expand(2, -1, -1, -1)) // 2
        # The counter's module tracker registers gradient hooks, which have no use here.
        model.eval().requires_grad_(False)
        live = forward_bytes(model, x)
        tokens, grid = _tokens(model, x)
        with torch.no_grad(), FlopCounterMode(display=False) as counter:
            model(x)
    flops = counter.get_total_flops()
    return {
        "name": entry.name,
        "aliases": aliases_of(entry.name),
        "architecture": spec.architecture,
        "arguments": spec.arguments,
        "parameters": parameters,
        "macs": flops // 2,
        "flops": flops,
        "tokens": tokens,
        "grid": grid,
        "image_size": [spec.input.height, spec.input.width],
        "weight_bytes": weight_bytes,
        "forward_memory_bytes": live,
        "backward_memory_bytes": kept,
        "input": spec.input.to_json(),
        "accuracy": [accuracy._asdict() for accuracy in entry.accuracy],
        "checkpoints": [checkpoint._asdict() for checkpoint in checkpoints_of(entry.name)],
        "parity": parity_of(entry.name),
        "sources": {"size": entry.source, "parameters_macs_flops": HOW_COUNTED, "memory": HOW_MEMORY},
    }
