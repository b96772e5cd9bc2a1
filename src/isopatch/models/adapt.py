"""Fit weights to a model that differs from theirs in class count, picture size or the distillation token.

All functions take and return states in our names; each says in the log what it did.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping

import torch
from torch import Tensor

from isopatch.errors import IsopatchError
from isopatch.models.formats.keymap import State
from isopatch.models.resize import Change, ResizeMode, mean_norms, resize_map, resize_table
from isopatch.nn.classifier import Classifier
from isopatch.nn.layout import Grid
from isopatch.nn.position import LearnedAxisPositions, LearnedPositions
from isopatch.nn.relative_bias import RelativeBias
from isopatch.nn.skeleton import Isotropic

log = logging.getLogger("isopatch")


def fresh_heads(state: Mapping[str, Tensor], model: Classifier, *, reason: str) -> State:
    """Take the model's own new classifiers instead of the file's.

    A pre-logits layer of the file goes too, unless the model has one: it belongs to the old classifier.
    """
    own = {f"heads.{key}": tensor for key, tensor in model.heads.state_dict().items()}
    kept = {key: tensor for key, tensor in state.items() if not key.startswith("heads.")}
    for key, tensor in own.items():
        kept[key] = state[key] if ".pre_logits." in key and key in state else tensor
    log.info("new classifier (%s): its weights are fresh, the others are the file's", reason)
    return kept


def fresh_distillation(state: Mapping[str, Tensor], model: Classifier, *, where: str, name: str) -> State:
    """Give plain DeiT weights the distillation token, its position and its head, freshly initialised.

    Returns the state unchanged when the model has no such token or the file has one. Distilled weights in a
    plain model raise IsopatchError: dropping half of what was trained is not done silently.
    """
    result = dict(state)
    prefix = model.prefix if isinstance(model, Isotropic) else None
    if "prefix.dist_token" in state and (prefix is None or prefix.dist_token is None):
        raise IsopatchError(
            f"{where}: holds a distilled model, {name} is a plain one: give the distilled name"
        )
    if prefix is None or prefix.dist_token is None or "prefix.dist_token" in state:
        return result
    assert isinstance(model, Isotropic)
    result["prefix.dist_token"] = prefix.dist_token.detach()
    position = model.position
    if isinstance(position, LearnedPositions) and "position.table" in state:
        table = state["position.table"]
        fresh = position.table.detach()[:, 1:2].to(table.dtype)
        if table.shape[2] == fresh.shape[2]:
            result["position.table"] = torch.cat((table[:, :1], fresh, table[:, 1:]), dim=1)
    for key, tensor in model.heads["dist"].state_dict().items():
        result[f"heads.dist.{key}"] = tensor
    log.info("plain weights for a distilled model: its second token, position and head are fresh")
    return result


def resized_positions(
    state: Mapping[str, Tensor],
    model: Classifier,
    old_grid: Grid | None,
    *,
    where: str,
    mode: ResizeMode = "deit",
    changes: list[Change] | None = None,
) -> State:
    """Resize learned positions to the model's grid; prefix entries are kept as they are.

    old_grid: the grid the weights were trained at; None takes the square root of the number of entries, or
    the model's own grid where that is no whole number and the model has as many. Sizes are compared as grids:
    a table for 8x18 does not fit 12x12. mode: see `resize.resize_table`; the default is DeiT's fine-tuning.
    changes: receives what was resized.
    """
    result = dict(state)
    changes = [] if changes is None else changes
    for name, module in model.named_modules():
        if isinstance(module, LearnedPositions) and (table := state.get(f"{name}.table")) is not None:
            count = table.shape[1] - module.prefix_entries
            old = _known_grid(count, old_grid, module.grid, where=where, what=f"{name}.table")
            if old != module.grid:
                resized = resize_table(table, old, module.grid, module.prefix_entries, mode)
                norms = mean_norms(table, resized, module.prefix_entries)
                result[f"{name}.table"] = resized
                changes.append(Change("positions", mode, old, module.grid, norms))
                log.info(
                    "positions resized from a %dx%d grid to %dx%d (%s); mean length %.4f before, %.4f after",
                    *old,
                    *module.grid,
                    mode,
                    *norms,
                )
        elif isinstance(module, LearnedAxisPositions):
            for axis, size in (("y", module.grid[0]), ("x", module.grid[1])):
                table = state.get(f"{name}.{axis}")
                if table is not None and table.shape[1] != size:
                    result[f"{name}.{axis}"] = resize_axis(table, size, mode)
                    old, new = ((n, 1) if axis == "y" else (1, n) for n in (table.shape[1], size))
                    changes.append(Change(f"positions along {axis}", mode, old, new))
                    log.info(
                        "positions along %s resized from %d to %d (%s)", axis, table.shape[1], size, mode
                    )
        elif isinstance(module, RelativeBias) and (table := state.get(f"{name}.table")) is not None:
            offsets = table.shape[0] - module.num_extra
            old = _known_offsets(offsets, old_grid, module.grid, where=where, what=f"{name}.table")
            if old != module.grid:
                result[f"{name}.table"] = resize_offsets(table, old, module.grid, module.num_extra, mode)
                changes.append(Change("relative biases", mode, old, module.grid))
                log.info("relative biases resized from a %dx%d grid to %dx%d (%s)", *old, *module.grid, mode)
    return result


def resize_axis(table: Tensor, size: int, mode: ResizeMode) -> Tensor:
    """Resize (1, places, C) along one axis."""
    line = table.transpose(1, 2).unsqueeze(2)
    return resize_map(line, (1, size), mode).squeeze(2).transpose(1, 2)


def resize_offsets(table: Tensor, old: Grid, new: Grid, num_extra: int, mode: ResizeMode) -> Tensor:
    """Resize relative biases ((2 rows - 1)(2 cols - 1) + extra, heads); the extra rows are kept."""
    offsets = table[: table.shape[0] - num_extra]
    image = offsets.reshape(1, 2 * old[0] - 1, 2 * old[1] - 1, -1).permute(0, 3, 1, 2)
    resized = resize_map(image, (2 * new[0] - 1, 2 * new[1] - 1), mode).permute(0, 2, 3, 1).flatten(0, 2)
    return torch.cat((resized, table[table.shape[0] - num_extra :]), dim=0)


def trained_grid(model: Classifier) -> Grid | None:
    """Return the grid that a model's positions stand for; None where nothing depends on it."""
    for module in model.modules():
        if isinstance(module, LearnedPositions | LearnedAxisPositions | RelativeBias):
            return module.grid
    return None


def _known_grid(count: int, grid: Grid | None, wanted: Grid, *, where: str, what: str) -> Grid:
    """The grid of a table with `count` places: what is known, else a square, else the one asked for."""
    if grid is not None and grid[0] * grid[1] == count:
        return grid
    side = math.isqrt(max(count, 0))
    if side * side != count and wanted[0] * wanted[1] == count:
        return wanted
    if side * side != count or side == 0:
        raise IsopatchError(f"{where}: {what} has {count} places, no square grid, and nothing says which")
    return side, side


def _known_offsets(count: int, grid: Grid | None, wanted: Grid, *, where: str, what: str) -> Grid:
    """The grid of a relative table with `count` offsets; see `_known_grid`."""
    if grid is not None and (2 * grid[0] - 1) * (2 * grid[1] - 1) == count:
        return grid
    side = math.isqrt(max(count, 0))
    if side * side != count and (2 * wanted[0] - 1) * (2 * wanted[1] - 1) == count:
        return wanted
    if side * side != count or side % 2 == 0:
        raise IsopatchError(f"{where}: {what} has {count} offsets, no square grid, and nothing says which")
    return (side + 1) // 2, (side + 1) // 2
