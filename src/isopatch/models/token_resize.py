"""Maps over places (token-MLPs) to a grid that is a whole multiple of theirs, per axis.

The picture is split into parts, each of the grid that the weights know, and every part is mixed on its own,
by the weights as they were: a block-diagonal matrix with one block per part (Tolstikhin et al. 2021,
MLP-Mixer, appendix C). It is exact: tokens of a part are those that the original model gives the part alone,
and the logits are the mean over the parts. A token-MLP's hidden width grows with the number of parts.
For the maps of ResMLP and gMLP nothing is published; the same construction is exact for them too. Other grids
are refused: no definition is known that keeps anything.

N places of the old grid, M of the new one, P = M / N parts, H hidden width.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping
from dataclasses import replace

import torch
from torch import Tensor, nn

from isopatch.errors import UsageError
from isopatch.models.formats.keymap import State
from isopatch.models.resize import Change
from isopatch.models.spec import ModelSpec
from isopatch.nn.classifier import Classifier
from isopatch.nn.fixed_mixers import RandomMixer
from isopatch.nn.layout import Grid
from isopatch.nn.token_mlp import SpatialGate, TokenLinear, TokenMlp

log = logging.getLogger("isopatch")

HOW = "one block per part"


def places_of_parts(old: Grid, new: Grid) -> Tensor:
    """Return (P, N): the places on the new grid of each part's places, rows first.

    Both axes of `new` must be multiples of `old`'s.
    """
    assert _whole(old, new), (old, new)
    places = torch.arange(new[0] * new[1]).reshape(new[0] // old[0], old[0], new[1] // old[1], old[1])
    return places.permute(0, 2, 1, 3).reshape(-1, old[0] * old[1])


def widened(spec: ModelSpec, state: Mapping[str, Tensor], old: Grid | None, new: Grid | None) -> ModelSpec:
    """Return the spec with the hidden width that a Mixer's token-MLPs have on a larger grid.

    old: None where it is not known: the grid is taken as square.
    A spec whose width is not the file's was asked for with another one: it stays, and strict loading refuses.
    """
    held = state.get("blocks.0.token.mixer.mlp.fc1.weight")
    if spec.architecture != "mlp_mixer" or held is None or held.dim() != 2 or new is None:
        return spec
    dim, hidden = spec.arguments["dim"], held.shape[0]
    before = _grid_of(held.shape[1], old)
    if before is None or int(dim * spec.arguments["token_ratio"]) != hidden or not _whole(before, new):
        return spec
    wanted = hidden * (new[0] // before[0]) * (new[1] // before[1])
    ratio = wanted / dim
    if int(dim * ratio) < wanted:  # the architecture rounds down
        ratio = math.nextafter(ratio, math.inf)
    return replace(spec, arguments={**spec.arguments, "token_ratio": ratio})


def resized_token_maps(
    state: Mapping[str, Tensor],
    model: Classifier,
    old: Grid | None,
    *,
    where: str,
    same_patch: bool,
    changes: list[Change],
) -> State:
    """Take maps over places from the grid of the weights to the model's.

    old: None where it is not known: the grid is taken as square. same_patch: whether the patch size stays;
    parts of a picture cut into other patches are not what the weights know. changes: receives what was
    resized. Raises UsageError naming both grids where the step is not defined.
    """
    result = dict(state)
    for name, module in model.named_modules():
        key = _first_weight(name, module)
        if key is None or (held := state.get(key)) is None or held.dim() != 2:
            continue
        assert isinstance(module, TokenMlp | TokenLinear | SpatialGate | RandomMixer)
        before = _grid_of(held.shape[1], old)
        if before is None:
            raise UsageError(
                f"{where}: {key} is tied to {held.shape[1]} places, no square grid, and nothing says which"
            )
        if before == module.grid:
            continue
        after = module.grid
        if isinstance(module, RandomMixer) or not _whole(before, after) or not same_patch:
            raise UsageError(_refusal(module, before, where=where, same_patch=same_patch))
        places = places_of_parts(before, after)
        count = after[0] * after[1]
        if isinstance(module, TokenMlp):
            first, second = f"{name}.mlp.fc1", f"{name}.mlp.fc2"
            hidden = held.shape[0]
            units = torch.arange(len(places) * hidden).reshape(len(places), hidden)
            spread_linear(result, first, units, places, (len(places) * hidden, count))
            spread_linear(result, second, places, units, (count, len(places) * hidden))
        else:
            spread_linear(result, f"{name}.linear", places, places, (count, count))
        change = Change("token maps", HOW, before, after)
        if change not in changes:
            changes.append(change)
            log.info(
                "token maps taken from a %dx%d grid to %dx%d: the picture's %d parts are mixed apart, each "
                "as before (a start for fine-tuning)",
                *before,
                *after,
                len(places),
            )
    return result


def spread_linear(state: State, layer: str, rows: Tensor, cols: Tensor, shape: tuple[int, int]) -> None:
    """Put a linear layer's weight and bias once per part into zeros of the new `shape`.

    rows (P, outputs), cols (P, inputs): where each part's copy goes. A layer that is missing or of another
    shape is left as it is: strict loading names it.
    """
    weight, bias = state.get(f"{layer}.weight"), state.get(f"{layer}.bias")
    outputs, inputs = rows.shape[1], cols.shape[1]
    if weight is None or bias is None or weight.shape != (outputs, inputs) or bias.shape != (outputs,):
        return
    large, long = weight.new_zeros(shape), bias.new_zeros(shape[0])
    for part_rows, part_cols in zip(rows, cols, strict=True):
        large[part_rows[:, None], part_cols] = weight
        long[part_rows] = bias
    state[f"{layer}.weight"], state[f"{layer}.bias"] = large, long


def _first_weight(name: str, module: nn.Module) -> str | None:
    """The tensor whose second axis counts the places that a module's weights are tied to."""
    if isinstance(module, TokenMlp):
        return f"{name}.mlp.fc1.weight"
    if isinstance(module, TokenLinear | SpatialGate):
        return f"{name}.linear.weight"
    return f"{name}.weights" if isinstance(module, RandomMixer) else None


def _grid_of(count: int, grid: Grid | None) -> Grid | None:
    """The grid of `count` places: the known one where it fits, else a square."""
    if grid is not None and grid[0] * grid[1] == count:
        return grid
    side = math.isqrt(count)
    return (side, side) if side > 0 and side * side == count else None


def _whole(before: Grid, after: Grid) -> bool:
    """Whether a grid consists of whole copies of another."""
    return after[0] % before[0] == 0 and after[1] % before[1] == 0


def _refusal(
    module: TokenMlp | TokenLinear | SpatialGate | RandomMixer, before: Grid, *, where: str, same_patch: bool
) -> str:
    after = module.grid
    problem = (
        f"{where}: its weights mix the places of a {before[0]}x{before[1]} grid, not of {after[0]}x{after[1]}"
    )
    if isinstance(module, RandomMixer):
        return f"{problem}, and a fixed random map has no other size: keep image_size and patch_size"
    if not same_patch:
        return f"{problem}: with another patch_size, change image_size in proportion, so that the grid stays"
    return (
        f"{problem}: only whole multiples of it are defined ({2 * before[0]}x{2 * before[1]}, "
        f"{before[0]}x{2 * before[1]}, ...): give such an image_size, or keep its own"
    )
