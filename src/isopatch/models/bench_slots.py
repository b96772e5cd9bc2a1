"""The slots of the bench: what each setting may be, the part it stands for, which settings exclude others."""

from __future__ import annotations

from typing import Literal, NamedTuple

from torch import nn

from isopatch.errors import UsageError
from isopatch.models.arguments import NotTaken
from isopatch.models.gmlp import GatedMlp
from isopatch.models.vit import Pool, Position
from isopatch.nn.activations import Activation, make_activation
from isopatch.nn.channel_mixers import GatedLinear, Mlp, Pointwise
from isopatch.nn.checks import divisible, positive
from isopatch.nn.conv_stem import ConvStem, conv_pool_trunk, overlapping_trunk
from isopatch.nn.conv_stem import prime_factors as prime_factors
from isopatch.nn.fixed_mixers import IdentityMixer, PoolMixer, RandomMixer
from isopatch.nn.layout import Grid
from isopatch.nn.norms import Affine, batch_norm, layer_norm
from isopatch.nn.pyramid import merged_grid
from isopatch.nn.relative_bias import RelativeBias
from isopatch.nn.stem import PatchStem
from isopatch.nn.step import NormPlace
from isopatch.nn.token_mixers import Attention, Depthwise
from isopatch.nn.token_mlp import TokenLinear, TokenMlp
from isopatch.nn.token_norms import MapAffine, MapLayerNorm, TokenBatchNorm

Stem = Literal["patch", "overlap", "conv-pool"]
TokenMixer = Literal[
    "attention", "depthwise", "token-mlp", "token-linear", "gate", "pool", "identity", "random"
]
ChannelMixer = Literal["mlp", "pointwise", "gated"]
Norm = Literal["layer", "batch", "affine", "none"]
Residual = Literal["each", "token", "block", "none"]
ActivationPlace = Literal["mlp", "token", "both", "none"]


class StageShape(NamedTuple):
    """One stage: width, number of blocks, grid. An isotropic model is one stage."""

    dim: int
    depth: int
    grid: Grid


def check_together(
    *,
    token_mixer: TokenMixer,
    channel_mixer: ChannelMixer,
    residual: Residual,
    norm_place: NormPlace,
    activation_place: ActivationPlace,
    position: Position,
    class_token: bool,
    distillation_token: bool,
    pool: Pool,
    pyramid: bool,
    layer_scale: float | None,
    dropout: float,
    attention_dropout: float,
    drop_path: float,
) -> None:
    """Raise UsageError, naming both settings, for models that cannot exist, and for rates without a part."""
    gate = token_mixer == "gate"
    mlps = channel_mixer in ("mlp", "gated") or token_mixer == "token-mlp"
    refused = [
        (
            class_token and token_mixer != "attention",
            f"class_token true cannot be combined with token_mixer '{token_mixer}', which has no place for a "
            f"token outside the grid: set class_token false and pool 'norm-mean'",
        ),
        (
            class_token and pyramid,
            "class_token true cannot be combined with stage_depths: a pyramid merges neighbours, and the "
            "class token has none; set class_token false and pool 'norm-mean'",
        ),
        (
            pool == "class" and not class_token,
            "pool 'class' reads the class token, class_token is false: use pool 'norm-mean'",
        ),
        (
            distillation_token and (not class_token or pool != "class"),
            "distillation_token true needs class_token true and pool 'class': each token has a head",
        ),
        (
            position == "relative" and token_mixer != "attention",
            f"position 'relative' is a bias of attention, token_mixer is '{token_mixer}'",
        ),
        (
            gate and channel_mixer != "mlp",
            f"token_mixer 'gate' stands inside an MLP, channel_mixer is '{channel_mixer}': use 'mlp'",
        ),
        (
            gate and activation_place in ("token", "both"),
            f"activation_place '{activation_place}' follows a token step, token_mixer 'gate' has none: use "
            f"'mlp' or 'none'",
        ),
        (
            gate and residual == "token",
            "residual 'token' goes around a token step, token_mixer 'gate' has none: use 'block' or 'none'",
        ),
        (
            activation_place == "mlp" and not mlps,
            f"activation_place 'mlp' stands inside an MLP, channel_mixer '{channel_mixer}' and token_mixer "
            f"'{token_mixer}' have none: use 'both', 'token' or 'none'",
        ),
        (
            norm_place == "after-sum" and residual != "each" and not (gate and residual == "block"),
            f"norm_place 'after-sum' norms the sum of every step, residual '{residual}' leaves steps without "
            f"a sum: use residual 'each'",
        ),
        (
            residual == "none" and layer_scale is not None,
            f"layer_scale {layer_scale} scales what a skip adds, residual is 'none'",
        ),
    ]
    for wrong, message in refused:
        if wrong:
            raise UsageError(message)
    mixers = f"token_mixer '{token_mixer}'"
    rates = [
        ("drop_path", drop_path, residual != "none", "residual 'none'"),
        ("dropout", dropout, mlps or token_mixer == "attention", f"{mixers} and channel_mixer 'pointwise'"),
        ("attention_dropout", attention_dropout, token_mixer == "attention", mixers),
    ]
    for argument, value, taken, which in rates:
        if value > 0 and not taken:
            raise NotTaken(argument, value, f"the bench with {which}")


