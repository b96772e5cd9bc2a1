"""The effective receptive field by depth: which pixels the middle token depends on, and how far out.

B pictures, C channels of the features f of the middle patch, at some depth. Luo et al. 2016, section 2;
measured by shares as Ding et al. 2022 (RepLKNet), section 5:

    energy(pixel) = mean over pictures of  sum over channels and colours (df / dx)^2, divided by its sum
    field(pixel)  = sqrt(energy), scaled to sum 1

The sum over channels is estimated without bias by gradients of random signs s: E (d(s f) / dx)^2. A sum over
channels as it stands would be constant behind a LayerNorm. Each picture counts alike.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from isopatch.explain.contract import Context, Figure
from isopatch.explain.drawing import Pixels, chart, coloured, plain, ramp, sheet, spread
from isopatch.explain.tensors import batches
from isopatch.nn.classifier import Classifier
from isopatch.nn.layout import Grid
from isopatch.report.plots import SERIES

if TYPE_CHECKING:
    from matplotlib.axes import Axes

PICTURES = 64
BATCH = 8
PER_ROW = 5
DECADES = 3.0  # of the logarithmic scale
SHARES = (0.5, 0.9, 0.99)
SOURCE = "Luo et al. 2016, section 2; Ding et al. 2022, section 5"
Field = NDArray[np.float64]


class Depth(NamedTuple):
    """field: (H, W), summing to 1, or zeros where nothing arrives. middle: (y, x) of the token's cell, pixels
    from the upper left corner. cell: pixels it covers, down and across."""

    field: Field
    middle: tuple[float, float]
    cell: tuple[float, float]


def any_model(model: Classifier) -> str | None:
    """Every model has one."""
    return None


def receptive_fields(model: Classifier, sample: Tensor, *, seed: int = 0, signs: int = 1) -> list[Depth]:
    """Return the field of every depth, the stem's output first.

    sample: prepared pictures (M, C_in, H, W), the first 64 are used. signs: random signs per picture.
    """
    sample = sample[:PICTURES]
    draw = torch.Generator().manual_seed(seed)
    energies: list[Tensor] = []
    grids: list[Grid] = []
    for pictures in batches(sample, BATCH):
        found = []
        grids = []
        x = pictures.detach().clone().requires_grad_(True)
        with torch.enable_grad():
            for features in model.features_by_depth(x):
                grids.append(features.grid)
                middle = features.map[:, :, features.grid[0] // 2, features.grid[1] // 2]
                found.append(_energy(x, middle, draw, signs))
        energies = [a + b for a, b in zip(energies, found, strict=True)] if energies else found
    height, width = sample.shape[2:]
    return [
        _depth(energy.cpu().numpy(), grid, (height, width))
        for energy, grid in zip(energies, grids, strict=True)
    ]


def _energy(x: Tensor, middle: Tensor, draw: torch.Generator, signs: int) -> Tensor:
    """Return the sum over pictures of each one's squared gradients, divided by their sum, (H, W) float64."""
    total = torch.zeros(x.shape[0], *x.shape[2:], dtype=torch.float64, device=x.device)
    for _ in range(signs):
        sign = torch.randint(0, 2, middle.shape, generator=draw).to(middle) * 2 - 1
        (gradient,) = torch.autograd.grad((middle * sign).sum(), x, retain_graph=True)
        total += (gradient.double() ** 2).sum(dim=1)
    own = total.sum(dim=(1, 2), keepdim=True)
    return torch.where(own > 0, total / torch.where(own > 0, own, 1.0), 0.0).sum(dim=0)


