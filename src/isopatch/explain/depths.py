"""The blocks of a model in the order in which they run, and the parts of the picture its tokens stand for."""

from __future__ import annotations

from itertools import chain

import torch
from torch import Tensor, nn

from isopatch.models.external.wrapper import External
from isopatch.nn.classifier import Classifier
from isopatch.nn.layout import Grid
from isopatch.nn.pyramid import Pyramid, Stage
from isopatch.nn.skeleton import Isotropic
from isopatch.nn.staged import Staged
from isopatch.nn.stem import PatchStem


def blocks_of(model: Classifier) -> list[nn.Module]:
    """Return the blocks of an isotropic model, a pyramid or a comparator; none of another library's model."""
    if isinstance(model, Isotropic):
        return list(model.blocks)
    if isinstance(model, Pyramid):
        stages = [stage for stage in model.stages if isinstance(stage, Stage)]
        return list(chain.from_iterable(stage.blocks for stage in stages))
    if isinstance(model, Staged):
        return list(chain.from_iterable(stage.children() for stage in model.stages))
    return []


def seen_size(model: Classifier, height: int, width: int) -> Grid:
    """Return how many of a picture's rows and columns the model reads, from the upper left corner.

    A ConvMixer's stem leaves out what fills no patch: of 32 pixels and patches of 7 it reads 28. Cells of a
    map that were stretched over all 32 would lie beside the patches they stand for.
    """
    for module in model.modules():
        if isinstance(module, PatchStem) and not module.exact:
            side = module.patch_size
            return height // side * side, width // side * side
    return height, width


@torch.no_grad()
def patch_cells(model: Classifier, x: Tensor) -> Grid:
    """Return the grid of the tokens that leave the stem, for pictures like x (B, C, H, W).

    Of another library's model, whose stem is not known here, the grid of its last features.
    """
    return model.features(x[:1], depth=None if isinstance(model, External) else 0).grid