def plan_stages(
    dim: int,
    depth: int,
    grid: Grid,
    stage_depths: tuple[int, ...] | None,
    stage_dims: tuple[int, ...] | None,
) -> list[StageShape]:
    """Return the stages; one for an isotropic model. Raises UsageError where the numbers do not fit."""
    if stage_depths is None:
        if stage_dims is not None:
            raise UsageError(f"stage_dims {list(stage_dims)} without stage_depths: give the blocks per stage")
        return [StageShape(dim, depth, grid)]
    if len(stage_depths) < 2 or min(stage_depths) < 1:
        raise UsageError(
            f"stage_depths {list(stage_depths)}: a pyramid has two or more stages of one or more blocks; "
            f"leave it out for an isotropic model"
        )
    if sum(stage_depths) != depth:
        raise UsageError(
            f"stage_depths {list(stage_depths)} are {sum(stage_depths)} blocks, depth is {depth}: they differ"
        )
    dims = tuple(dim << i for i in range(len(stage_depths))) if stage_dims is None else stage_dims
    if len(dims) != len(stage_depths) or dims[0] != dim:
        raise UsageError(
            f"stage_dims {list(dims)} must hold one width per stage of stage_depths {list(stage_depths)}, "
            f"the first of them dim {dim}"
        )
    grids = [grid]
    for _ in dims[1:]:
        grids.append(merged_grid(grids[-1]))
    return [StageShape(*shape) for shape in zip(dims, stage_depths, grids, strict=True)]


def make_stem(
    stem: Stem,
    in_channels: int,
    dim: int,
    patch_size: int,
    *,
    activation: Activation,
    ends_active: bool,
    norm: nn.Module,
) -> nn.Module:
    """Build the stem; ends_active: an activation follows the projection. norm: of a map."""
    end = make_activation(activation) if ends_active else None
    if stem == "patch":
        return PatchStem(in_channels, dim, patch_size, activation=end, norm=norm)
    trunk = overlapping_trunk if stem == "overlap" else conv_pool_trunk
    layers = trunk(in_channels, dim, patch_size, lambda: make_activation(activation))
    return ConvStem(layers, dim, patch_size, activation=end, norm=norm)


def make_norm(norm: Norm, dim: int, eps: float) -> nn.Module:
    """Build a norm of tokens (B, N, C). eps: of LayerNorm; BatchNorm has 1e-5."""
    if norm == "layer":
        return layer_norm(dim, eps)
    if norm == "batch":
        return TokenBatchNorm(dim)
    return Affine(dim) if norm == "affine" else nn.Identity()


def make_map_norm(norm: Norm, dim: int, eps: float) -> nn.Module:
    """Build the same norm of a map (B, C, rows, cols), with the same parameter names."""
    if norm == "layer":
        return MapLayerNorm(dim, eps=eps)
    if norm == "batch":
        return batch_norm(dim)
    return MapAffine(dim) if norm == "affine" else nn.Identity()


def make_token_mixer(
    token_mixer: TokenMixer,
    shape: StageShape,
    *,
    num_heads: int,
    qkv_bias: bool,
    relative: bool,
    num_prefix: int,
    kernel_size: int,
    token_ratio: float,
    activation: Activation,
    activation_inside: bool,
    dropout: float,
    attention_dropout: float,
) -> nn.Module:
    """Build the token mixer of one block; each reads the arguments that concern it."""
    dim, _, grid = shape
    if token_mixer == "attention":
        bias = RelativeBias(grid, num_heads, num_prefix=num_prefix) if relative else None
        return Attention(
            dim,
            num_heads,
            qkv_bias=qkv_bias,
            dropout=attention_dropout,
            projection_dropout=dropout,
            relative_bias=bias,
        )
    if token_mixer == "depthwise":
        return Depthwise(dim, kernel_size)
    if token_mixer == "token-mlp":
        mixer = TokenMlp(grid, int(dim * token_ratio), activation=activation, dropout=dropout)
        if not activation_inside:
            mixer.mlp.activation = nn.Identity()
        return mixer
    if token_mixer == "token-linear":
        return TokenLinear(grid)
    if token_mixer == "pool":
        return PoolMixer(kernel_size)
    assert token_mixer in ("identity", "random"), token_mixer
    return RandomMixer(grid) if token_mixer == "random" else IdentityMixer()


def make_channel_mixer(
    channel_mixer: ChannelMixer,
    shape: StageShape,
    *,
    mlp_ratio: float,
    gate: bool,
    activation: Activation,
    activation_inside: bool,
    dropout: float,
) -> nn.Module:
    """Build the channel mixer of one block; gate: with a spatial gate in the middle (gMLP)."""
    dim, _, grid = shape
    if channel_mixer == "pointwise":
        return Pointwise(dim)
    hidden = int(dim * mlp_ratio)
    mixer: GatedMlp | Mlp | GatedLinear
    if gate:
        mixer = GatedMlp(grid, dim, hidden, activation=activation, dropout=dropout)
    else:
        kind = Mlp if channel_mixer == "mlp" else GatedLinear
        mixer = kind(dim, hidden, activation=activation, dropout=dropout)
    if not activation_inside:
        mixer.activation = nn.Identity()
    return mixer


def heads_of(dim: int, first: StageShape, num_heads: int | None) -> int:
    """Return the heads of a stage: every stage has the head width of the first.

    num_heads: of the first stage; None: one per 64 channels (DeiT), at least one.
    """
    count = max(1, first.dim // 64) if num_heads is None else num_heads
    positive(num_heads=count)
    divisible("dim", first.dim, "num_heads", count, hint="every head gets the same number of channels")
    width = first.dim // count
    divisible("stage_dims entry", dim, "head width", width, hint="every stage has heads of one width")
    return dim // width
