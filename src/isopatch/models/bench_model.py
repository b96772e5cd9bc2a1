"""The bench: one parametric architecture, for studies that change one thing at a time.

    x -> stem -> [cls; dist; tokens] + positions -> depth x block -> norm and pool -> logits

    block, residual "each":   x + T(x) -> x + C(x)         ViT, DeiT, MLP-Mixer, ResMLP, MetaFormer
                    "token":  x + T(x) -> C(x)             ConvMixer
                    "block":  x + C(T(x))                  gMLP: T stands inside C
                    "none":   T(x) -> C(x)
    T is the token mixer and C the channel mixer, each with its norm and activation in the places that
    norm_place and activation_place name. With stage_depths the blocks stand in a pyramid.

Every other architecture is written out in a file of its own; this one is assembled from settings on purpose.
Tests prove that the settings in `sizes/bench.py` equal the published models: same weights, logits, gradients.
What a swapped part brings with it (its initialisation, what weight decay spares) is part of the swap.
"""

from __future__ import annotations

from typing import Literal

from torch import nn

from isopatch.models import initialise
from isopatch.models.bench_slots import (
    ActivationPlace,
    ChannelMixer,
    Norm,
    Residual,
    StageShape,
    Stem,
    TokenMixer,
    check_together,
    heads_of,
    make_channel_mixer,
    make_map_norm,
    make_norm,
    make_stem,
    make_token_mixer,
    plan_stages,
)
from isopatch.models.gmlp import GatedMlp, open_gate
from isopatch.models.vit import Pool, Position, make_positions
from isopatch.nn.activations import Activation, make_activation
from isopatch.nn.block import DropPathSchedule, ResidualBranch, TwoStepBlock, drop_path_rates
from isopatch.nn.channel_mixers import GatedLinear, Mlp
from isopatch.nn.checks import finite, positive, probability
from isopatch.nn.classifier import Classifier
from isopatch.nn.head import Head
from isopatch.nn.norms import LAYER_NORM_EPS
from isopatch.nn.pool import MeanPool, TokenPool
from isopatch.nn.prefix import PrefixTokens
from isopatch.nn.pyramid import PatchMerge, Pyramid, Stage
from isopatch.nn.skeleton import Isotropic
from isopatch.nn.stem import patch_grid
from isopatch.nn.step import NormPlace, SkipBlock, Step
from isopatch.nn.token_mlp import SpatialGate

Init = Literal["timm", "deit", "jax", "flax", "gmlp", "pytorch"]


