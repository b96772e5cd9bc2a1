"""Integrated gradients, through captum: what each patch adds to the class's logit over a blank picture.

    attribution of pixel i = (x_i - b_i) * integral over a in 0..1 of dy(b + a (x - b)) / dx_i

b: the picture's mean colour. All attributions add up to y(x) - y(b), the axiom of completeness (Sundararajan
et al. 2017, equation 1 and proposition 1). A cell is the sum over a patch's pixels and channels.
"""

from __future__ import annotations

from importlib.util import find_spec

import torch
from torch import Tensor
from torch.nn import functional as F

from isopatch.explain.depths import patch_cells
from isopatch.explain.heat import BATCH, Heat, Options, mean_colour
from isopatch.nn.classifier import Classifier
from isopatch.nn.layout import Grid

STEPS = 64


def integrated_maps(model: Classifier, x: Tensor, targets: Tensor, options: Options) -> list[Heat]:
    """Attributions per patch; they add up to the logit's rise over the blank picture, but for the steps."""
    values = attributions(model, x, targets, steps=options.get("integrated_gradients.steps", STEPS))
    return [Heat("target class", cell_sums(values.sum(1), patch_cells(model, x)).cpu(), signed=True)]


def attributions(model: Classifier, x: Tensor, targets: Tensor, *, steps: int = STEPS) -> Tensor:
    """Return the attribution of every pixel (B, C, H, W)."""
    from captum.attr import IntegratedGradients

    with torch.enable_grad():
        found: Tensor = IntegratedGradients(model).attribute(
            x, baselines=mean_colour(x), target=targets, n_steps=steps, internal_batch_size=max(BATCH, len(x))
        )
    return found.detach().float()


def cell_sums(values: Tensor, grid: Grid) -> Tensor:
    """Sum pixels (B, H, W) over the cells of a grid; pixels beyond whole cells go to the last."""
    rows = _cell_of(values.shape[1], grid[0], values)
    cols = _cell_of(values.shape[2], grid[1], values)
    return torch.einsum("bhw,hr,wc->brc", values, rows, cols)


def _cell_of(side: int, cells: int, like: Tensor) -> Tensor:
    """(side, cells): one where a pixel lies in a cell."""
    index = (torch.arange(side, device=like.device) // (side // cells)).clamp(max=cells - 1)
    return F.one_hot(index, cells).to(like.dtype)


def without_captum(model: Classifier) -> str | None:
    """Say how captum is installed; None where it is."""
    return None if find_spec("captum") else "needs captum: pip install 'isopatch[explain]'"
