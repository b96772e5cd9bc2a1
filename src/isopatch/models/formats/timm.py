"""timm's names for the tensors of every architecture (also those of DeiT's own files)."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from isopatch.errors import UsageError
from isopatch.models.formats import timm_mlps
from isopatch.models.formats.keymap import Rules, State, rename, reverse

_BLOCK: Rules = (
    ("blocks.{i}.norm1.*", "blocks.{i}.token.norm.*"),
    ("blocks.{i}.attn.qkv.*", "blocks.{i}.token.mixer.qkv.*"),
    ("blocks.{i}.attn.proj.*", "blocks.{i}.token.mixer.proj.*"),
    ("blocks.{i}.attn.rel_pos.relative_position_bias_table", "blocks.{i}.token.mixer.relative_bias.table"),
    ("blocks.{i}.ls1.gamma", "blocks.{i}.token.scale"),
    ("blocks.{i}.norm2.*", "blocks.{i}.channel.norm.*"),
    ("blocks.{i}.mlp.fc1.*", "blocks.{i}.channel.mixer.fc1.*"),
    ("blocks.{i}.mlp.fc2.*", "blocks.{i}.channel.mixer.fc2.*"),
    ("blocks.{i}.ls2.gamma", "blocks.{i}.channel.scale"),
)

_VIT: Rules = (
    ("patch_embed.proj.*", "stem.proj.*"),
    ("cls_token", "prefix.cls_token"),
    ("dist_token", "prefix.dist_token"),
    ("pos_embed", "position.table"),
    *_BLOCK,
    ("norm.*", "norm.*"),
    ("fc_norm.*", "norm.*"),
    ("pre_logits.fc.*", "heads.cls.pre_logits.*"),
    ("head.*", "heads.cls.linear.*"),
    ("head_dist.*", "heads.dist.linear.*"),
    # Names of DeiT III's own files.
    ("blocks.{i}.gamma_1", "blocks.{i}.token.scale"),
    ("blocks.{i}.gamma_2", "blocks.{i}.channel.scale"),
)

_STAGE = "patch_embed.backbone.stages.{i}.blocks.{j}."

_HYBRID: Rules = (
    ("patch_embed.backbone.stem.conv.*", "stem.root.conv.*"),
    ("patch_embed.backbone.stem.norm.*", "stem.root.norm.*"),
    *((f"{_STAGE}conv{n}.*", f"stem.stages.{{i}}.{{j}}.conv{n}.*") for n in (1, 2, 3)),
    *((f"{_STAGE}norm{n}.*", f"stem.stages.{{i}}.{{j}}.norm{n}.*") for n in (1, 2, 3)),
    (f"{_STAGE}downsample.conv.*", "stem.stages.{i}.{j}.downsample.conv.*"),
    (f"{_STAGE}downsample.norm.*", "stem.stages.{i}.{j}.downsample.norm.*"),
    *_VIT,
)

# R+Ti/16 has the root alone, and timm then leaves one level out of its name.
_ROOT_ALONE: Rules = (
    ("patch_embed.backbone.conv.*", "stem.root.conv.*"),
    ("patch_embed.backbone.norm.*", "stem.root.norm.*"),
    *_VIT,
)

_CONVMIXER: Rules = (
    ("stem.0.*", "stem.proj.*"),
    ("stem.2.*", "stem.norm.*"),
    ("blocks.{i}.0.fn.0.*", "blocks.{i}.depthwise.*"),
    ("blocks.{i}.0.fn.2.*", "blocks.{i}.depthwise_norm.*"),
    ("blocks.{i}.1.*", "blocks.{i}.pointwise.*"),
    ("blocks.{i}.3.*", "blocks.{i}.pointwise_norm.*"),
    ("head.*", "heads.cls.linear.*"),
)

_RULES = {
    "vit": _VIT,
    "deit": _VIT,
    "deit3": _VIT,
    "hybrid": _HYBRID,
    "convmixer": _CONVMIXER,
    "mlp_mixer": timm_mlps.MIXER,
    "resmlp": timm_mlps.RESMLP,
    "gmlp": timm_mlps.GMLP,
}


def to_isopatch(state: Mapping[str, Tensor], architecture: str) -> State:
    """Rename timm's state dict of one architecture (`vit`, `mlp_mixer`, ...) to ours."""
    renamed = rename(state, _rules(state, architecture))
    return timm_mlps.affine_flat(renamed) if architecture == "resmlp" else renamed


def from_isopatch(state: Mapping[str, Tensor], architecture: str, *, norm_after_pool: bool = False) -> State:
    """Rename our state dict to timm's.

    norm_after_pool: the final norm is timm's `fc_norm` (average, then norm) instead of `norm`.
    """
    rules = list(_rules(state, architecture))
    if norm_after_pool:
        rules = [rule for rule in rules if rule[0] != "norm.*"]
    renamed = rename(state, reverse(rules))
    return timm_mlps.affine_timm(renamed) if architecture == "resmlp" else renamed


def _rules(state: Mapping[str, Tensor], architecture: str) -> Rules:
    """The rules of an architecture, for a state in either naming."""
    if architecture == "hybrid" and not any(".stages." in key for key in state):
        return _ROOT_ALONE
    if architecture not in _RULES:
        raise UsageError(
            f"{architecture}: no foreign names of its tensors are known; give weights that isopatch wrote"
        )
    return _RULES[architecture]
