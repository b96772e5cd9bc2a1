"""Which of our models a foreign weights file belongs to, and what its config.json says about its input."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from isopatch.errors import IsopatchError, UsageError, nearest
from isopatch.models.entry import ModelEntry
from isopatch.models.external.names import is_external
from isopatch.models.formats import npz, official, timm, timm_config, transformers
from isopatch.models.formats.keymap import State, rename
from isopatch.models.spec import ModelSpec
from isopatch.models.table import ALIASES, MODELS, resolve

log = logging.getLogger("isopatch")

_CHOICES = (
    ("interpolation", "interpolation", {"bicubic": "bicubic", "bilinear": "bilinear"}),
    ("crop_mode", "resize", {"center": "shorter", "squash": "squash"}),
)
HEADS = {"cls": "heads.cls.linear.weight", "dist": "heads.dist.linear.weight"}


def entry_for(name: str | None, config: Mapping[str, Any] | None, weights: Path) -> ModelEntry:
    """Return the entry a file belongs to: the given name, or timm's `architecture` in config.json.

    An architecture that we do not have opens as timm's own model (`timm:NAME`).

    Raises UsageError when neither says it, or both do and contradict each other. Guessing from tensor shapes
    is not done: a ViT and a DeiT of one size have the same tensors and want different pictures.
    """
    told = (config or {}).get("architecture")
    if name is not None:
        asked = resolve(name)
        held = timm_config.entry_told(config)
        if is_external(asked.name) and told == asked.arguments["model"].partition(".")[0]:
            return asked  # a name that both have: timm's own model is wanted
        if held is not None and not _same_but_distilled(held, asked):
            raise UsageError(
                f"{weights}: its config.json says {held.name}, not {asked.name}: leave the name out"
            )
        return asked
    if isinstance(told, str):
        entry = timm_config.entry_told(config)
        if entry is not None:
            return entry
        try:
            return resolve(f"timm:{told}")
        except UsageError:
            raise UsageError(
                f"{weights}: its config.json says '{told}', which neither isopatch nor timm has"
                f"{nearest(told, MODELS)}; 'isopatch models list' shows every name"
            ) from None
    stem = weights.name.split(".")[0].split("-")[0]
    guess = f", for example '{ALIASES.get(stem, stem)}'" if stem in MODELS or stem in ALIASES else ""
    raise UsageError(
        f"{weights}: nothing beside it says which model it is; give its name{guess} "
        f"('isopatch models list' shows every name)"
    )


def _same_but_distilled(first: ModelEntry, second: ModelEntry) -> bool:
    """Whether two entries want the same pictures and differ in nothing but DeiT's distillation token."""

    def rest(entry: ModelEntry) -> dict[str, Any]:
        return {key: value for key, value in entry.arguments.items() if key != "distilled"}

    if first.name == second.name:
        return True
    same_kind = first.architecture == second.architecture == "deit" and first.input == second.input
    return same_kind and rest(first) == rest(second)


def to_native_names(state: State, architecture: str) -> State:
    """Rename a foreign state dict; one that has our names already stays as it is."""
    if any(key.startswith("heads.") for key in state):
        return dict(state)
    if architecture == "convmixer" and official.is_sequential_convmixer(state):
        state = official.sequential_to_timm(state)
    if any(key.startswith(("vit.embeddings.", "deit.embeddings.")) for key in state):
        return transformers.to_isopatch(state)
    if npz.is_flax(state):
        return npz.to_isopatch(state, architecture)
    if architecture == "cifar_resnet":
        return rename(state, official.CIFAR_RESNET)
    return timm.to_isopatch(state, architecture)


def require_same_function(state: Mapping[str, Tensor], spec: ModelSpec, *, where: str) -> None:
    """Refuse weights that fit a model in name and shape and were trained for another function.

    state: in the file's own names, which say what ours do not: on which side of the average the final norm
    stands (timm's `fc_norm`: after it), and how many heads attention has (Flax keeps them apart).
    Raises IsopatchError.
    """
    pool = spec.arguments.get("pool", "class")
    if "fc_norm.weight" in state and not is_external(spec.name) and pool != "mean-norm":
        raise IsopatchError(
            f"{where}: its final norm comes after the average (fc_norm), and {spec.name} has pool {pool}: it "
            f"is a vit with the argument pool mean-norm"
        )
    heads, own = npz.heads_in(state), spec.arguments.get("num_heads")
    if heads is not None and own is not None and heads != own:
        raise IsopatchError(
            f"{where}: does not fit {spec.name}: attention heads {heads} in the file, {own} in {spec.name}: "
            f"give the name and arguments of the model it was saved from"
        )


def classes_in(state: Mapping[str, Tensor]) -> int | None:
    """Return the number of classes of a state dict's classifier, or None without one."""
    weight = state.get(HEADS["cls"])
    return None if weight is None or weight.dim() != 2 else int(weight.shape[0])


def input_in(config: Mapping[str, Any] | None) -> tuple[dict[str, Any], tuple[int, int] | None]:
    """Return (input contract overrides, (height, width)) from timm's `pretrained_cfg`, as far as it says.

    timm's older files have its keys beside `architecture`. What isopatch does not prepare is warned about.
    """
    config = config or {}
    told = config if config.get("pretrained_cfg") is None else config["pretrained_cfg"]
    overrides: dict[str, Any] = {}
    for theirs, ours in (("mean", "mean"), ("std", "std")):
        if told.get(theirs):
            overrides[ours] = tuple(float(value) for value in told[theirs])
    if isinstance(told.get("crop_pct"), int | float):
        overrides["crop_fraction"] = float(told["crop_pct"])
    for theirs, ours, known in _CHOICES:
        value = told.get(theirs)
        if value in known:
            overrides[ours] = known[value]
        elif value is not None:
            log.warning("config.json says %s '%s', which isopatch does not prepare: left out", theirs, value)
    size = told.get("input_size")
    return overrides, None if size is None else (int(size[-2]), int(size[-1]))
