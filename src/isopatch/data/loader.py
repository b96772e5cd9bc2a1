"""Batches for training and evaluation: the same for every number of workers."""

from __future__ import annotations

import itertools
from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass, replace
from types import TracebackType
from typing import Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from isopatch.data.augment import TrainTransform
from isopatch.data.crops import Picture, Pixels
from isopatch.data.memory import keep_in_memory
from isopatch.data.sampler import BatchIndices, EpochSampler
from isopatch.data.seeding import derive_seed
from isopatch.data.source import ImageSource, picture_of
from isopatch.data.workers import load_in_order, shared_places
from isopatch.image.contract import InputContract
from isopatch.image.prepare import normalise, prepare_uint8


@dataclass(frozen=True)
class TrainBatch:
    """All samples of one optimiser step on this rank.

    images: (B, 3, H, W) float32. labels, indices: (B,) int64; indices into the source. step: counted over
    the whole run, from 0. view: the step whose pictures these are, another one where views repeat; whatever
    else is drawn for the pictures (mixing) is drawn for it.
    """

    images: Tensor
    labels: Tensor
    indices: Tensor
    epoch: int
    step: int
    view: int


@dataclass(frozen=True)
class EvalBatch:
    """images: (B, 3, H, W) float32. labels, indices: (B,) int64; the last batch may be smaller."""

    images: Tensor
    labels: Tensor
    indices: Tensor


class TrainLoader:
    """Iterates over the run's steps start..stop-1, across epochs; workers start once and end with it.

    Step s is a function of (source, transform, sampler, data_seed, s): a run continued at any step sees what
    the uninterrupted one saw. Use it as a context manager, or call `close`.
    """

    def __init__(
        self,
        source: ImageSource,
        transform: TrainTransform,
        sampler: EpochSampler,
        *,
        workers: int,
        data_seed: int,
        start: int,
        stop: int,
        memory_limit_mb: float = 0.0,
        short_side: int | None = None,
    ) -> None:
        """memory_limit_mb: decode the source now and keep it if it fits (`keep_in_memory`).

        short_side: decode JPEG files in a reduced size (`image.decode.decode_picture`); other pixels.
        """
        source = keep_in_memory(source, limit_mb=memory_limit_mb)
        self._load = _TrainLoad(source, transform, sampler, data_seed, short_side)
        self._steps = range(start, stop)
        self._workers = workers
        self._results: Generator[Tensor | None, None, None] | None = None

    def __iter__(self) -> Iterator[TrainBatch]:
        """Yield one `TrainBatch` a step; iterating again begins again at `start`."""
        self.close()
        workers = min(self._workers, len(self._steps))
        pictures = len(self._load.samples(self._steps.start)[1].indices) if self._steps else 0
        places = shared_places(self._load.transform.shape(pictures), workers=workers)
        load = replace(self._load, places=places)
        self._results = load_in_order(load, self._steps, workers=workers)
        for step, result in zip(self._steps, self._results, strict=True):
            _, batch = self._load.samples(step)
            pixels = load.place(step) if result is None else result.numpy()
            yield TrainBatch(
                # Finished here: uint8 takes a quarter of the shared memory and of the time to send it.
                images=self._load.transform.finish(pixels, self._load.seeds(step)),
                labels=torch.from_numpy(self._load.source.labels[batch.indices]),
                indices=torch.from_numpy(batch.indices),
                epoch=step // self._load.sampler.steps_per_epoch,
                step=step,
                view=self._load.sampler.view(step),
            )

    def close(self) -> None:
        """End the workers; without effect where none run."""
        if self._results is not None:
            self._results.close()
            self._results = None

    def __enter__(self) -> Self:
        """Return the loader."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """End the workers."""
        self.close()


def eval_batches(
    source: ImageSource,
    contract: InputContract,
    *,
    batch_size: int,
    workers: int = 0,
    memory_limit_mb: float = 0.0,
    indices: Sequence[int] | NDArray[np.int64] | None = None,
) -> Generator[EvalBatch, None, None]:
    """Yield every picture exactly once, in order, prepared as the contract says: no padding, nothing dropped.

    indices: only these pictures, in this order. memory_limit_mb: decode first and keep if it fits; pass a
    source from `keep_in_memory` instead where several passes follow. Closing the generator ends the workers.
    """
    assert batch_size >= 1, batch_size
    source = keep_in_memory(source, limit_mb=memory_limit_mb)
    chosen = np.arange(len(source)) if indices is None else np.asarray(indices)
    load = _EvalLoad(source, contract, chosen.astype(np.int64), batch_size)
    stacks = load_in_order(load, range(-(-len(chosen) // batch_size)), workers=workers)
    try:
        for number, pixels in enumerate(stacks):
            members = load.members(number)
            # Normalised here: uint8 takes a quarter of the shared memory.
            yield EvalBatch(
                images=normalise(pixels, contract),
                labels=torch.from_numpy(source.labels[members]),
                indices=torch.from_numpy(members),
            )
    finally:
        stacks.close()


@dataclass(frozen=True)
class _TrainLoad:
    """What a worker does for one training step. places: where the result goes; None: it is returned."""

    source: ImageSource
    transform: TrainTransform
    sampler: EpochSampler
    data_seed: int
    short_side: int | None
    places: Pixels | None = None

    def samples(self, step: int) -> tuple[int, BatchIndices]:
        """The epoch that the pictures of a step are seen in, and the pictures."""
        epoch, step_of_epoch = divmod(self.sampler.view(step), self.sampler.steps_per_epoch)
        return epoch, self.sampler.batch(epoch, step_of_epoch)

    def seeds(self, step: int) -> list[int]:
        """The seed of each picture's changes."""
        epoch, batch = self.samples(step)
        return [
            derive_seed(self.data_seed, "augment", epoch, index, copy)
            for index, copy in zip(batch.indices.tolist(), batch.copies.tolist(), strict=True)
        ]

    def place(self, step: int) -> Pixels:
        """Where the result of a step goes."""
        assert self.places is not None
        place: Pixels = self.places[step % len(self.places)]
        return place

    def _pictures(self, indices: list[int]) -> Iterator[Picture]:
        """Decode the pictures, each once where it stands several times in a row (repeated augmentation)."""
        for index, same in itertools.groupby(indices):
            picture = picture_of(self.source, index, short_side=self.short_side)
            for _ in same:
                yield picture

    def __call__(self, step: int) -> Tensor | None:
        _, batch = self.samples(step)
        pictures = self._pictures(batch.indices.tolist())
        if self.places is None:
            return torch.from_numpy(self.transform.pixels(pictures, self.seeds(step)))
        self.transform.pixels(pictures, self.seeds(step), out=self.place(step))
        return None


@dataclass(frozen=True)
class _EvalLoad:
    """What a worker does for one evaluation batch."""

    source: ImageSource
    contract: InputContract
    indices: NDArray[np.int64]
    batch_size: int

    def members(self, number: int) -> NDArray[np.int64]:
        return self.indices[number * self.batch_size : (number + 1) * self.batch_size].copy()

    def __call__(self, number: int) -> Tensor:
        pictures = (self.source.read(index) for index in self.members(number).tolist())
        return torch.stack([prepare_uint8(picture, self.contract) for picture in pictures])
