"""The weights over places of MLP-Mixer, ResMLP and gMLP as pictures of the grid.

N = rows * cols places. Tolstikhin et al. 2021, figure 5 (rows of the token MLP's first layer); Touvron et al.
2021 (ResMLP), section 3, and Liu et al. 2021 (gMLP), figure 3 (one row per place that is written).
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from isopatch.explain.contract import Context, Figure
from isopatch.explain.drawing import plain, sheet, signed, spread
from isopatch.explain.parts import mixing_parts
from isopatch.explain.tensors import as_numbers
from isopatch.models.external.wrapper import External
from isopatch.nn.classifier import Classifier
from isopatch.nn.fixed_mixers import RandomMixer
from isopatch.nn.layout import Grid
from isopatch.nn.token_mlp import SpatialGate, TokenLinear, TokenMlp

PER_BLOCK = 14
BLOCKS = 16
SOURCE = (
    "Tolstikhin et al. 2021, figure 5; Touvron et al. 2021 (ResMLP), section 3; Liu et al. 2021, figure 3"
)


class TokenMap(NamedTuple):
    """Weights of one block. rows: (R, N). placed: row i writes place i of the grid (else a hidden unit)."""

    block: int
    kind: str
    rows: NDArray[np.float64]
    grid: Grid
    placed: bool


def missing(model: Classifier) -> str | None:
    """Say why a model has no such maps."""
    if isinstance(model, External):
        return "is another library's, whose weights over places are not known here"
    return None if token_maps(model) else "has no weights over places (no token-MLP, token-linear, gate)"


def token_maps(model: Classifier) -> list[TokenMap]:
    """Return the maps by depth; of a token-MLP the rows of its first layer, one per hidden unit."""
    found = []
    for block, part in mixing_parts(model):
        if isinstance(part, TokenMlp):
            weight, kind, placed = part.mlp.fc1.weight, "token-MLP", False
        elif isinstance(part, TokenLinear | SpatialGate):
            kind = "token-linear" if isinstance(part, TokenLinear) else "spatial gate"
            weight, placed = part.linear.weight, True
        elif isinstance(part, RandomMixer):
            weight, kind, placed = part.weights, "fixed random", True
        else:
            continue
        assert isinstance(part, TokenMlp | TokenLinear | SpatialGate | RandomMixer)
        rows = as_numbers(weight)
        found.append(TokenMap(block, kind, rows, part.grid, placed))
    return found


def frequency(rows: NDArray[np.float64], grid: Grid) -> NDArray[np.float64]:
    """Return the mean spatial frequency of each row (R, N), in periods per place, 0 to about 0.7.

    The mean over the picture's Fourier transform, weighted by power, its constant part left out; 0 for a
    row of equal weights.
    """
    spectrum = np.abs(np.fft.fft2(rows.reshape(-1, *grid))) ** 2
    down, across = (np.fft.fftfreq(extent) for extent in grid)
    size = np.hypot(down[:, None], across[None, :])
    spectrum[:, 0, 0] = 0.0
    total = spectrum.sum(axis=(1, 2))
    weighted = (spectrum * size).sum(axis=(1, 2))
    waves: NDArray[np.float64] = np.divide(weighted, total, out=np.zeros_like(total), where=total > 1e-24)
    return waves


def make(context: Context) -> list[Figure]:
    """Draw some rows of every block."""
    maps = token_maps(context.model)
    placed = maps[0].placed
    rows, data = [], []
    for index in spread(len(maps), BLOCKS):
        found = maps[index]
        if found.placed:
            picked = np.array(spread(len(found.rows), PER_BLOCK))
            order = {"place": picked.tolist()}
        else:
            waves = frequency(found.rows, found.grid)
            ranks = np.argsort(waves, kind="stable")
            picked = ranks[spread(len(ranks), PER_BLOCK)]
            order = {"unit": picked.tolist(), "frequency": plain(waves[picked])}
        pictures = [signed(found.rows[i].reshape(found.grid)) for i in picked]
        rows.append((f"block {found.block}", pictures))
        data.append({"block": found.block, "kind": found.kind, "grid": list(found.grid), **order})
    reading = (
        "Each picture holds the weights with which one place of the grid reads all the others; the places "
        "run from the upper left to the lower right corner. A spot that moves along is a local filter, as a "
        "convolution has."
        if placed
        else "Each picture holds the weights of one hidden unit over the grid, evenly spaced units in the "
        "order of their mean spatial frequency: smooth ones left, fine ones right."
    )
    size = "Every picture is scaled by its own largest weight: red positive, blue negative, white zero."
    count = "" if len(rows) == len(maps) else f" {len(rows)} of {len(maps)} blocks are shown."
    return [
        Figure(
            name="maps",
            title=f"Token-mixing weights by depth ({maps[0].kind})",
            caption=f"{reading} {size}{count}",
            svg=sheet(rows, title="Token-mixing weights by depth", gap=0.1),
            data={"blocks": data},
        )
    ]