def _depth(energy: Field, grid: Grid, size: Grid) -> Depth:
    field = np.sqrt(energy)
    total = float(field.sum())
    cell = tuple(float(max(round(s / g), 1)) for s, g in zip(size, grid, strict=True))
    middle = tuple((g // 2 + 0.5) * c for g, c in zip(grid, cell, strict=True))
    return Depth(field / total if total > 0 else field, (middle[0], middle[1]), (cell[0], cell[1]))


def radius_of(depth: Depth, share: float) -> float:
    """Return the radius in pixels of the disc round the token's middle that holds a share of the field.

    Measured to the middles of pixels; NaN where nothing arrives.
    """
    height, width = depth.field.shape
    y, x = np.arange(height) + 0.5 - depth.middle[0], np.arange(width) + 0.5 - depth.middle[1]
    return _reaching(np.hypot(y[:, None], x[None, :]).ravel(), depth.field.ravel(), share)


def area_of(depth: Depth, share: float) -> float:
    """Return the least part of the picture's pixels, 0 to 1, that holds a share of the field."""
    held = np.cumsum(np.sort(depth.field.ravel())[::-1])
    if held[-1] <= 0:
        return float("nan")
    return float(np.searchsorted(held, share * held[-1] * (1 - 1e-12)) + 1) / len(held)


def _reaching(distance: Field, weight: Field, share: float) -> float:
    if weight.sum() <= 0:
        return float("nan")
    order = np.argsort(distance, kind="stable")
    held = np.cumsum(weight[order])
    return float(distance[order][np.searchsorted(held, share * held[-1] * (1 - 1e-12))])


def make(context: Context) -> list[Figure]:
    """Draw the fields, and radius and area by depth."""
    assert context.sample is not None
    depths = receptive_fields(context.model, context.sample.to(context.device), seed=context.seed)
    count = min(len(context.sample), PICTURES)
    return [_fields(depths, count), _widths(depths)]


def _fields(depths: list[Depth], count: int) -> Figure:
    picked = spread(len(depths), 10)
    pictures = [_picture(depths[i].field) for i in picked]
    names = ["stem" if i == 0 else f"block {i}" for i in picked]
    areas = [area_of(depths[i], 0.9) for i in picked]
    told = [f"{name}: {100 * area:.0f} %" for name, area in zip(names, areas, strict=True)]
    starts = range(0, len(picked), PER_ROW)
    empty = [name for name, i in zip(names, picked, strict=True) if depths[i].field.sum() <= 0]
    return Figure(
        name="fields",
        title="What the middle token depends on, by depth",
        caption="Size of the gradient of the middle token's features with respect to every pixel, mean over "
        f"{count} pictures, on a logarithmic scale below each picture's largest value. Below each: the least "
        "part of the picture that holds 90 % of it.",
        svg=sheet(
            [("", pictures[s : s + PER_ROW]) for s in starts],
            title="Effective receptive fields",
            captions=[told[s : s + PER_ROW] for s in starts],
            tile=1.15,
            colour_bar=("inferno", -DECADES, 0, "power of 10"),
        ),
        data={"depth": picked, "middle": [list(depths[i].middle) for i in picked],
              "field": [plain(depths[i].field) for i in picked] if depths[0].field.size <= 4096 else None},
        warning=f"no gradient arrives at {', '.join(empty)}" if empty else None,
    )  # fmt: skip


def _picture(field: Field) -> Pixels:
    most = field.max()
    floor = 10.0**-DECADES
    scaled = np.log10(np.maximum(field / most, floor)) if most > 0 else np.full_like(field, -DECADES)
    return coloured(scaled, low=-DECADES, high=0.0, cmap="inferno")


def _widths(depths: list[Depth]) -> Figure:
    x = np.arange(len(depths))
    radius = np.array([[radius_of(depth, share) for share in SHARES] for depth in depths])
    area = np.array([[area_of(depth, share) for share in SHARES] for depth in depths])
    height, width = depths[0].field.shape
    even = Depth(np.full((height, width), 1 / (height * width)), depths[-1].middle, depths[-1].cell)
    limit = radius_of(even, 0.9)

    def draw(axes: Axes) -> None:
        for index, (share, colour) in enumerate(zip(SHARES, (SERIES[0], *ramp(4)[1:3]), strict=True)):
            axes.plot(x, radius[:, index], color=colour, marker="o", markersize=4, linewidth=1.8,
                      label=f"{100 * share:.0f} %")  # fmt: skip
        axes.axhline(limit, color="#7a869a", linewidth=1.2, linestyle=(0, (4, 3)))
        axes.set_ylim(bottom=0)
        axes.set_xlabel("after block; 0: the stem")
        axes.set_ylabel("radius, pixels")
        axes.locator_params(axis="x", integer=True)
        axes.legend(loc="lower right", bbox_to_anchor=(1.01, 1.0), ncols=3, borderaxespad=0.1)

    return Figure(
        name="widths",
        title="How wide the receptive field is",
        caption="Radius of the disc round the token's middle that holds 50, 90 and 99 % of the field. The "
        f"dashed line is the radius that would hold 90 % if every pixel of the {height} x {width} picture "
        "counted alike.",
        svg=chart(draw, title="Radius by depth", legend=True),
        data={
            "shares": list(SHARES),
            "radius": plain(radius),
            "area": plain(area),
            "even_radius_90": limit,
        },
    )
