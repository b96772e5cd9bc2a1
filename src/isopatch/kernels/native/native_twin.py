"""What the native twins share: how they take over plain modules, and when these run after all."""

from __future__ import annotations

from abc import abstractmethod
from typing import Any, ClassVar, Self

import torch
from torch import nn

from isopatch.kernels.intact import Intact
from isopatch.kernels.native.fallback import Teller
from isopatch.kernels.native.laid_out import LaidOut
from isopatch.kernels.native.library import NativeLibrary
from isopatch.kernels.twin import Precision
from isopatch.nn.blocks import Blocks


class NativeTwin(nn.Module):
    """Holds what was replaced, in its own names, and keeps an eye on it."""

    twin_library = "native"
    #: in a swap's report, such as "ConvMixer blocks"
    computes: ClassVar[str]
    #: what is said to run in its place, such as "ConvMixer blocks run"
    plain: ClassVar[str]

    @staticmethod
    @abstractmethod
    def unfit(module: nn.Module, /) -> str | None:
        """Say why the passes cannot stand in for what is held now, or None where they can."""

    def _prepare(self, precision: Precision, lib: NativeLibrary) -> None:
        self.dtype = torch.bfloat16 if precision == "bf16" else torch.float32
        self.twin_name = f"native {self.computes}, {precision}, {lib.instructions}"
        self._fixed: LaidOut[Any] = LaidOut()
        self._tell = Teller(self.plain, self.twin_library)
        self._intact = Intact()

    def train(self, mode: bool = True) -> Self:
        """Set the mode; what was laid out for inference is made anew."""
        self._fixed.forget()
        return super().train(mode)

    def _altered(self) -> bool:
        """Whether the parts are no longer what the passes can stand in for, which is said once."""
        return not self._intact() and self._tell.unless_fit(self._intact, self, type(self).unfit(self))


class NativeBlocks(NativeTwin, Blocks):
    """A twin of a whole run of blocks."""

    def __init__(self, blocks: Blocks, precision: Precision, lib: NativeLibrary) -> None:
        """Take over the blocks, without a copy."""
        super().__init__(blocks)
        self._prepare(precision, lib)

    def __getitem__(self, index: int | slice) -> Any:
        """Return a block, or plain `Blocks` of some."""
        return Blocks(list(self)[index]) if isinstance(index, slice) else super().__getitem__(index)
