"""The depthwise kernels of a model as pictures, by depth, and how far out their weight lies.

C channels, each with a kernel of k x k places. Trockman and Kolter 2022 show ConvMixer's (appendix).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray
from torch import nn

from isopatch.explain.contract import Context, Figure
from isopatch.explain.depths import blocks_of
from isopatch.explain.drawing import chart, plain, ramp, sheet, signed, spread
from isopatch.explain.parts import is_depthwise
from isopatch.explain.tensors import as_numbers
from isopatch.nn.classifier import Classifier

if TYPE_CHECKING:
    from matplotlib.axes import Axes

PER_BLOCK = 20  # kernels shown of a block
BLOCKS = 16  # rows of the atlas at most
SOURCE = "Trockman and Kolter 2022, appendix"


class Layer(NamedTuple):
    """One depthwise layer. name: "block 3"; kernels: (C, k, k), rows first."""

    name: str
    kernels: NDArray[np.float64]


class Energy(NamedTuple):
    """Where the squared weight of kernels lies. radius: (R,) distances from the centre, in places, rising.

    share: (R,), of the mean kernel's energy within that radius; the last is 1. All-zero kernels do not count.
    mean_radius: (C,) of each kernel, NaN of an all-zero one.
    """

    radius: NDArray[np.float64]
    share: NDArray[np.float64]
    mean_radius: NDArray[np.float64]


def missing(model: Classifier) -> str | None:
    """Say why a model has no atlas."""
    return None if depthwise_layers(model) else "has no depthwise convolution"


def depthwise_layers(model: Classifier) -> list[Layer]:
    """Return the depthwise kernels by depth; of another library's model numbered one after another."""
    blocks = blocks_of(model)
    if not blocks:
        found = [part for part in model.modules() if is_depthwise(part)]
        return [Layer(f"conv {index}", _kernels(part)) for index, part in enumerate(found, 1)]
    layers = []
    for number, block in enumerate(blocks, 1):
        inside = [part for part in block.modules() if is_depthwise(part)]
        for index, part in enumerate(inside):
            suffix = "" if len(inside) == 1 else chr(ord("a") + index)
            layers.append(Layer(f"block {number}{suffix}", _kernels(part)))
    return layers


def energy_by_radius(kernels: NDArray[np.float64]) -> Energy:
    """Return how the squared weights of kernels (C, k, k) spread over the distance from the centre.

    Every kernel counts alike, whatever its size. The centre is where the convolution puts its result: place
    (k - 1) // 2, one before the middle of an even kernel.
    """
    distance = centre_distance(kernels.shape[1:])
    squared = kernels**2
    total = squared.sum(axis=(1, 2))
    alive = total > 0
    shares = np.divide(squared, total[:, None, None], out=np.zeros_like(squared), where=alive[:, None, None])
    mean_radius = np.where(alive, (shares * distance).sum(axis=(1, 2)), np.nan)
    radius, ring = np.unique(np.round(distance, 9), return_inverse=True)
    mean = shares[alive].mean(axis=0) if alive.any() else np.full(distance.shape, np.nan)
    summed = np.bincount(ring.ravel(), weights=mean.ravel(), minlength=len(radius))
    share: NDArray[np.float64] = np.cumsum(summed, dtype=np.float64)
    return Energy(np.asarray(radius, np.float64), share, mean_radius)


def centre_distance(shape: tuple[int, ...]) -> NDArray[np.float64]:
    """Return each place's distance from the kernel's centre, in places, (rows, cols)."""
    down, across = ((np.arange(extent) - (extent - 1) // 2.0) for extent in shape)
    distance: NDArray[np.float64] = np.hypot(down[:, None], across[None, :])
    return distance


def make(context: Context) -> list[Figure]:
    """Draw the atlas and the energy against the radius."""
    layers = depthwise_layers(context.model)
    return [_atlas(layers), _energy(layers)]


def _atlas(layers: list[Layer]) -> Figure:
    shown = [layers[index] for index in spread(len(layers), BLOCKS)]
    rows, data = [], []
    for layer in shown:
        radius = energy_by_radius(layer.kernels).mean_radius
        order = np.argsort(np.nan_to_num(radius, nan=-1.0), kind="stable")
        picked = order[spread(len(order), PER_BLOCK)]
        rows.append((layer.name, [signed(layer.kernels[index]) for index in picked]))
        data.append({"layer": layer.name, "channel": picked.tolist(), "mean_radius": plain(radius[picked])})
    left_out = "" if len(shown) == len(layers) else f" {len(shown)} of {len(layers)} layers are shown."
    return Figure(
        name="atlas",
        title="Depthwise kernels by depth",
        caption="Each row is a layer, the first above. From left to right evenly spaced kernels of the "
        "layer, in the order of how far from the centre their weight lies: narrow ones left. Red is "
        "positive, blue negative, white zero; every kernel is scaled by its own largest weight." + left_out,
        svg=sheet(rows, title="Depthwise kernels by depth", gap=0.1),
        data={"layers": data},
    )


def _energy(layers: list[Layer]) -> Figure:
    found = [energy_by_radius(layer.kernels) for layer in layers]
    picked = spread(len(layers), 8)
    colours = dict(zip(picked, ramp(len(picked)), strict=True))

    def draw(axes: Axes) -> None:
        for index in picked:
            energy = found[index]
            axes.plot(energy.radius, energy.share, color=colours[index], label=layers[index].name,
                      linewidth=1.7, marker="o", markersize=3)  # fmt: skip
        axes.set_ylim(0, 1.03)
        axes.yaxis.set_major_formatter(lambda value, _position: f"{100 * value:.0f} %")
        axes.set_xlabel("distance from the kernel's centre, places; upwards: squared weight within it")
        axes.legend(loc="lower right", ncols=2)

    flat = _flat_share(layers[0].kernels.shape[1:], 0.9)
    data = [
        {
            "layer": layer.name,
            "kernel": list(layer.kernels.shape[1:]),
            "radius": plain(energy.radius),
            "share": plain(energy.share),
            "mean_radius": plain(np.array([_mean(energy.mean_radius)]))[0],
        }
        for layer, energy in zip(layers, found, strict=True)
    ]
    return Figure(
        name="energy",
        title="How far out the kernels' weight lies",
        caption="Share of a kernel's squared weight within a distance of its centre, mean over the layer's "
        "channels. A curve that rises at once is a layer of narrow kernels that hardly mixes; a flat kernel "
        f"of this size would hold 90 % within {flat:.1f} places.",
        svg=chart(draw, title="Kernel energy against radius"),
        data={"layers": data},
    )


def _flat_share(shape: tuple[int, ...], share: float) -> float:
    """Return the radius within which a kernel of equal weights holds a share."""
    energy = energy_by_radius(np.ones((1, *shape)))
    return float(energy.radius[np.searchsorted(energy.share, share - 1e-9)])


def _mean(values: NDArray[np.float64]) -> float:
    finite = values[np.isfinite(values)]
    return float(finite.mean()) if finite.size else float("nan")


def _kernels(part: object) -> NDArray[np.float64]:
    assert isinstance(part, nn.Conv2d)
    return as_numbers(part.weight)[:, 0]
