"""Whether the native passes can do what a residual branch does: attention's or an MLP's.

What they cannot do is said in one clause, such as "dim width 72 is not a multiple of 32".
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn

from isopatch.kernels.native.fallback import NOTHING, WEIGHTS, altered
from isopatch.kernels.native.linear import Tokens
from isopatch.kernels.native.norms import LANES
from isopatch.kernels.native.shape import activation_number
from isopatch.nn.block import ResidualBranch, drop_path
from isopatch.nn.channel_mixers import Mlp
from isopatch.nn.token_mixers import Attention

SCALE = frozenset(("scale",))
HEAD_LANES = 16  # a head's width is a multiple of this

# Modules are looked up past `nn.Module.__getattr__`, the slow part of a look.


def unfit_attention(branch: nn.Module) -> str | None:
    """Say why the passes cannot do a branch with attention."""
    reason = _unfit_branch(branch, Attention, "projection_dropout")
    if reason is not None:
        return reason
    attention: Any = branch._modules["mixer"]
    if attention.relative_bias is not None:
        return "relative positions are added to the scores"
    qkv, proj = attention._modules["qkv"], attention._modules["proj"]
    dim = proj.in_features
    widths = (("dim", dim, LANES), ("head", dim // attention.num_heads, HEAD_LANES))
    reason = _unfit_layers(((qkv, (3 * dim, dim)), (proj, (dim, dim))), widths, without_bias=qkv)
    return reason or _unfit_norm(branch, dim)


def unfit_mlp(branch: nn.Module) -> str | None:
    """Say why the passes cannot do a branch with an MLP."""
    reason = _unfit_branch(branch, Mlp, "dropout")
    if reason is not None:
        return reason
    mlp: Any = branch._modules["mixer"]
    activation = mlp._modules["activation"]
    if activation_number(activation) is None:
        return f"the activation {activation} is neither exact GELU nor ReLU"
    fc1, fc2 = mlp._modules["fc1"], mlp._modules["fc2"]
    dim, hidden = fc1.in_features, fc1.out_features
    widths = (("dim", dim, LANES), ("mlp", hidden, LANES))
    reason = altered(activation, (nn.GELU, nn.ReLU), NOTHING)
    reason = reason or _unfit_layers(((fc1, (hidden, dim)), (fc2, (dim, hidden))), widths)
    return reason or _unfit_norm(branch, dim)


def _unfit_branch(branch: nn.Module, kind: type[nn.Module], dropout: str) -> str | None:
    reason = altered(branch, (ResidualBranch,), SCALE if "scale" in branch._parameters else NOTHING)
    if reason is not None:
        return reason
    mixer = cast(nn.Module, branch._modules["mixer"])
    reason = altered(mixer, (kind,), NOTHING)
    return reason or altered(cast(nn.Module, mixer._modules[dropout]), (nn.Dropout,), NOTHING)


def _unfit_layers(
    layers: Sequence[tuple[nn.Linear, tuple[int, int]]],
    widths: Sequence[tuple[str, int, int]],
    without_bias: nn.Linear | None = None,
) -> str | None:
    """layers: each with its weight's shape. widths: name, size, of what it is a multiple."""
    for layer, _ in layers:
        reason = altered(layer, (nn.Linear,), WEIGHTS)
        if reason is not None:
            return reason
        if layer._parameters["bias"] is None and layer is not without_bias:
            return "a linear layer has no bias"
    for name, size, lanes in widths:
        if size % lanes:
            return f"{name} width {size} is not a multiple of {lanes}"
    for layer, shape in layers:
        weight, bias = cast(Tensor, layer._parameters["weight"]), layer._parameters["bias"]
        if weight.shape != shape or (bias is not None and bias.shape != shape[:1]):
            return f"a linear layer is {tuple(weight.shape)}, not {shape}"
    return None


def _unfit_norm(branch: nn.Module, dim: int) -> str | None:
    norm: Any = branch._modules["norm"]
    if type(norm) is not nn.LayerNorm or norm.weight is None or norm.bias is None:
        return f"{type(norm).__name__} is not LayerNorm with weight and bias"
    reason = altered(norm, (nn.LayerNorm,), WEIGHTS)
    if reason is not None:
        return reason
    if any(cast(Tensor, each).shape != (dim,) for each in norm._parameters.values()):
        return f"LayerNorm is not over {dim} channels"
    scale = cast("Tensor | None", branch.scale)
    if scale is not None and scale.shape != (dim,):
        return f"the branch's scale is not of {dim} channels"
    return None


def drops_values(branch: nn.Module) -> bool:
    """Whether single values are dropped now, which the passes do not do; every part has its own mode."""
    mixer: Any = branch._modules["mixer"]
    if isinstance(mixer, Attention):
        scores = mixer.training and mixer.dropout
        last = mixer._modules["projection_dropout"]
    else:
        scores, last = 0.0, mixer._modules["dropout"]
    return bool(scores or (cast(nn.Dropout, last).training and cast(nn.Dropout, last).p))


def keep_factors(branch: ResidualBranch, tokens: Tokens) -> Tensor | None:
    """Draw which pictures' branches are dropped, as the plain branch does: factors (B,), or None."""
    if not (branch.training and branch.drop_path > 0):
        return None
    ones = torch.ones(tokens.images, 1, 1, dtype=tokens.dtype)
    return drop_path(ones, branch.drop_path).flatten().float()
