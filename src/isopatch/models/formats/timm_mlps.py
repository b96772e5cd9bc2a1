"""timm's names for the tensors of MLP-Mixer, ResMLP and gMLP; ResMLP's own files are read too."""

from __future__ import annotations

from isopatch.models.formats.keymap import Rules, State

_ENDS: Rules = (
    ("stem.proj.*", "stem.proj.*"),
    ("norm.*", "norm.*"),
    ("head.*", "heads.cls.linear.*"),
)

MIXER: Rules = (
    *_ENDS,
    ("blocks.{i}.norm1.*", "blocks.{i}.token.norm.*"),
    ("blocks.{i}.mlp_tokens.fc1.*", "blocks.{i}.token.mixer.mlp.fc1.*"),
    ("blocks.{i}.mlp_tokens.fc2.*", "blocks.{i}.token.mixer.mlp.fc2.*"),
    ("blocks.{i}.norm2.*", "blocks.{i}.channel.norm.*"),
    ("blocks.{i}.mlp_channels.fc1.*", "blocks.{i}.channel.mixer.fc1.*"),
    ("blocks.{i}.mlp_channels.fc2.*", "blocks.{i}.channel.mixer.fc2.*"),
)

# Names of the authors' own files (facebookresearch/deit).
RESMLP_AUTHORS: Rules = (
    ("patch_embed.proj.*", "stem.proj.*"),
    ("norm.*", "norm.*"),
    ("head.*", "heads.cls.linear.*"),
    ("blocks.{i}.norm1.*", "blocks.{i}.token.norm.*"),
    ("blocks.{i}.attn.*", "blocks.{i}.token.mixer.linear.*"),
    ("blocks.{i}.gamma_1", "blocks.{i}.token.scale"),
    ("blocks.{i}.norm2.*", "blocks.{i}.channel.norm.*"),
    ("blocks.{i}.mlp.fc1.*", "blocks.{i}.channel.mixer.fc1.*"),
    ("blocks.{i}.mlp.fc2.*", "blocks.{i}.channel.mixer.fc2.*"),
    ("blocks.{i}.gamma_2", "blocks.{i}.channel.scale"),
)

RESMLP: Rules = (
    *_ENDS,
    ("blocks.{i}.norm1.*", "blocks.{i}.token.norm.*"),
    ("blocks.{i}.linear_tokens.*", "blocks.{i}.token.mixer.linear.*"),
    ("blocks.{i}.ls1", "blocks.{i}.token.scale"),
    ("blocks.{i}.norm2.*", "blocks.{i}.channel.norm.*"),
    ("blocks.{i}.mlp_channels.fc1.*", "blocks.{i}.channel.mixer.fc1.*"),
    ("blocks.{i}.mlp_channels.fc2.*", "blocks.{i}.channel.mixer.fc2.*"),
    ("blocks.{i}.ls2", "blocks.{i}.channel.scale"),
    *RESMLP_AUTHORS,
)

GMLP: Rules = (
    *_ENDS,
    ("blocks.{i}.norm.*", "blocks.{i}.norm.*"),
    ("blocks.{i}.mlp_channels.fc1.*", "blocks.{i}.mixer.fc1.*"),
    ("blocks.{i}.mlp_channels.gate.norm.*", "blocks.{i}.mixer.gate.norm.*"),
    ("blocks.{i}.mlp_channels.gate.proj.*", "blocks.{i}.mixer.gate.linear.*"),
    ("blocks.{i}.mlp_channels.fc2.*", "blocks.{i}.mixer.fc2.*"),
)


def affine_flat(state: State) -> State:
    """ResMLP's affine tensors as (C,), the authors' shape and ours; timm keeps (1, 1, C)."""
    return {key: t.reshape(-1) if _is_affine(key) else t for key, t in state.items()}


def affine_timm(state: State) -> State:
    """ResMLP's affine tensors as (1, 1, C)."""
    return {key: t.reshape(1, 1, -1) if _is_affine(key) else t for key, t in state.items()}


def _is_affine(key: str) -> bool:
    return key.endswith((".alpha", ".beta"))
