"""Published weights of each name, and what its implementation was compared with. Imports no torch.

`sizes/published.json` is written by tools/make_published.py from timm's table and results/.
"""

from __future__ import annotations

import json
from functools import cache
from importlib import resources
from typing import Any, NamedTuple

from isopatch.models.table import resolve


class Checkpoint(NamedTuple):
    """Published weights: what `isopatch.load` takes, classes (0: no classifier), licence if stated."""

    id: str
    num_classes: int
    licence: str | None


# Folders of transformers on the hub, which timm's table does not name.
_TRANSFORMERS = {
    "vit_base_patch16_224": ("google/vit-base-patch16-224",),
    "vit_base_patch16_384": ("google/vit-base-patch16-384",),
    "vit_base_patch32_384": ("google/vit-base-patch32-384",),
    "vit_large_patch16_224": ("google/vit-large-patch16-224",),
    "vit_large_patch16_384": ("google/vit-large-patch16-384",),
    "vit_large_patch32_384": ("google/vit-large-patch32-384",),
    "deit_tiny_patch16_224": ("facebook/deit-tiny-patch16-224",),
    "deit_small_patch16_224": ("facebook/deit-small-patch16-224",),
    "deit_base_patch16_224": ("facebook/deit-base-patch16-224",),
    "deit_base_patch16_384": ("facebook/deit-base-patch16-384",),
    "deit_tiny_distilled_patch16_224": ("facebook/deit-tiny-distilled-patch16-224",),
    "deit_small_distilled_patch16_224": ("facebook/deit-small-distilled-patch16-224",),
    "deit_base_distilled_patch16_224": ("facebook/deit-base-distilled-patch16-224",),
    "deit_base_distilled_patch16_384": ("facebook/deit-base-distilled-patch16-384",),
}

_TIMM_SMALL = "timm's model with the same weights, at small sizes (tests/parity/test_timm.py)"
_PLAIN = (
    "a second, plain implementation in the tests (tests/parity/test_plain.py); there are no public weights"
)
_PLAIN_STAGED = (
    "a second, plain implementation (tests/parity/test_plain_staged.py) and the paper's counts; "
    "published weights are not read"
)
_PROOFS = {
    "vit": _TIMM_SMALL,
    "deit": _TIMM_SMALL,
    "deit3": _TIMM_SMALL,
    "hybrid": _TIMM_SMALL,
    "convmixer": _TIMM_SMALL,
    "mlp_mixer": _TIMM_SMALL,
    "resmlp": _TIMM_SMALL,
    "gmlp": _TIMM_SMALL,
    "metaformer": _PLAIN,
    "mobilenet_v3": _PLAIN,
    "cycle_mlp": _PLAIN_STAGED,
    "vision_permutator": _PLAIN_STAGED,
    "timm": "timm's own model: the wrapper's logits are its logits (tests/models/external)",
    "torchvision": "torchvision's own model: the wrapper's logits are its logits (tests/models/external)",
    "bench": "every published architecture it can become, weights, logits and gradients "
    "(tests/models/test_bench_equals.py)",
    "cifar_resnet": "the published weights reach the published accuracy (results/cifar_resnets.json)",
}


def checkpoints_of(name: str) -> list[Checkpoint]:
    """Return the published weights of a name, as sources for `isopatch.load`."""
    canonical = resolve(name).name
    folders = [
        Checkpoint(f"hf-hub:{hub_id}", 1000, "apache-2.0") for hub_id in _TRANSFORMERS.get(canonical, ())
    ]
    return [*(Checkpoint(*row) for row in _table().get(canonical, {}).get("checkpoints", ())), *folders]


def parity_of(name: str) -> str:
    """Return with what a model was compared, and how large the error was where that was measured."""
    entry = resolve(name)
    measured: dict[str, str] = _table().get(entry.name, {}).get("parity", {})
    if measured:
        errors = ", ".join(f"{float(error):.1g} in {kind}" for kind, error in measured.items())
        return (
            f"timm's model with the same weights: relative error of logits and input gradient {errors} "
            f"(results/parity_published.json)"
        )
    return _PROOFS[entry.architecture]


@cache
def _table() -> dict[str, dict[str, Any]]:
    text = resources.files("isopatch.models.sizes").joinpath("published.json").read_text(encoding="utf-8")
    table: dict[str, dict[str, Any]] = json.loads(text)
    return table
