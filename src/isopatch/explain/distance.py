"""Attention distance by depth, and the same statistic of everything that mixes places without attention.

Dosovitskiy et al. 2020, figure 7 (right), figure 11 and appendix D.7: the distance between the query pixel
and all others, weighted by the attention, mean over 128 pictures. What it means for other parts: reach.py.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from torch import Tensor

from isopatch.explain.attention import attended_layers
from isopatch.explain.contract import Context, Figure
from isopatch.explain.drawing import chart, key_of, plain
from isopatch.explain.parts import Seen, look, mixing_parts
from isopatch.explain.reach import Reach, matrix_distance, reach_of, uniform_distance
from isopatch.explain.samples import compared, other_sample
from isopatch.explain.tensors import batches
from isopatch.models.external.wrapper import External
from isopatch.nn.classifier import Classifier
from isopatch.nn.token_mixers import Attention
from isopatch.report.plots import GRID, SERIES

if TYPE_CHECKING:
    from matplotlib.axes import Axes

PICTURES = 128
BATCH = 16
ROW = 80  # letters of names that a row of the legend holds
POINTS = 32  # more units than these are drawn as a range
_HOW = (
    "Parts without attention: their fixed weights, absolute values normalised per query. A point is a "
    "{unit}; "
    f"of more than {POINTS} the bar spans the middle 80 % and the point is the mean. The dashed line is what "
    "looking everywhere alike would give. The skip connection, which looks nowhere else, is left out."
)
SOURCE = "Dosovitskiy et al. 2020, figure 7 (right), figure 11, appendix D.7"


class Layer(NamedTuple):
    """One part that mixes places. block: 1 for the first. uniform: what looking everywhere would give."""

    block: int
    reach: Reach
    uniform: float


def missing(model: Classifier) -> str | None:
    """Say why there is no distance to measure."""
    return None if mixing_parts(model) else "has no part that mixes places and whose weights can be read"


def distances(model: Classifier, sample: Tensor) -> list[Layer]:
    """Return the distances of every part, in the order in which a picture meets them.

    sample: prepared pictures (M, C_in, H, W); of attention the mean over the first 128.
    """
    parts = mixing_parts(model)
    where = look(model, parts, sample[:1])
    attention = [part for part in parts if isinstance(part.module, Attention) and part.module in where]
    found = _attention_distances(model, sample[:PICTURES], [where[part.module] for part in attention])
    by_module = dict(zip((part.module for part in attention), found, strict=True))
    layers = []
    for block, module in parts:
        seen = where.get(module)
        if seen is None:  # this pass did not need it
            continue
        reach = by_module[module] if module in by_module else reach_of(module, seen)
        layers.append(Layer(block, reach, uniform_distance(seen.reads, seen.cell)))
    return layers


def _attention_distances(model: Classifier, sample: Tensor, where: list[Seen]) -> list[Reach]:
    """Mean over pictures of each head's distance, layer by layer."""
    sums: list[Tensor] = []
    for pictures in batches(sample, BATCH) if where else ():
        layers = zip(attended_layers(model, pictures), where, strict=True)
        of_batch = [
            matrix_distance(attended.weights, seen.grid, seen.cell, prefix=seen.prefix).sum(dim=0)
            for attended, seen in layers
        ]
        sums = [a + b for a, b in zip(sums, of_batch, strict=True)] if sums else of_batch
    return [Reach("attention", "head", (total / len(sample)).cpu().numpy()) for total in sums]


def make(context: Context) -> list[Figure]:
    """Draw every head, channel or layer of the model, and of those it is compared with, in one plot."""
    assert context.sample is not None
    models = [(context.name, distances(context.model, context.sample.to(context.device)))]
    notes = []
    for which, name, other in compared(context):
        reason = missing(other)
        if reason is None:
            sample, note = other_sample(context, which)
            models.append((name, distances(other, sample)))
            notes.append(note)
        else:
            notes.append(f" {name} {reason} and is not drawn.")
    pictures = min(len(context.sample), PICTURES)
    has_attention = any(layer.reach.kind == "attention" for _, layers in models for layer in layers)
    how = (
        f"Attention: mean over {pictures} pictures, the rows and columns of prefix tokens dropped and the "
        "rest of each row normalised again. "
        if has_attention
        else ""
    )
    return [
        Figure(
            name="distance",
            title="How far each layer looks",
            caption=how + _HOW.format(unit=_units(models)) + _left_out(context) + "".join(notes),
            svg=_drawn(models),
            data={name: [_told(layer) for layer in layers] for name, layers in models},
            warning=_undefined(models),
        )
    ]


