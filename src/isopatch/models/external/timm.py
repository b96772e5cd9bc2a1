"""timm's classification models: `timm:NAME`, `timm:NAME.TAG` for one of its published weights.

    peer.forward(x) = classifier(features): the classifier becomes `heads.cls`, everything before it stays.

Structure, initialisation and published figures are timm's; see each model's card at huggingface.co/timm.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from isopatch.errors import UsageError, nearest
from isopatch.image.contract import InputContract, Interpolation, Resize
from isopatch.models.entry import ModelEntry
from isopatch.models.external.wrapper import (
    External,
    InGraph,
    build_peer,
    classifier_path,
    features_of_map,
    optional,
    parameters_of,
    refused_by,
    to_native_names,
)
from isopatch.models.formats.keymap import State
from isopatch.models.matching import require_common
from isopatch.nn.checks import positive, probability
from isopatch.nn.classifier import Classifier, Features
from isopatch.nn.layout import Grid, as_map

log = logging.getLogger("isopatch")

CROPS: dict[str, Resize] = {"center": "shorter", "squash": "squash"}
INTERPOLATIONS: dict[str, Interpolation] = {"bicubic": "bicubic", "bilinear": "bilinear"}


class TimmModel(External):
    """A timm model; depths are its own stages (timm's `feature_info`), the blocks of a transformer."""

    def final_features(self, x: Tensor) -> Features:
        """Return what timm's `forward_features` gives its pooling, as a map and as tokens."""
        self.require_size(x)
        peer: Any = self.peer
        with refused_by(self.name, "has no feature map"):
            features = peer.forward_features(x)
            if isinstance(features, Tensor) and features.dim() == 4:
                return features_of_map(_channels_first(features, peer.num_features, self.name))
            # Tokens: timm knows which are a prefix, and in which order the others stand.
            tokens, maps = peer.forward_intermediates(x, indices=1, norm=True, output_fmt="NCHW")
            own = features_of_map(maps[-1])
            prefix = tokens[:, : tokens.shape[1] - own.tokens.shape[1]]
            return own._replace(tokens=torch.cat((prefix, own.tokens), dim=1))

    def in_graph(self, x: Tensor) -> InGraph:
        """Return `forward_features` and, of the same pass, what `forward_head` pools from it."""
        self.require_size(x)
        peer: Any = self.peer
        with refused_by(self.name, "has no feature map"):
            features = peer.forward_features(x)
            pooled = peer.forward_head(features).unsqueeze(1)
            with torch.no_grad():
                own = self.final_features(x)
            if features.dim() == 4:
                return InGraph(
                    features, pooled, lambda held: _channels_first(held, peer.num_features, self.name)
                )
            if own.tokens.shape != features.shape or not torch.allclose(own.tokens, features, atol=1e-4):
                raise UsageError(f"{self.name} does not say at which places its last tokens stand")
        prefix = features.shape[1] - own.grid[0] * own.grid[1]
        return InGraph(features, pooled, lambda held: as_map(held[:, prefix:].contiguous(), own.grid))

    def features_by_depth(self, x: Tensor) -> Iterator[Features]:
        """Yield the map that leaves each of timm's stages; they are all computed at once."""
        self.require_size(x)
        peer: Any = self.peer
        with refused_by(self.name, "has no features by depth"):
            maps = peer.forward_intermediates(x, output_fmt="NCHW", intermediates_only=True)
        for feature_map in maps:
            yield features_of_map(feature_map)

    def refit(self, state: State) -> State:
        """Fit weights in our names to this model by timm's own rules: positions to another picture size."""
        own = self.state_dict()
        if all(key not in own or own[key].shape == tensor.shape for key, tensor in state.items()):
            return state
        inner = {key.removeprefix("peer."): t for key, t in state.items() if key.startswith("peer.")}
        fitted = {f"peer.{key}": tensor for key, tensor in _by_timms_rule(inner, self.peer).items()}
        return {key: tensor for key, tensor in state.items() if not key.startswith("peer.")} | fitted


def timm(
    *,
    model: str,
    num_classes: int = 1000,
    image_size: int | tuple[int, int] = 224,
    in_channels: int = 3,
    drop_path: float | None = None,
    dropout: float | None = None,
) -> Classifier:
    """Build a timm model with fresh weights.

    model: timm's name, with or without the tag of published weights. image_size: what pictures are prepared
    to; models with a position for every patch or a fixed window grid are built for it and take no other.
    drop_path, dropout (before the classifier): None keeps the model's own. Raises UsageError for a name that
    timm does not have, an argument that the model does not, a size it cannot take, and a model whose logits
    are not the output of one linear layer.
    """
    size = (image_size, image_size) if isinstance(image_size, int) else image_size
    positive(num_classes=num_classes, in_channels=in_channels, height=size[0], width=size[1])
    create, fixed = _creator(model, num_classes, size, in_channels, drop_path=drop_path, dropout=dropout)
    peer, path = build_peer(create, name=f"timm:{model}", in_channels=in_channels, size=size)
    return TimmModel(peer, name=f"timm:{model}", classifier=path, size=size if fixed else None)


def no_weight_decay(model: Classifier) -> set[str]:
    """What timm spares itself: positions and tokens, where the model names any."""
    assert isinstance(model, TimmModel)
    spared = getattr(model.peer, "no_weight_decay", None)  # convolutional networks have no such method
    return set() if spared is None else {f"peer.{name}" for name in spared()}


def entry(model: str) -> ModelEntry:
    """Return the entry of a timm name; size, classes and input contract are those of its published weights.

    Raises UsageError for a name or tag that timm does not have, and for weights whose pictures are prepared
    in a way that isopatch cannot.
    """
    from timm import __version__

    config = _config(model)
    channels, height, width = config.input_size
    if channels != 3 or config.crop_mode not in CROPS or config.interpolation not in INTERPOLATIONS:
        raise UsageError(
            f"timm:{model}: its weights want pictures of {channels} channels, crop '{config.crop_mode}', "
            f"interpolation '{config.interpolation}', which isopatch does not prepare"
        )
    return ModelEntry(
        name=f"timm:{model}",
        architecture="timm",
        arguments={
            "model": model,
            "image_size": height if height == width else (height, width),
            "num_classes": config.num_classes or 1000,  # 0: the published weights have no classifier
        },
        input=InputContract(
            height=height,
            width=width,
            resize=CROPS[config.crop_mode],
            interpolation=INTERPOLATIONS[config.interpolation],
            crop_fraction=config.crop_pct,
            mean=config.mean,
            std=config.std,
        ),
        source=f"timm {__version__}: {config.architecture}, weights "
        + (f"{config.tag or 'without a tag'}" if config.has_weights else "not published"),
    )


def published(model: str) -> str | None:
    """Return where the weights of a timm name are: a hub id, or an address; None where there are none."""
    config = _config(model)
    place: str | None = config.hf_hub_id or config.url or None
    return place


def arguments_told(config: Mapping[str, Any] | None) -> dict[str, Any]:
    """Return arguments of `timm` that a config.json's `model_args` say; others raise UsageError.

    `num_classes` is what the file says; `global_pool`, which timm always writes, has to be the model's own.
    """
    from timm import create_model

    given = dict((config or {}).get("model_args") or {})
    given.pop("num_classes", None)
    pool = given.pop("global_pool", None)
    if pool is not None:
        name = str((config or {}).get("architecture"))
        with torch.device("meta"):
            peer = create_model(name)
        if pool != _pool_of(peer):
            raise UsageError(
                f"config.json gives timm's {name} the pooling '{pool}', which isopatch keeps as it is"
            )
    renamed = {"img_size": "image_size", "in_chans": "in_channels"}
    unknown = sorted(set(given) - set(renamed))
    if unknown:
        raise UsageError(
            f"config.json builds the model with {', '.join(unknown)}, which isopatch cannot translate: "
            f"give the name and arguments of the model yourself"
        )
    return {renamed[key]: tuple(v) if isinstance(v, list) else v for key, v in given.items()}


def _pool_of(peer: Any) -> str | None:
    """timm's word for how a model pools; it stands in different places."""
    for part in (peer, getattr(peer, "head", None)):
        pool = getattr(part, "global_pool", None)
        if isinstance(pool, str):
            return pool
        kind = getattr(pool, "pool_type", None)
        if isinstance(kind, str):
            return kind
    return None


def native_state(state: Mapping[str, Tensor], arguments: Mapping[str, Any], *, where: str) -> State:
    """Rename and fit timm's (or the authors', where timm reads them) tensors to our names.

    arguments: of `timm`, as far as they are given. where: the file, for messages. Raises IsopatchError where
    no tensor is the model's.
    """
    model, size = arguments["model"], arguments["image_size"]
    size = (size, size) if isinstance(size, int) else tuple(size)
    channels = arguments.get("in_channels", 3)
    create, _ = _creator(model, arguments["num_classes"], size, channels, drop_path=None, dropout=None)
    path = classifier_path(create, name=f"timm:{model}", in_channels=channels, size=size)
    with torch.device("meta"):
        peer = create()
    own = peer.state_dict()
    if state.keys() != own.keys() or any(state[key].shape != own[key].shape for key in own):
        state = _by_timms_rule(state, peer)
    require_common(peer, state, where=where, name=f"timm:{model}")
    return to_native_names(state, path, bias=peer.get_submodule(path).bias is not None)


def _by_timms_rule(state: Mapping[str, Tensor], peer: nn.Module) -> State:
    """Apply the function by which timm reads files of this family: older names, another picture size."""
    family = sys.modules[type(peer).__module__]
    rule: Callable[..., State] | None = getattr(family, "checkpoint_filter_fn", None)
    if rule is None:
        return dict(state)
    with refused_by(f"timm:{type(peer).__name__}", "cannot read these weights"):
        fitted = rule(dict(state), peer)
    changed = [key for key in fitted if key in state and fitted[key].shape != state[key].shape]
    if changed:
        log.info("%d tensors fitted to the model by timm's own rule (%s ...)", len(changed), changed[0])
    return fitted


def _config(model: str) -> Any:
    """timm's record of a name (its PretrainedCfg); the first tag's where none is given."""
    from timm.models import get_pretrained_cfg, list_models, list_pretrained

    name, _, tag = model.partition(".")
    known = list_models()
    if name not in known:
        raise UsageError(f"unknown model 'timm:{model}': timm has no '{name}'{nearest(name, known)}")
    tags = [full.partition(".")[2] for full in list_pretrained(f"{name}.*")]
    if tag and tag not in tags:
        raise UsageError(f"unknown model 'timm:{model}': timm has {name} with {', '.join(tags) or 'no tag'}")
    with refused_by(f"timm:{model}", "has no record of its input"):
        return get_pretrained_cfg(model)


def _creator(
    model: str, num_classes: int, size: Grid, channels: int, *, drop_path: float | None, dropout: float | None
) -> tuple[Callable[[], nn.Module], bool]:
    """Return (a function that builds the peer, whether it is built for one picture size)."""
    from timm import create_model

    _config(model)
    name = f"timm:{model}"
    probability(drop_path=drop_path or 0.0, dropout=dropout or 0.0)
    with torch.device("meta"), refused_by(name, "cannot be built"):
        accepted = parameters_of(type(create_model(model, num_classes=num_classes, in_chans=channels)))
    rates = {"drop_path": ("drop_path_rate", drop_path), "dropout": ("drop_rate", dropout)}
    keywords: dict[str, Any] = optional(rates, accepted, name)
    if "img_size" in accepted:
        keywords["img_size"] = size

    def create() -> nn.Module:
        peer: nn.Module = create_model(model, num_classes=num_classes, in_chans=channels, **keywords)
        return peer

    return create, "img_size" in accepted


def _channels_first(features: Tensor, channels: int, name: str) -> Tensor:
    """A feature map as (B, C, rows, cols), whichever of its axes the peer has the channels on."""
    first, last = features.shape[1] == channels, features.shape[3] == channels
    if first == last:
        raise UsageError(
            f"{name}: its features {tuple(features.shape)} do not tell which axis is the channels"
        )
    return features if first else features.permute(0, 3, 1, 2)
