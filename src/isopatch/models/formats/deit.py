"""Files of facebookresearch/deit: DeiT, DeiT III and ResMLP, their weights under `model` in a `.pth`.

Their reader, `torch.load`, knows no other container, so this is the one format in which isopatch writes a
pickle. It holds tensors by name and nothing else, and opens with weights_only=True. `timm.to_isopatch` reads
these names too.
"""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from isopatch.models.formats import timm, timm_mlps
from isopatch.models.formats.keymap import Rules, State, rename, reverse

_DEIT3: Rules = (
    ("blocks.{i}.gamma_1", "blocks.{i}.token.scale"),
    ("blocks.{i}.gamma_2", "blocks.{i}.channel.scale"),
)
ARCHITECTURES = ("deit", "deit3", "resmlp", "vit")


def from_isopatch(state: Mapping[str, Tensor], architecture: str) -> State:
    """Rename our state dict to the names of DeiT's code; a ViT with a class token is the same model there."""
    if architecture == "resmlp":
        return rename(state, reverse(timm_mlps.RESMLP_AUTHORS))
    return timm.from_isopatch(rename(state, reverse(_DEIT3)), architecture)
