"""Which pictures make up a step: a pure function of (data_seed, epoch, step), the same for any worker count.

Positions 0, 1, 2, ... of an epoch map to pictures through the epoch's permutation; step s of the epoch is
positions [s * B, (s + 1) * B) for the global batch B, and rank r of w takes every w-th of them from r on.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from isopatch.data.seeding import derive_seed
from isopatch.errors import UsageError

# DeiT cuts an epoch of repeated augmentation to a multiple of this (deit/samplers.py, RASampler).
REPEATED_EPOCH_MULTIPLE = 256


@dataclass(frozen=True)
class BatchIndices:
    """The samples of one step on one rank.

    indices: (B,) int64, pictures of the source. copies: (B,) int64, which repetition of the picture each is;
    all 0 without repeated augmentation. (index, copy) pairs are unique within an epoch.
    """

    indices: NDArray[np.int64]
    copies: NDArray[np.int64]


class EpochSampler:
    """Shuffled steps of a fixed size; what is left of an epoch after the last whole step is dropped.

    repeats: repeated augmentation (Hoffer et al. 2020) as DeiT does it: each picture stands `repeats` times
        in a row, the ranks take turns, and the epoch is cut to floor(N / 256) * 256 samples over all ranks
        (N where N < 256), so it sees about one picture in `repeats`. Unlike there, it works on one rank.
    views: epochs after which everything repeats; None: never.
    """

    def __init__(
        self,
        num_samples: int,
        *,
        global_batch: int,
        data_seed: int,
        repeats: int = 1,
        views: int | None = None,
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        """Raise UsageError where the epoch does not fill a single global batch."""
        assert 0 <= rank < world_size, f"rank {rank} of {world_size}"
        assert global_batch >= 1 and repeats >= 1, (global_batch, repeats)
        epoch_length = num_samples
        if repeats > 1 and num_samples >= REPEATED_EPOCH_MULTIPLE:
            epoch_length -= num_samples % REPEATED_EPOCH_MULTIPLE
        if epoch_length < global_batch:
            raise UsageError(_too_large(num_samples, epoch_length, global_batch))
        if world_size > global_batch:
            raise UsageError(f"batch_size {global_batch} gives {world_size} ranks less than one picture each")
        self.global_batch = global_batch
        self.steps_per_epoch = epoch_length // global_batch
        self._num_samples = num_samples
        self._data_seed = data_seed
        self._repeats = repeats
        self._views = views
        self._rank = rank
        self._world_size = world_size
        self._latest: tuple[int, NDArray[np.int64]] | None = None

    def view(self, step: int) -> int:
        """Return the step of the run whose order, augmentation and mixing `step` repeats."""
        return step if self._views is None else step % (self._views * self.steps_per_epoch)

    def batch(self, epoch: int, step: int) -> BatchIndices:
        """Return this rank's samples of step `step` (0 <= step < steps_per_epoch) of `epoch`."""
        assert epoch >= 0 and 0 <= step < self.steps_per_epoch, (epoch, step, self.steps_per_epoch)
        start = step * self.global_batch
        positions = np.arange(start + self._rank, start + self.global_batch, self._world_size, dtype=np.int64)
        return BatchIndices(self._order(epoch)[positions // self._repeats], positions % self._repeats)

    def _order(self, epoch: int) -> NDArray[np.int64]:
        # The permutation is remembered for the next step only because it takes 20 ms for a million pictures.
        if self._latest is None or self._latest[0] != epoch:
            self._latest = (epoch, epoch_order(self._num_samples, self._data_seed, epoch))
        return self._latest[1]


def epoch_order(num_samples: int, data_seed: int, epoch: int) -> NDArray[np.int64]:
    """Return the permutation (N,) int64 of an epoch."""
    seed = derive_seed(data_seed, "order", epoch)
    # RandomState because NumPy froze its streams (NEP 19): a run resumed under a newer NumPy keeps its order.
    generator = np.random.RandomState([seed & 0xFFFF_FFFF, seed >> 32])
    return generator.permutation(num_samples).astype(np.int64, copy=False)


def _too_large(num_samples: int, epoch_length: int, global_batch: int) -> str:
    if epoch_length == 0:
        return "no picture to train on: the training split is empty"
    power = 1 << (epoch_length.bit_length() - 1)
    cut = f" ({epoch_length} after the cut of repeated augmentation)" if epoch_length < num_samples else ""
    return (
        f"batch_size {global_batch} is more than the {num_samples} training pictures{cut}; "
        f"give a batch_size of at most {epoch_length}, for example {power}"
    )
