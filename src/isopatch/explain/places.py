"""What a model knows about places: its position table, or the biases of relative positions.

N = rows * cols places, C channels. Prefix tokens have no place and their entries are left out.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from isopatch.explain.tensors import as_numbers
from isopatch.nn.classifier import Classifier
from isopatch.nn.layout import Grid
from isopatch.nn.position import LearnedAxisPositions, LearnedPositions, SinCosPositions
from isopatch.nn.relative_bias import RelativeBias

Field = NDArray[np.float64]


class Table(NamedTuple):
    """One vector per place. kind: in words. field: (rows, cols, C)."""

    kind: str
    field: Field


class Biases(NamedTuple):
    """One number per offset, head and layer. grid: of the patches. field: (2 rows - 1, 2 cols - 1, heads) of
    each layer; the middle is offset 0."""

    grid: Grid
    layers: list[Field]


def position_table(model: Classifier) -> Table | None:
    """Return the vectors that are added to the patches, without prefix entries; None where there are none."""
    for module in model.modules():
        if isinstance(module, LearnedPositions):
            table = module.table[0, module.prefix_entries :]
            return Table("learned", as_numbers(table).reshape(*module.grid, -1))
        if isinstance(module, SinCosPositions):
            return Table("sine-cosine, fixed", as_numbers(module.table[0]).reshape(*module.grid, -1))
        if isinstance(module, LearnedAxisPositions):
            rows, cols = module.grid
            x, y = as_numbers(module.x[0]), as_numbers(module.y[0])
            parts = (
                np.broadcast_to(x, (rows, *x.shape)),
                np.broadcast_to(y[:, None], (rows, cols, y.shape[1])),
            )
            return Table("learned, rows and columns apart", np.concatenate(parts, axis=-1))
    return None


def relative_biases(model: Classifier) -> Biases | None:
    """Return the tables of relative positions, layer by layer; None where there are none."""
    found = [module for module in model.modules() if isinstance(module, RelativeBias)]
    if not found:
        return None
    grid = found[0].grid
    shape = (2 * grid[0] - 1, 2 * grid[1] - 1)
    offsets = shape[0] * shape[1]
    return Biases(grid, [as_numbers(bias.table[:offsets]).reshape(*shape, -1) for bias in found])


def cosines(field: Field) -> NDArray[np.float64]:
    """Return the cosine of each place's vector with all others, (N, N); NaN where a vector is zero."""
    flat = field.reshape(-1, field.shape[-1])
    norms = np.linalg.norm(flat, axis=1)
    unit = np.divide(flat, norms[:, None], out=np.full_like(flat, np.nan), where=norms[:, None] > 0)
    similarity: NDArray[np.float64] = np.clip(unit @ unit.T, -1.0, 1.0)
    return similarity


class Profiles(NamedTuple):
    """Means over pairs of places. column[d]: d columns apart in one row; row[d]: d rows apart in one column;
    distance: (radius, mean) by the distance rounded to whole places."""

    column: Field
    row: Field
    distance: tuple[Field, Field]


def profiles(similarity: NDArray[np.float64], grid: Grid) -> Profiles:
    """Return how a similarity (N, N) falls off along rows, along columns and with distance; NaN left out."""
    rows, cols = grid
    y, x = (axis.ravel() for axis in np.mgrid[:rows, :cols])
    down, across = np.abs(y[:, None] - y), np.abs(x[:, None] - x)
    return Profiles(
        _means(similarity, across, down == 0, cols),
        _means(similarity, down, across == 0, rows),
        by_distance(similarity, np.hypot(down, across)),
    )


def by_distance(values: NDArray[np.float64], distance: NDArray[np.float64]) -> tuple[Field, Field]:
    """Return (distances rounded to whole places, mean of the values there)."""
    whole = np.rint(distance).astype(np.int64)
    mean = _means(values, whole, np.ones_like(whole, dtype=bool), int(whole.max()) + 1)
    return np.arange(len(mean), dtype=np.float64), mean


def _means(
    values: NDArray[np.float64], key: NDArray[np.int64], where: NDArray[np.bool_], count: int
) -> Field:
    """Mean of values by key, (count,); NaN where a key has none."""
    used = where & np.isfinite(values)
    number = np.bincount(key[used], minlength=count)
    total = np.bincount(key[used], weights=values[used], minlength=count)
    mean: Field = np.divide(total, number, out=np.full(count, np.nan), where=number > 0)
    return mean
