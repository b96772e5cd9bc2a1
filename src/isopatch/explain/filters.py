"""What a model's first layer looks for: principal components of its patch filters, and single filters.

D filters of C_in channels and k x k pixels. Dosovitskiy et al. 2020, figure 7 (left): the first 28 principal
components of the patch projection.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from torch import nn
from torch.nn import functional as F

from isopatch.explain.contract import Context, Figure
from isopatch.explain.drawing import as_colours, plain, sheet
from isopatch.explain.tensors import as_numbers
from isopatch.nn.classifier import Classifier
from isopatch.nn.resnet_stem import STANDARDISATION_EPS, StandardConv
from isopatch.nn.stem import NormedPatchStem

COMPONENTS = 28
STRONGEST = 56
PER_ROW = 14
SOURCE = "Dosovitskiy et al. 2020, figure 7 (left)"


class Components(NamedTuple):
    """Principal components of filters.

    filters: (K, C_in, k, k), of unit length, the strongest first, each with its largest value positive.
    variance: (K,) shares of the variance over filters; 0 where the filters are all equal.
    """

    filters: NDArray[np.float64]
    variance: NDArray[np.float64]


def missing(model: Classifier) -> str | None:
    """Say why a model has no filters."""
    return None if first_filters(model) is not None else "has no convolution that reads the picture"


def first_filters(model: Classifier) -> NDArray[np.float64] | None:
    """Return the filters (D, C_in, k, k) of the layer that reads the picture, as they are applied.

    A hybrid's are standardised as in its forward pass. A linear projection of flattened patches is brought
    into the shape of a convolution's.
    """
    for module in model.modules():
        if isinstance(module, NormedPatchStem):
            side = module.patch_size
            flat = module.proj.weight.detach().cpu().double()
            pixels = flat.view(len(flat), side, side, -1)  # a patch's rows first, its channels innermost
            return as_numbers(pixels.permute(0, 3, 1, 2))
        if isinstance(module, nn.Conv2d):
            weight = module.weight.detach().cpu().double()
            if isinstance(module, StandardConv):
                flat = weight.flatten(1)
                weight = F.layer_norm(flat, flat.shape[1:], eps=STANDARDISATION_EPS).view_as(weight)
            return as_numbers(weight)
    return None


def principal_components(filters: NDArray[np.float64], count: int = COMPONENTS) -> Components:
    """Return the first principal components of filters (D, C_in, k, k), their mean taken away.

    At most `count`, and no more than D - 1 or the numbers of one filter.
    """
    flat = filters.reshape(len(filters), -1)
    centred = flat - flat.mean(axis=0)
    _, strengths, directions = np.linalg.svd(centred, full_matrices=False)
    kept = min(count, max(len(flat) - 1, 1), flat.shape[1])
    total = float((strengths**2).sum())
    shares = strengths**2 / total if total > 0 else np.zeros_like(strengths)
    largest = np.take_along_axis(directions, np.abs(directions).argmax(axis=1)[:, None], axis=1)
    directions = directions * np.where(largest < 0, -1.0, 1.0)  # a component has no sign of its own
    return Components(directions[:kept].reshape(kept, *filters.shape[1:]), shares[:kept])


def make(context: Context) -> list[Figure]:
    """Draw the components, then the strongest single filters."""
    filters = first_filters(context.model)
    assert filters is not None
    return [_components(filters), _strongest(filters)]


def _components(filters: NDArray[np.float64]) -> Figure:
    found = principal_components(filters)
    pictures = [as_colours(component) for component in found.filters]
    captions = [f"{100 * share:.1f} %" for share in found.variance]
    rows = range(0, len(pictures), PER_ROW)
    dim, channels, high, wide = filters.shape
    count, held = len(pictures), 100 * found.variance.sum()
    svg = sheet(
        [("", pictures[start : start + PER_ROW]) for start in rows],
        captions=[captions[start : start + PER_ROW] for start in rows],
        title="Principal components of the patch filters",
        gap=0.12,
    )
    varies = float(found.variance.sum()) > 0
    return Figure(
        name="components",
        title=f"First {count} principal components of {dim} patch filters",
        caption=f"Each filter is {high} x {wide} pixels of {channels} channel(s). The mean filter is taken "
        f"away; each component is scaled to 0-1 by itself, and its sign means nothing. Below each: its share "
        f"of the variance over filters, together {held:.1f} %.",
        svg=svg,
        data={"filters": dim, "shape": [channels, high, wide], "variance": plain(found.variance)},
        warning=None if varies else "all filters are equal, so their components mean nothing",
    )


def _strongest(filters: NDArray[np.float64]) -> Figure:
    norms = np.sqrt((filters**2).sum(axis=(1, 2, 3)))
    order = np.argsort(-norms, kind="stable")[:STRONGEST]
    pictures = [as_colours(filters[index]) for index in order]
    rows = range(0, len(pictures), PER_ROW)
    total = float((norms**2).sum())
    held = 100 * float((norms[order] ** 2).sum()) / total if total > 0 else 0.0
    return Figure(
        name="filters",
        title=f"The {len(order)} filters with the largest weights",
        caption="Single filters, the one with the largest norm first, each scaled to 0-1 by itself; "
        f"together they hold {held:.0f} % of the squared weights of all {len(filters)}. A filter like noise "
        "was hardly trained, or works on what the eye does not see.",
        svg=sheet(
            [("", pictures[start : start + PER_ROW]) for start in rows],
            title="The filters with the largest weights",
            gap=0.12,
        ),
        data={"index": order.tolist(), "norm": plain(norms[order])},
    )
