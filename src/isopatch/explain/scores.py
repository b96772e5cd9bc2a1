"""Is a map better than chance at saying what the model uses? Deletion and insertion, against random orders.

Petsiuk et al. 2018 (RISE), section 4.1. Cells of a picture are covered one after another, the most important
first, and the class's probability is followed from the whole picture to the blank one: the area under that
curve is the deletion score, low is good. Insertion goes from blank to whole, high is good. Blank is the
picture's mean colour in both, so an insertion is a deletion in the reverse order, read backwards.

The control: the same for random orders. A map passes only when it beats all of them. If it had nothing to do
with what the model uses, it would be one more random order, and be the best of ORDERS + 1 with a chance of
1 in 20.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from isopatch.explain.heat import log_probabilities, mean_colour
from isopatch.nn.classifier import Classifier
from isopatch.nn.layout import Grid

ORDERS = 19
STEPS = 16  # of a curve, at most
MOST_CELLS = 16  # a side; a finer map is averaged to it


@dataclass(frozen=True)
class Area:
    """One area under a curve, and those of the random orders. low: whether low is good, as of deletion."""

    value: float
    curve: tuple[float, ...]
    random: tuple[float, ...]
    low: bool

    @property
    def best(self) -> float:
        """The best of the random orders."""
        return min(self.random) if self.low else max(self.random)

    @property
    def better(self) -> bool:
        """Whether it beats all of them, by more than rounding."""
        return (self.best - self.value if self.low else self.value - self.best) > 1e-6

    def to_json(self) -> dict[str, Any]:
        """Return plain values."""
        return {
            "area": round(self.value, 4),
            "random_mean": round(sum(self.random) / len(self.random), 4),
            "random_best": round(self.best, 4),
            "curve": [round(point, 4) for point in self.curve],
            "passed": self.better,
        }


@dataclass(frozen=True)
class Faithful:
    """Both areas of one map."""

    deletion: Area
    insertion: Area


class Scorer:
    """Scores maps of one picture for one class; the random orders are run once for every grid of cells."""

    def __init__(self, model: Classifier, picture: Tensor, target: int, *, seed: int = 0) -> None:
        """picture: (1, C, H, W), as it enters the model."""
        self.model = model
        self.picture = picture
        self.target = target
        self.seed = seed
        self._random: dict[Grid, list[list[float]]] = {}

    def __call__(self, values: Tensor) -> Faithful | None:
        """Score a map (rows, cols); None where it orders nothing, being constant."""
        cells = coarse(values)
        if cells.numel() < 2 or bool((cells == cells.flatten()[0]).all()):
            return None
        grid = (cells.shape[0], cells.shape[1])
        order = cells.flatten().argsort(descending=True, stable=True)
        away, back = self._curves([order, order.flip(0)], grid)
        if grid not in self._random:
            self._random[grid] = self._curves(random_orders(cells.numel(), self.seed), grid)
        # A random order read backwards is a random order: one set of curves serves both scores.
        random = tuple(area(curve) for curve in self._random[grid])
        deletion, insertion = area(away), area(back)
        return Faithful(
            Area(deletion, tuple(away), random, low=True),
            Area(insertion, tuple(reversed(back)), random, low=False),
        )

    def _curves(self, orders: Sequence[Tensor], grid: Grid) -> list[list[float]]:
        """Return, for each order, the target's probability after 0, ..., all cells were covered."""
        counts = covered_counts(grid[0] * grid[1])
        rank = torch.stack([order.argsort() for order in orders])  # of each cell
        covered = torch.stack([rank < count for count in counts], dim=1)  # orders, steps, cells
        masks = F.interpolate(covered.flatten(0, 1).view(-1, 1, *grid).float(), size=self.picture.shape[-2:])
        fill = mean_colour(self.picture)
        device = self.picture.device
        found = [
            log_probabilities(self.model, torch.where(part.to(device) > 0, fill, self.picture))
            for part in torch.split(masks, 64)
        ]
        curves: list[list[float]] = (
            torch.cat(found)[:, self.target].exp().view(len(orders), len(counts)).tolist()
        )
        return curves


def coarse(values: Tensor) -> Tensor:
    """Average a map (rows, cols) down to at most MOST_CELLS a side."""
    size = (min(values.shape[0], MOST_CELLS), min(values.shape[1], MOST_CELLS))
    if size == tuple(values.shape):
        return values
    return F.adaptive_avg_pool2d(values[None, None], size)[0, 0]


def covered_counts(cells: int) -> list[int]:
    """Return how many cells are covered at each step, from none to all."""
    steps = min(cells, STEPS)
    return [round(step * cells / steps) for step in range(steps + 1)]


def area(curve: Sequence[float]) -> float:
    """Return the mean height of a curve of equal steps, by trapezoids."""
    return (sum(curve) - (curve[0] + curve[-1]) / 2) / (len(curve) - 1)


def random_orders(cells: int, seed: int) -> list[Tensor]:
    """Return ORDERS permutations of the cells."""
    generator = torch.Generator().manual_seed(seed)
    return [torch.randperm(cells, generator=generator) for _ in range(ORDERS)]
