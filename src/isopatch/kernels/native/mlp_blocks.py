"""The twin of blocks whose channel step is an MLP, whatever the token step is: MLP-Mixer's and its kin's."""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import Tensor, nn

from isopatch.kernels.native import mlp
from isopatch.kernels.native.branch_fit import drops_values, keep_factors, unfit_mlp
from isopatch.kernels.native.fallback import NOTHING, altered, hooked, served_type, watched
from isopatch.kernels.native.laid_out import LaidOut
from isopatch.kernels.native.library import NativeLibrary, loaded
from isopatch.kernels.native.linear import Tokens
from isopatch.kernels.native.mlp import MlpSteps
from isopatch.kernels.native.native_twin import NativeBlocks
from isopatch.kernels.twin import Precision, Unfit
from isopatch.nn.block import ResidualBranch, TwoStepBlock
from isopatch.nn.blocks import Blocks
from isopatch.nn.channel_mixers import Mlp
from isopatch.nn.layout import Grid


def make(module: nn.Module, precision: Precision) -> nn.Module | Unfit | None:
    """Return the twin of `Blocks` whose channel steps are all pre-norm MLPs."""
    if type(module) is not Blocks or not len(module) or not all(_has_mlp(block) for block in module):
        return None
    reason = "the blocks have hooks" if hooked(module) else altered(module, (Blocks,), NOTHING)
    reason = reason or unfit(module)
    return NativeMlpBlocks(module, precision, loaded()) if reason is None else Unfit(reason)


def _has_mlp(block: nn.Module) -> bool:
    channel: Any = getattr(block, "channel", None)
    return (
        isinstance(block, TwoStepBlock)
        and isinstance(channel, ResidualBranch)
        and isinstance(channel.mixer, Mlp)
    )


def unfit(blocks: nn.Module) -> str | None:
    """Say why the passes cannot do the channel steps of these blocks, or None where they can."""
    for block in blocks._modules.values():
        reason = altered(cast(nn.Module, block), (TwoStepBlock,), NOTHING)
        reason = reason or unfit_mlp(cast(nn.Module, cast(nn.Module, block)._modules["channel"]))
        if reason is not None:
            return reason
    return None if blocks._modules else "there are no blocks"


class NativeMlpBlocks(NativeBlocks):
    """Holds the plain blocks and computes their channel steps in C++. Tokens (B, N, C).

    Returns what the plain blocks return. These run where gradients are asked for, where values are dropped,
    where PyTorch watches (`watched`), for tokens that such blocks do not take, and, said once, where the
    blocks are no longer what was replaced.
    """

    computes = "MLPs of the blocks, inference"
    plain = "MLPs of the blocks run"
    unfit = staticmethod(unfit)
    holds_twins = True  # of the token steps
    _fixed: LaidOut[list[MlpSteps]]

    def forward(self, tokens: Tensor, grid: Grid, *, recompute: bool = False) -> Tensor:
        """Run all blocks."""
        if recompute or watched(tokens) or self._altered() or self._learns(tokens):
            return super().forward(tokens, grid, recompute=recompute)
        lib = loaded()
        for block, steps in zip(cast("list[TwoStepBlock]", list(self)), self._laid_out(lib), strict=True):
            tokens = block.token(tokens, grid)
            branch = cast(ResidualBranch, block.channel)
            if not _takes(branch, tokens) or drops_values(branch):
                tokens = branch(tokens, grid)
                continue
            shape = Tokens(tokens.shape[0], tokens.shape[1], self.dtype)
            with torch.autocast("cpu", enabled=False):
                stream, keep = tokens.float().contiguous(), keep_factors(branch, shape)
                out, _ = mlp.forward(lib, shape, stream, steps, keep)
            tokens = out.to(_result_type(branch, tokens))
        return tokens

    def _learns(self, tokens: Tensor) -> bool:
        """Whether a gradient may be asked for: PyTorch's own products are as fast there (measured)."""
        return torch.is_grad_enabled() and (
            tokens.requires_grad or any(each.requires_grad for each in self.parameters())
        )

    def _laid_out(self, lib: NativeLibrary) -> list[MlpSteps]:
        """The steps of all blocks for inference, made once and again when a parameter changed."""
        branches = [cast(ResidualBranch, block.channel) for block in cast("list[TwoStepBlock]", list(self))]
        settings = [
            (cast(nn.LayerNorm, branch.norm).eps, cast(Mlp, branch.mixer).activation) for branch in branches
        ]

        def made() -> list[MlpSteps]:
            return [mlp.steps_of(lib, branch, self.dtype, backward=False) for branch in branches]

        return self._fixed.of(lib, [each for b in branches for each in b.parameters()], settings, made)


def _takes(branch: ResidualBranch, tokens: Tensor) -> bool:
    """Whether these are tokens of such a branch; what is not, the plain one refuses in its words."""
    if type(tokens) is not Tensor or tokens.dim() != 3 or not served_type(tokens) or tokens.numel() == 0:
        return False
    return tokens.shape[2] == cast(Mlp, branch.mixer).fc1.in_features


def _result_type(branch: ResidualBranch, tokens: Tensor) -> torch.dtype:
    """The type of tokens plus branch: autocast's bfloat16 for the MLP, float32 behind a learned scale."""
    half = torch.is_autocast_enabled("cpu") and branch.scale is None
    return torch.promote_types(tokens.dtype, torch.bfloat16 if half else torch.float32)
