"""A residual branch with an MLP, x + fc2(act(fc1(norm(x)))), in two native passes each way.

Dosovitskiy et al. 2020, equation 3. B pictures, N tokens, C channels.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor

from isopatch.kernels.native.library import NativeLibrary, floats
from isopatch.kernels.native.linear import Step, Tokens, back, linear, of_branch, step_of
from isopatch.kernels.native.shape import known_activation
from isopatch.nn.block import ResidualBranch
from isopatch.nn.channel_mixers import Mlp


@dataclass
class MlpSteps:
    """The two linear steps."""

    fc1: Step
    fc2: Step


def steps_of(lib: NativeLibrary, branch: ResidualBranch, dtype: torch.dtype, *, backward: bool) -> MlpSteps:
    """Lay both layers of a branch out."""
    mlp = cast(Mlp, branch.mixer)
    act = known_activation(mlp.activation)
    return MlpSteps(
        step_of(lib, "norm", mlp.fc1, branch, act, dtype, backward=backward),
        step_of(lib, "act", mlp.fc2, branch, act, dtype, backward=backward),
    )


@dataclass
class KeptMlp:
    """What the way back reads: the stream before the branch, its rows' mean and 1 / deviation, hidden units.

    keep: factor of each picture's branch (B,), where some are dropped.
    """

    x: Tensor
    statistics: tuple[Tensor, Tensor]
    hidden: Tensor
    keep: Tensor | None


def forward(
    lib: NativeLibrary, tokens: Tokens, x: Tensor, steps: MlpSteps, keep: Tensor | None = None
) -> tuple[Tensor, KeptMlp]:
    """Run the branch over the stream x (B, N, C), float32."""
    statistics = floats(tokens.rows), floats(tokens.rows)
    hidden = linear(lib, tokens, steps.fc1, x, statistics=statistics)
    out = linear(lib, tokens, steps.fc2, hidden, residual=x, keep=keep)
    return out, KeptMlp(x, statistics, hidden, keep)


def backward(
    lib: NativeLibrary, tokens: Tokens, g: Tensor, kept: KeptMlp, steps: MlpSteps, branch: ResidualBranch
) -> dict[str, Tensor]:
    """Turn g (B, N, C), float32, the output's gradient, into the input's; return the parameters' by name."""
    g_hidden = tokens.empty(steps.fc2.inner)
    fc2 = back(lib, tokens, steps.fc2, g, kept.hidden, out=g_hidden, keep=kept.keep)
    fc1 = back(lib, tokens, steps.fc1, g_hidden, kept.x, out=g, statistics=kept.statistics)
    return of_branch(branch, ("fc1", fc1), ("fc2", cast(Mlp, branch.mixer).fc2, fc2))
