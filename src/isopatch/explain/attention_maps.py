"""Where one layer attends: the mean of its heads over the picture, and every head of every layer."""

from __future__ import annotations

from torch import Tensor

from isopatch.errors import UsageError
from isopatch.explain.attention import attended_layers
from isopatch.explain.heat import Heat, Options
from isopatch.explain.rollout import read_rows
from isopatch.nn.classifier import Classifier


def attention_maps(model: Classifier, x: Tensor, targets: Tensor, options: Options) -> list[Heat]:
    """The mean over heads of one layer's attention (option attention.layer; 0 is the last).

    Layers that have attention are counted from 1, as the figure of all heads numbers them.
    """
    wanted = options.get("attention.layer", 0)
    found, count = None, 0
    for layer in attended_layers(model, x):
        count += 1
        if wanted in (0, count):
            found = layer
    if found is None:
        raise UsageError(f"attention.layer {wanted}: the model has {count} layers with attention")
    return read_rows(model, found.weights.mean(1), found.grid)


def by_layer_and_head(model: Classifier, x: Tensor) -> dict[str, list[Tensor]]:
    """Return reader -> one (h, rows, cols) per layer, of a single picture (1, C, H, W)."""
    found: dict[str, list[Tensor]] = {}
    for layer in attended_layers(model, x):
        heads = layer.weights.squeeze(0)  # its heads take the place of pictures
        for heat in read_rows(model, heads, layer.grid):
            found.setdefault(heat.name, []).append(heat.values)
    return found
