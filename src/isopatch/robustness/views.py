"""A split seen damaged, and prepared pictures cut into tiles and shuffled."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from isopatch.data.seeding import derive_seed
from isopatch.data.source import ImageSource
from isopatch.robustness.corruptions import Corruption, corrupt

Tiles = tuple[int, int]  # down, across


@dataclass(frozen=True)
class Corrupted:
    """The pictures of `source`, each with one damage of one level; an `ImageSource`."""

    source: ImageSource
    kind: Corruption
    level: int
    seed: int

    @property
    def classes(self) -> tuple[str, ...]:
        """The source's."""
        return self.source.classes

    @property
    def labels(self) -> NDArray[np.int64]:
        """The source's."""
        return self.source.labels

    @property
    def fingerprint(self) -> str:
        """The source's, and what was done to it."""
        return f"{self.source.fingerprint}-{self.kind.name}-{self.level}-{self.seed}"

    def __len__(self) -> int:
        """Return the number of pictures."""
        return len(self.source)

    def name(self, index: int) -> str:
        """Where the picture comes from."""
        return self.source.name(index)

    def read(self, index: int) -> Image.Image:
        """Decode picture `index` and damage it."""
        pixels = np.asarray(self.source.read(index).convert("RGB"))
        return Image.fromarray(corrupt(pixels, self.kind, self.level, seed=self.seed, index=index))


def shuffled(images: Tensor, indices: Sequence[int], tiles: Tiles, *, seed: int) -> Tensor:
    """Return pictures (B, C, H, W) whose equal tiles, so many down and across, stand in another order.

    Each picture has its own order, drawn uniformly from (seed, tiles, its index). tiles must divide H and W.
    """
    down, across = tiles
    batch, channels, height, width = images.shape
    if height % down or width % across:
        raise ValueError(f"{down}x{across} tiles do not divide {height}x{width} pixels")
    rows, columns = height // down, width // across
    cut = images.view(batch, channels, down, rows, across, columns).permute(0, 2, 4, 1, 3, 5)
    cut = cut.reshape(batch, down * across, channels, rows, columns)
    grid = (down,) if down == across else tiles
    orders = [
        np.random.Generator(np.random.PCG64(derive_seed("tiles", seed, *grid, index))).permutation(
            down * across
        )
        for index in indices
    ]
    order = torch.from_numpy(np.stack(orders)).to(images.device)
    moved = cut[torch.arange(batch, device=images.device)[:, None], order]
    moved = moved.view(batch, down, across, channels, rows, columns).permute(0, 3, 1, 4, 2, 5)
    return moved.reshape(batch, channels, height, width)


def tilings(height: int, width: int, patch_grid: Tiles | None = None) -> list[Tiles]:
    """Return (down, across) of 2, 4, 8, 16 tiles a side and of the model's own patches, the fewest first.

    Those that divide the picture, and whose tiles are at least 2 pixels a side. patch_grid: the model's
    (rows, cols); its tiles are its patches.
    """
    wanted = {(side, side) for side in (2, 4, 8, 16)}
    if patch_grid is not None:
        wanted.add(patch_grid)
    fitting = [
        (down, across)
        for down, across in wanted
        if down * across > 1 and height % down == 0 and width % across == 0
        if height // down >= 2 and width // across >= 2
    ]
    return sorted(fitting, key=lambda tiles: (tiles[0] * tiles[1], tiles))