def bench(
    *,
    dim: int,
    depth: int,
    patch_size: int,
    image_size: int | tuple[int, int],
    num_classes: int = 1000,
    in_channels: int = 3,
    stem: Stem = "patch",
    stem_activation: bool = False,
    stem_norm: bool = False,
    token_mixer: TokenMixer = "attention",
    num_heads: int | None = None,
    qkv_bias: bool = True,
    kernel_size: int = 3,
    token_ratio: float = 0.5,
    channel_mixer: ChannelMixer = "mlp",
    mlp_ratio: float = 4.0,
    norm: Norm = "layer",
    norm_place: NormPlace = "before",
    norm_eps: float = LAYER_NORM_EPS,
    final_norm: bool = True,
    residual: Residual = "each",
    layer_scale: float | None = None,
    activation: Activation = "gelu",
    activation_place: ActivationPlace = "mlp",
    position: Position = "learned",
    class_token: bool = False,
    class_position: bool = True,
    distillation_token: bool = False,
    pool: Pool = "norm-mean",
    stage_depths: tuple[int, ...] | None = None,
    stage_dims: tuple[int, ...] | None = None,
    dropout: float = 0.0,
    attention_dropout: float = 0.0,
    embedding_dropout: float = 0.0,
    drop_path: float = 0.0,
    drop_path_schedule: DropPathSchedule = "linear",
    init: Init = "deit",
) -> Classifier:
    """Build a model from settings; patch_size must divide image_size, whatever the stem.

    stem: "patch" one convolution of kernel and stride patch_size; "overlap" strided convolutions with
        overlapping windows; "conv-pool" 3 x 3 convolutions of stride 1 with max pooling. All end in a
        projection on the same grid, followed by the activation and the norm where stem_activation and
        stem_norm say so (ConvMixer); "overlap" has BatchNorm inside, whatever `norm` is.
    token_mixer: "gate" is gMLP's, inside the channel MLP, with a LayerNorm of its own. Arguments of a mixer:
        num_heads (None: one per 64 channels) and qkv_bias of attention, kernel_size of depthwise and pool,
        token_ratio of token-mlp (hidden width / dim). Mixers without the argument do not read it.
    channel_mixer: "mlp", "pointwise" (one 1 x 1 convolution), "gated" (an MLP whose one half gates the other:
        1.5 times the MLP's weights at the same mlp_ratio).
    norm: of stem, blocks and head alike; "batch" over all tokens; norm_eps is LayerNorm's.
    norm_place: "before" the mixer; "after-mixer", before its activation; "after-activation" (ConvMixer);
        "after-sum", after the skip. final_norm: one more before the head.
    residual: a skip around "each" step, the "token" step alone, the whole "block", or "none". layer_scale
        and drop_path belong to the skips.
    activation_place: "mlp" inside every MLP (token-MLP too); "token" after the token mixer alone; "both"
        after each mixer (ConvMixer); "none". Where it is not "mlp", MLPs have none inside.
    position, class_token, class_position, pool: as in `vit`. distillation_token: DeiT's, with its own head.
    stage_depths: blocks per stage of a pyramid, their sum is depth; between two stages 2 x 2 neighbours are
        merged. stage_dims: widths, the first is dim; None doubles it from stage to stage. num_heads is the
        first stage's, the others have as many heads of the same width as fit.
    dropout: of MLPs and of attention's result. embedding_dropout: of what enters the first block.
    init: "timm" (ViT) and "deit" (DeiT, ResMLP, MetaFormer) truncated normal 0.02, "jax" Google's ViT,
        "flax" MLP-Mixer's, "gmlp" gMLP's, "pytorch" PyTorch's defaults (ConvMixer). Layers that a scheme does
        not know keep PyTorch's defaults; positions and tokens normal 0.02 where it has none; a spatial gate
        always starts open.
    Raises UsageError naming both sides where the settings do not fit together.
    """
    positive(dim=dim, depth=depth, in_channels=in_channels)
    finite(mlp_ratio=mlp_ratio, token_ratio=token_ratio, norm_eps=norm_eps)
    probability(drop_path=drop_path)
    check_together(
        token_mixer=token_mixer,
        channel_mixer=channel_mixer,
        residual=residual,
        norm_place=norm_place,
        activation_place=activation_place,
        position=position,
        class_token=class_token,
        distillation_token=distillation_token,
        pool=pool,
        pyramid=stage_depths is not None,
        layer_scale=layer_scale,
        dropout=dropout,
        attention_dropout=attention_dropout,
        drop_path=drop_path,
    )
    shapes = plan_stages(dim, depth, patch_grid(image_size, patch_size), stage_depths, stage_dims)
    prefix = PrefixTokens(dim, distillation=distillation_token) if class_token else None
    num_prefix = 0 if prefix is None else prefix.num_tokens
    rates = iter(drop_path_rates(drop_path, depth, drop_path_schedule))

    def step(mixer: nn.Module, shape: StageShape, rate: float, *, skip: bool, active: bool) -> Step:
        return Step(
            make_norm(norm, shape.dim, norm_eps),
            mixer,
            dim=shape.dim,
            norm_place=norm_place,
            activation=make_activation(activation) if active else None,
            skip=skip,
            layer_scale=layer_scale if skip else None,
            drop_path=rate if skip else 0.0,
        )

    def branch(mixer: nn.Module, shape: StageShape, rate: float, *, skip: bool, active: bool) -> nn.Module:
        """A step; where it is the branch of a ViT's block it is built as that, which faster twins know."""
        if not skip or active or norm_place != "before":
            return step(mixer, shape, rate, skip=skip, active=active)
        its_norm = make_norm(norm, shape.dim, norm_eps)
        return ResidualBranch(its_norm, mixer, dim=shape.dim, layer_scale=layer_scale, drop_path=rate)

    def block(shape: StageShape) -> nn.Module:
        rate = next(rates)
        token = None
        if token_mixer != "gate":
            token = make_token_mixer(
                token_mixer,
                shape,
                num_heads=heads_of(shape.dim, shapes[0], num_heads) if token_mixer == "attention" else 1,
                qkv_bias=qkv_bias,
                relative=position == "relative",
                num_prefix=num_prefix,
                kernel_size=kernel_size,
                token_ratio=token_ratio,
                activation=activation,
                activation_inside=activation_place == "mlp",
                dropout=dropout,
                attention_dropout=attention_dropout,
            )
        channel = make_channel_mixer(
            channel_mixer,
            shape,
            mlp_ratio=mlp_ratio,
            gate=token_mixer == "gate",
            activation=activation,
            activation_inside=activation_place == "mlp",
            dropout=dropout,
        )
        if token is None:
            return branch(channel, shape, rate, skip=residual != "none", active=False)
        token_active, channel_active = activation_place in ("token", "both"), activation_place == "both"
        if residual == "block":
            return SkipBlock(
                step(token, shape, rate, skip=False, active=token_active),
                step(channel, shape, rate, skip=False, active=channel_active),
                dim=shape.dim,
                layer_scale=layer_scale,
                drop_path=rate,
            )
        return TwoStepBlock(
            branch(token, shape, rate, skip=residual in ("each", "token"), active=token_active),
            branch(channel, shape, rate, skip=residual == "each", active=channel_active),
        )

    # The order in which parts are built is the order in which they draw their first weights.
    built_stem = make_stem(
        stem,
        in_channels,
        dim,
        patch_size,
        activation=activation,
        ends_active=stem_activation,
        norm=make_map_norm(norm, dim, norm_eps) if stem_norm else nn.Identity(),
    )
    positions = make_positions(
        position,
        shapes[0].grid,
        dim,
        prefix_entries=num_prefix if class_position else 0,
        dropout=embedding_dropout,
    )
    stages = [
        Stage(
            [block(shape) for _ in range(shape.depth)],
            merge=None
            if previous is None
            else PatchMerge(previous.dim, shape.dim, make_norm(norm, previous.dim, norm_eps)),
        )
        for previous, shape in zip([None, *shapes], shapes, strict=False)
    ]
    width = shapes[-1].dim
    last_norm = make_norm(norm, width, norm_eps) if final_norm else nn.Identity()
    heads = {name: Head(width, num_classes) for name in ("cls", "dist")[: 1 + distillation_token]}
    pooling = (
        TokenPool(len(heads), num_prefix=num_prefix)
        if pool == "class"
        else MeanPool(num_prefix=num_prefix, norm_first=pool == "norm-mean")
    )
    model: Classifier
    if stage_depths is None:
        model = Isotropic(
            stem=built_stem,
            prefix=prefix,
            position=positions,
            blocks=list(stages[0].blocks),
            norm=last_norm,
            pool=pooling,
            heads=heads,
        )
    else:
        model = Pyramid(
            stem=built_stem, position=positions, stages=stages, norm=last_norm, pool=pooling, heads=heads
        )
    _initialise(model, init)
    return model


def no_weight_decay(model: Classifier) -> set[str]:
    """Positions and prefix tokens, where the model has some, beside biases and 1-D tensors."""
    return initialise.no_decay(model)


def _initialise(model: Classifier, init: Init) -> None:
    """Draw the first weights."""
    if init in ("timm", "deit"):
        initialise.truncated_normal(model, cls_std=0.02 if init == "deit" else 1e-6)
    elif init == "jax":
        initialise.jax(model)
    elif init == "flax":
        initialise.flax(model)
    own_mlps: dict[str, tuple[type[Mlp | GatedLinear | GatedMlp], ...]] = {
        "jax": (GatedLinear, GatedMlp),
        "gmlp": (Mlp, GatedLinear, GatedMlp),
    }
    for module in model.modules():
        if isinstance(module, own_mlps.get(init, ())):
            initialise.xavier_mlp(module.fc1, module.fc2)
        if isinstance(module, SpatialGate):
            open_gate(module)
    if init == "gmlp":
        initialise.zero_classifiers(model)
    if init in ("flax", "gmlp", "pytorch"):
        initialise.normal_tokens(model, std=0.02)
