"""What every native pass is told: sizes, storage type, activation."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from isopatch.kernels.native.library import dtype_number
from isopatch.nn.layout import Grid

CHUNK = 192  # rows (places of all pictures) of one partial sum
WEIGHT_SUMS = 2**26  # bytes that partial sums of one weight's gradient may take
FEW_GROUPS, MANY_GROUPS = 8, 32
ROWS_PER_GROUP = 4096  # where groups are more than few: to clear and add up sums is little beside so many


def weight_groups(rows: int, chunks: int, sums_bytes: int) -> int:
    """Return how many parts of a weight's gradient are summed apart, each by one thread.

    A rule of sizes alone: the gradient's bits are the same with any number of threads.
    """
    wanted = max(FEW_GROUPS, min(MANY_GROUPS, rows // ROWS_PER_GROUP))
    return max(1, min(chunks, wanted, WEIGHT_SUMS // sums_bytes))


@dataclass
class Shape:
    """What every pass is told."""

    images: int
    grid: Grid
    channels: int
    dtype: torch.dtype

    @property
    def rows(self) -> int:
        """Places of all pictures."""
        return self.images * self.grid[0] * self.grid[1]

    @property
    def chunks(self) -> int:
        """Partial sums over the rows."""
        return -(-self.rows // CHUNK)

    def empty(self) -> Tensor:
        """Memory for one activation (B, N, C)."""
        places = self.grid[0] * self.grid[1]
        return torch.empty(self.images, places, self.channels, dtype=self.dtype, device="cpu")

    def rowwise(self, act: int) -> dict[str, Any]:
        """The members that passes over rows share."""
        return {"dtype": dtype_number(self.dtype), "act": act, "rows": self.rows, "chunk": CHUNK}

    def shared_rows(self, act: int, tile: int) -> dict[str, Any]:
        """The same for a pass without sums, whose rows are dealt out evenly. tile: rows of one product."""
        return {**self.rowwise(act), "chunk": _even_chunk(self.rows, torch.get_num_threads(), tile)}

    def mapwise(self, act: int, kernel: int) -> dict[str, Any]:
        """The members that passes over maps share."""
        return {
            "dtype": dtype_number(self.dtype),
            "act": act,
            "images": self.images,
            "height": self.grid[0],
            "width": self.grid[1],
            "channels": self.channels,
            "kernel": kernel,
            "pad_top": (kernel - 1) // 2,
            "pad_left": (kernel - 1) // 2,
        }


@functools.cache
def _even_chunk(rows: int, threads: int, tile: int) -> int:
    """Rows of a task, CHUNK at most: with 3 % more for the busiest thread than it need have."""

    def of_the_busiest(size: int) -> int:
        tasks = -(-rows // size)
        short = tasks * size - rows if tasks % threads == 1 % threads else 0  # the last task is its own
        return -(-tasks // threads) * size - short

    sizes = range(tile, CHUNK + 1, tile)
    least = min(map(of_the_busiest, sizes))
    return max(size for size in sizes if of_the_busiest(size) <= 1.03 * least)


def activation_number(activation: nn.Module) -> int | None:
    """The C interface's number of an activation; None for one it does not have."""
    if type(activation) is nn.GELU and activation.approximate == "none":
        return 0
    return 1 if type(activation) is nn.ReLU else None


def known_activation(activation: nn.Module) -> int:
    """The number of an activation that was found to have one."""
    number = activation_number(activation)
    if number is None:
        raise RuntimeError(f"the native kernels have no {activation}")
    return number
