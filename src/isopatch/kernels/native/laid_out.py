"""What twins keep for inference: weights laid out for the passes, and what they were made from."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Generic, TypeVar

import torch
from torch import Tensor

from isopatch.kernels.native.library import NativeLibrary

T = TypeVar("T")


class LaidOut(Generic[T]):
    """A value made from tensors, made again when these are others or have changed.

    Changes that PyTorch counts are always seen. Those behind its back (through `.data`) are seen where they
    touch a value that is looked at: every one of a vector, some sixty of a matrix. `forget` is for the rest.
    It is neither copied nor pickled: a copy begins empty.
    """

    def __init__(self) -> None:
        """Begin empty."""
        self._kept: tuple[list[Tensor], Any, T] | None = None

    def of(self, lib: NativeLibrary, tensors: Sequence[Tensor], settings: object, make: Callable[[], T]) -> T:
        """Return what `make` makes of the tensors (float32, on the CPU) and settings, or made before."""
        kept, state = self._kept, _state(lib, tensors, settings)
        if (
            kept is not None
            and state is not None
            and kept[1] == state
            and len(kept[0]) == len(tensors)
            and all(map(_same, kept[0], tensors))
        ):
            return kept[2]
        made = make()
        self._kept = None if state is None else (list(tensors), state, made)
        return made

    def forget(self) -> None:
        """Make the value anew next time."""
        self._kept = None

    def __reduce__(self) -> tuple[type[LaidOut[T]], tuple[()]]:
        """A copy begins empty."""
        return LaidOut, ()


def _same(a: Tensor, b: Tensor) -> bool:
    return a is b


def _state(lib: NativeLibrary, tensors: Sequence[Tensor], settings: object) -> Any:
    """Return what tells a later state of the same tensors from this one; None where nothing does.

    That is the case for tensors of inference mode, whose changes are not counted. What was computed from
    others is made anew with them and not kept either.
    """
    for tensor in tensors:
        if tensor.is_inference() or not tensor.is_leaf or not _dense(tensor):
            return None
    places = [(tensor.data_ptr(), tensor._version) for tensor in tensors]
    return lib.instructions, settings, places, lib.sample(tensors)


def _dense(tensor: Tensor) -> bool:
    return tensor.is_contiguous() or (
        tensor.dim() == 4 and tensor.is_contiguous(memory_format=torch.channels_last)
    )
