"""torchvision's classification models: `torchvision:NAME`, `torchvision:NAME.WEIGHTS` for one set of weights.

    peer.forward(x) = classifier(features): the classifier becomes `heads.cls`, everything before it stays.

Structure, initialisation and published figures are torchvision's (docs.pytorch.org/vision, models).
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn.modules.module import register_module_parameter_registration_hook

from isopatch.errors import UsageError, nearest
from isopatch.image.contract import InputContract, Interpolation
from isopatch.models.entry import Accuracy, ModelEntry
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

INTERPOLATIONS: dict[str, Interpolation] = {"bicubic": "bicubic", "bilinear": "bilinear"}

# The first of these parts that a model has: what its pooling reads is the part's input or its output.
_POOLED = (
    ("avgpool", "in"),
    ("encoder", "out"),
    ("features", "out"),
    ("conv5", "out"),
    ("layers", "out"),
    ("classifier", "in"),
)

_DENSE_LAYER = re.compile(r"(\.denselayer\d+\.(?:norm|conv))\.(?=[12]\.)")
_MLP_LAYER = re.compile(r"\.mlp\.linear_([12])\.")

# torchvision's reference training spares these with --transformer-embedding-decay 0.
_EMBEDDINGS = ("class_token", "pos_embedding", "relative_position_bias_table")


class TorchvisionModel(External):
    """A torchvision model; depths are its own stages: what its authors put in a row."""

    def final_features(self, x: Tensor) -> Features:
        """Return what the model's pooling reads, as a map and as tokens."""
        return _features(self._before_pooling(x)[0], x)

    def in_graph(self, x: Tensor) -> InGraph:
        """Return what the model's pooling reads and, of the same pass, what comes of it."""
        features, pooled = self._before_pooling(x)
        return InGraph(features, pooled.unsqueeze(1), lambda held: _features(held, x).map)

    def _before_pooling(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return (a map (B, C, rows, cols) or a ViT's tokens (B, 1 + N, C), what is pooled (B, C))."""
        self.require_size(x)
        children = dict(self.peer.named_children())
        part, side = next(((name, side) for name, side in _POOLED if name in children), (None, ""))
        if part is None:
            raise UsageError(f"{self.name} offers no feature map")
        passed, pooled = self._passed(x, [children[part]])
        features = passed[0][0] if side == "in" else passed[0][1]
        if features.dim() != 4 and part != "encoder":
            raise UsageError(f"{self.name} offers no feature map")
        return features, pooled

    def features_by_depth(self, x: Tensor) -> Iterator[Features]:
        """Yield what leaves the stem and each stage (a transformer's block); all are computed at once."""
        from torchvision.models import SwinTransformer

        self.require_size(x)
        channels_last = isinstance(self.peer, SwinTransformer)  # its stages; what it pools has them first
        for _, output in self._passed(x, self._stages(), keep=True)[0]:
            yield _features(output.permute(0, 3, 1, 2) if channels_last else output, x)

    def _stages(self) -> list[nn.Module]:
        peer: Any = self.peer
        children = dict(self.peer.named_children())
        if "layer1" in children:
            return [peer.maxpool, peer.layer1, peer.layer2, peer.layer3, peer.layer4]
        if "trunk_output" in children:
            return [peer.stem, *peer.trunk_output]
        if "encoder" in children:
            return [peer.encoder.dropout, *peer.encoder.layers]
        if "features" in children:
            return list(peer.features)
        if "blocks" in children:
            return [peer.stem, *peer.blocks]
        raise UsageError(f"{self.name} offers no features by depth")

    def _passed(
        self, x: Tensor, parts: list[nn.Module], *, keep: bool = False
    ) -> tuple[list[tuple[Tensor, Tensor]], Tensor]:
        """Return (what goes into each part and what leaves it, what the peer returns).

        keep: copy what leaves, because the activation after it may work in place.
        """
        passed: list[tuple[Tensor, Tensor]] = []

        def note(part: nn.Module, inputs: tuple[Any, ...], output: Tensor) -> None:
            passed.append((inputs[0], output.clone() if keep else output))

        handles = [part.register_forward_hook(note) for part in parts]
        try:
            returned: Tensor = self.peer(x)
        finally:
            for handle in handles:
                handle.remove()
        assert len(passed) == len(parts), (len(passed), len(parts))
        return passed, returned


def torchvision(
    *,
    model: str,
    num_classes: int = 1000,
    image_size: int | tuple[int, int] = 224,
    in_channels: int = 3,
    drop_path: float | None = None,
    dropout: float | None = None,
) -> Classifier:
    """Build a torchvision model with fresh weights.

    model: torchvision's name, with or without the name of published weights. image_size: what pictures are
    prepared to; vision transformers are built for it and take no other. drop_path, dropout: None keeps the
    model's own. Raises UsageError for a name that torchvision does not have, an argument that the model does
    not, a size it cannot take, and a model whose logits are not the output of one linear layer.
    """
    size = (image_size, image_size) if isinstance(image_size, int) else image_size
    positive(num_classes=num_classes, height=size[0], width=size[1])
    if in_channels != 3:
        raise UsageError(f"in_channels {in_channels}: torchvision's models take 3")
    create, fixed = _creator(model, num_classes, size, drop_path=drop_path, dropout=dropout)
    peer, path = build_peer(create, name=f"torchvision:{model}", in_channels=3, size=size)
    return TorchvisionModel(peer, name=f"torchvision:{model}", classifier=path, size=size if fixed else None)


def no_weight_decay(model: Classifier) -> set[str]:
    """Class tokens, positions and relative biases, as torchvision's reference training can."""
    return {name for name, _ in model.named_parameters() if name.rsplit(".", 1)[-1] in _EMBEDDINGS}


def entry(model: str) -> ModelEntry:
    """Return the entry of a torchvision name; size and input contract are those of its published weights."""
    from torchvision import __version__

    weights = _weights(model)
    presets = weights.transforms()
    (size,), (resized,) = presets.crop_size, presets.resize_size
    top1 = weights.meta["_metrics"].get("ImageNet-1K", {}).get("acc@1")
    source = f"torchvision {__version__}: {model.partition('.')[0]}, weights {weights.name}"
    return ModelEntry(
        name=f"torchvision:{model}",
        architecture="torchvision",
        arguments={
            "model": model,
            "image_size": size,
            "num_classes": len(weights.meta["categories"] or ()) or 1000,  # none: no classifier is published
        },
        input=InputContract(
            height=size,
            width=size,
            interpolation=INTERPOLATIONS[presets.interpolation.value],
            crop_fraction=size / resized,
            mean=tuple(presets.mean),
            std=tuple(presets.std),
        ),
        accuracy=() if top1 is None else (Accuracy(top1, f"{source}, its own figure"),),
        source=source,
    )


def published(model: str) -> str | None:
    """Return the address of the weights of a torchvision name."""
    address: str = _weights(model).url
    return address


def arguments_told(config: Mapping[str, Any] | None) -> dict[str, Any]:
    """Return what a configuration beside the weights says: torchvision's files have none."""
    return {}


def native_state(state: Mapping[str, Tensor], arguments: Mapping[str, Any], *, where: str) -> State:
    """Rename torchvision's tensors to our names.

    arguments: of `torchvision`, as far as they are given. where: the file, for messages. Raises IsopatchError
    where no tensor is the model's.
    """
    model, size = arguments["model"], arguments["image_size"]
    size = (size, size) if isinstance(size, int) else tuple(size)
    create, _ = _creator(model, arguments["num_classes"], size, drop_path=None, dropout=None)
    path = classifier_path(create, name=f"torchvision:{model}", in_channels=3, size=size)
    state = _present_names(state)
    with torch.device("meta"):
        require_common(create(), state, where=where, name=f"torchvision:{model}")
    return to_native_names(state, path, bias=True)


def _present_names(state: Mapping[str, Tensor]) -> State:
    """The names that DenseNet and ViT have now: their published files have older ones."""
    renamed: State = {}
    for key, tensor in state.items():
        key = _DENSE_LAYER.sub(r"\1", key)
        key = _MLP_LAYER.sub(lambda found: f".mlp.{3 * (int(found[1]) - 1)}.", key)
        renamed[key] = tensor
    return renamed


def _weights(model: str) -> Any:
    """torchvision's record of a name's published weights; its default ones where none are named."""
    from torchvision import models

    name, _, tag = model.partition(".")
    known = models.list_models(module=models)
    if name not in known:
        full = f"torchvision:{model}"
        raise UsageError(f"unknown model '{full}': torchvision has no '{name}'{nearest(name, known)}")
    every = models.get_model_weights(name)
    if tag and tag not in every.__members__:
        raise UsageError(
            f"unknown model 'torchvision:{model}': torchvision has {name} with {', '.join(every.__members__)}"
        )
    return every[tag] if tag else every.DEFAULT


def _creator(
    model: str, num_classes: int, size: Grid, *, drop_path: float | None, dropout: float | None
) -> tuple[Callable[[], nn.Module], bool]:
    """Return (a function that builds the peer, whether it is built for one picture size)."""
    _weights(model)
    architecture, name = model.partition(".")[0], f"torchvision:{model}"
    probability(drop_path=drop_path or 0.0, dropout=dropout or 0.0)
    rates = {"drop_path": ("stochastic_depth_prob", drop_path), "dropout": ("dropout", dropout)}
    with torch.device("meta"), refused_by(name, "cannot be built"):
        accepted = parameters_of(type(_built(architecture)))
        given = {keyword for keyword, value in rates.values() if value is not None}
        accepted -= {keyword for keyword in given if _fixed(architecture, keyword)}
    keywords: dict[str, Any] = optional(rates, accepted, name)
    fixed = accepted & {"image_size", "input_size"}
    if "image_size" in fixed:
        if size[0] != size[1]:
            raise UsageError(f"image_size {size[0]}x{size[1]}: {name} takes square pictures only")
        keywords["image_size"] = size[0]
    elif fixed:
        keywords["input_size"] = size

    return lambda: _built(architecture, num_classes=num_classes, **keywords), bool(fixed)


def _built(architecture: str, **keywords: Any) -> nn.Module:
    """The model with fresh weights, on the default device.

    RegNet's constructor reads numbers from tensors, so it cannot run on the meta device; there the parameters
    alone are put on it, one by one.
    """
    from torchvision.models import get_model

    if torch.get_default_device().type != "meta":
        peer: nn.Module = get_model(architecture, weights=None, **keywords)
        return peer
    handle = register_module_parameter_registration_hook(cast(Any, _without_memory))  # its stub says None
    try:
        with torch.device("cpu"), torch.random.fork_rng(devices=[]):
            peer = get_model(architecture, weights=None, **keywords)
    finally:
        handle.remove()
    return peer.to("meta")


def _fixed(architecture: str, rate: str) -> bool:
    """Whether the function of a name (swin_t, maxvit_t) sets a rate of its class itself and takes none."""
    try:
        _built(architecture, **{rate: 0.0})
    except TypeError:
        return True
    return False


def _without_memory(module: nn.Module, name: str, parameter: nn.Parameter | None) -> nn.Parameter | None:
    """Replace a parameter by one of its shape on the meta device."""
    return None if parameter is None else nn.Parameter(parameter.to("meta"), parameter.requires_grad)


def _features(features: Tensor, x: Tensor) -> Features:
    """Features of pictures x: a map (B, C, rows, cols), or a ViT's tokens (B, 1 + N, C), class first."""
    if features.dim() == 4:
        return features_of_map(features)
    patch = math.isqrt(x.shape[2] * x.shape[3] // (features.shape[1] - 1))
    grid = (x.shape[2] // patch, x.shape[3] // patch)
    return Features(features, grid, as_map(features[:, 1:], grid))