def _left_out(context: Context) -> str:
    """Say whose parts without convolutions are not known."""
    names = [
        name
        for _, name, model in (("", context.name, context.model), *compared(context))
        if isinstance(model, External)
    ]
    return f" Of {' and '.join(names)}, another library's, convolutions alone are read." if names else ""


def _drawn(models: list[tuple[str, list[Layer]]]) -> str:
    together = len(models) > 1
    # One row of names where they fit beside each other, otherwise a row for each.
    fits = sum(len(name) + 6 for name, _ in models) <= ROW
    rows = (1 if fits else len(models)) if together else 0

    def draw(axes: Axes) -> None:
        for index, (name, layers) in enumerate(models):
            colour = SERIES[index]
            last = max(layer.block for layer in layers)
            axes.plot([], [], "o", color=colour, markersize=5, label=key_of(name))
            for layer in layers:
                # Models of different depth stand side by side by the share of their blocks.
                x = (layer.block - 0.5) / last * 100 if together else float(layer.block)
                y = layer.reach.distances[np.isfinite(layer.reach.distances)]
                if not y.size:
                    continue
                if y.size > POINTS:
                    axes.vlines(x, *np.quantile(y, (0.1, 0.9)), color=colour, alpha=0.35, linewidth=5)
                    y = y.mean(keepdims=True)
                axes.plot([x] * len(y), y, "o", color=colour, markersize=5, alpha=0.75, markeredgewidth=0)
            _draw_uniform(axes, layers, colour if together else GRID, share=together)
        axes.set_ylim(bottom=0)
        axes.set_ylabel("mean distance, pixels")
        if together:
            axes.set_xlim(-2, 102)
            axes.set_xlabel("depth, % of the blocks")
            axes.legend(loc="lower right", bbox_to_anchor=(1.01, 1.0), ncols=len(models) // rows,
                        borderaxespad=0.1)  # fmt: skip
        else:
            axes.set_xlabel("block")
            axes.locator_params(axis="x", integer=True)

    return chart(draw, title="Distance by depth", height=3.2 + 0.2 * max(rows, 1), legend=rows)


def _draw_uniform(axes: Axes, layers: list[Layer], colour: str, *, share: bool) -> None:
    last = max(layer.block for layer in layers)
    x = [(layer.block - 0.5) / last * 100 if share else layer.block for layer in layers]
    y = [layer.uniform for layer in layers]
    if len(x) == 1:
        x, y = [x[0] - 0.4, x[0] + 0.4], y * 2
    axes.plot(x, y, color=colour, linewidth=1.3, linestyle=(0, (4, 3)), alpha=0.8 if share else 1.0)


def _told(layer: Layer) -> dict[str, object]:
    mean = layer.reach.distances[np.isfinite(layer.reach.distances)]
    return {
        "block": layer.block,
        "kind": layer.reach.kind,
        "unit": layer.reach.unit,
        "mean": float(mean.mean()) if mean.size else None,
        "pixels": plain(layer.reach.distances),
        "uniform": layer.uniform,
    }


def _units(models: list[tuple[str, list[Layer]]]) -> str:
    names = dict.fromkeys(layer.reach.unit for _, layers in models for layer in layers)
    return " or a ".join(names)


def _undefined(models: list[tuple[str, list[Layer]]]) -> str | None:
    count = sum(int(np.isnan(layer.reach.distances).sum()) for _, layers in models for layer in layers)
    return (
        f"{count} head(s) or channel(s) have weights that are all zero, and look nowhere" if count else None
    )
