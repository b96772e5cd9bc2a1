"""A model of another library as one of ours: its last linear layer becomes our head, the rest stays.

The wrapped module is called `peer` and keeps its own parameter names under `peer.`; the classifier's weights
move to `heads.cls.linear`. B pictures, C features, K classes.
"""

from __future__ import annotations

import contextlib
from abc import abstractmethod
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from isopatch.errors import UsageError
from isopatch.models.arguments import NotTaken
from isopatch.models.formats.keymap import State
from isopatch.nn.classifier import Classifier, Encoded, Features
from isopatch.nn.head import Head
from isopatch.nn.layout import Grid, as_tokens

HEAD = "heads.cls.linear"
Create = Callable[[], nn.Module]


class InGraph(NamedTuple):
    """Features, and what one pass pools from them in the same graph.

    tensor: the features as the peer hands them on. pooled: (B, 1, C), computed from `tensor`. as_map: what is
    shaped like `tensor` (itself, a gradient by it) -> (B, C, rows, cols), prefix tokens left out.
    """

    tensor: Tensor
    pooled: Tensor
    as_map: Callable[[Tensor], Tensor]


class External(Classifier):
    """Pictures -> the peer's own forward pass up to its classifier -> our head.

    name: as a user gives it, for messages. classifier: the path of the peer's last linear layer.
    size: (height, width) for peers that take no other; None for those that take any.
    """

    def __init__(self, peer: nn.Module, *, name: str, classifier: str, size: Grid | None) -> None:
        """Take the classifier's weights over and put nothing in its place."""
        super().__init__()
        layer = peer.get_submodule(classifier)
        assert isinstance(layer, nn.Linear | nn.Conv2d)
        num_classes, dim = layer.weight.shape[:2]
        head = Head(dim, num_classes)
        with torch.no_grad():
            head.linear.weight.copy_(layer.weight.flatten(1))
            head.linear.bias.copy_(torch.zeros(num_classes) if layer.bias is None else layer.bias)
        parent, _, leaf = classifier.rpartition(".")
        setattr(peer.get_submodule(parent), leaf, nn.Identity())
        self.name = name
        self.size = size
        self.peer = peer
        self.heads = nn.ModuleDict({"cls": head})

    def encode(self, x: Tensor) -> Encoded:
        """Return features and what is pooled, from two passes: the peer's own forward is not taken apart."""
        return Encoded(self.final_features(x), self.pooled(x))

    @abstractmethod
    def final_features(self, x: Tensor) -> Features:
        """Return what the peer's pooling reads, as a map and as tokens."""

    @abstractmethod
    def in_graph(self, x: Tensor) -> InGraph:
        """Return what the peer's pooling reads and what comes of it, for gradients of one by the other.

        Raises UsageError where the peer has no feature map, or one whose places are not known.
        """

    def pooled(self, x: Tensor) -> Tensor:
        """Return what the peer's classifier would read, (B, 1, C)."""
        self.require_size(x)
        features: Tensor = self.peer(x)
        return features.unsqueeze(1)

    def refit(self, state: State) -> State:
        """Fit weights in our names to this model where the peer's library has a rule for it."""
        return state

    def require_size(self, x: Tensor) -> None:
        """Refuse a picture of another size where the peer was built for one."""
        height, width = x.shape[-2:]
        if self.size is not None and (height, width) != self.size:
            raise UsageError(
                f"{self.name} was built for {self.size[0]}x{self.size[1]} pictures, not {height}x{width}: "
                f"give it that image_size"
            )


def build_peer(create: Create, *, name: str, in_channels: int, size: Grid) -> tuple[nn.Module, str]:
    """Return (the peer with fresh weights, the path of its classifier).

    A copy without memory takes two pictures first, so that what does not work is said here and not by a
    matrix product during training. Raises UsageError.
    """
    path = classifier_path(create, name=name, in_channels=in_channels, size=size)
    return create(), path


def classifier_path(create: Create, *, name: str, in_channels: int, size: Grid) -> str:
    """Return the path of the linear layer whose output the logits are, in training and in evaluation.

    It is found by watching a forward pass, not by name: a peer that averages two heads, or changes the
    layer's output in any way, has no such layer and is refused, because our head could not take its place.
    """
    with torch.device("meta"):
        with refused_by(name, f"cannot be built for {size[0]}x{size[1]} pictures"):
            peer = create()
        x = torch.empty(2, in_channels, *size)
        paths = set()
        with refused_by(name, f"cannot take {size[0]}x{size[1]} pictures"), torch.no_grad():
            for training in (True, False):
                paths.add(_last_linear(peer.train(training), x))
    path = paths.pop()
    if paths or path is None:
        raise UsageError(
            f"{name}: its logits are not the output of one linear layer (two heads, or a step after it), so "
            f"isopatch's classifier cannot take that layer's place; choose another model"
        )
    return path


def _last_linear(peer: nn.Module, x: Tensor) -> str | None:
    """Return the path of the layer whose whole, unchanged output the peer returns; None without one."""
    outputs: list[tuple[str, Tensor, int]] = []

    def watch(path: str) -> Callable[[nn.Module, tuple[Any, ...], Tensor], None]:
        def note(layer: nn.Module, inputs: tuple[Any, ...], output: Tensor) -> None:
            if inputs[0].numel() == inputs[0].shape[0] * inputs[0].shape[1]:  # one vector per picture
                outputs.append((path, output, output._version))

        return note

    layers = [(path, module) for path, module in peer.named_modules() if _is_linear(module)]
    handles = [layer.register_forward_hook(watch(path)) for path, layer in layers]
    try:
        logits = peer(x)
    finally:
        for handle in handles:
            handle.remove()
    if not isinstance(logits, Tensor):
        return None
    storage = logits.untyped_storage()._cdata
    for path, output, version in outputs:
        same = output.untyped_storage()._cdata == storage and output.numel() == logits.numel()
        if same and output._version == version:
            return path
    return None


def _is_linear(module: nn.Module) -> bool:
    """Whether a layer multiplies and adds and nothing else; a subclass may do more.

    timm's `Linear` differs from PyTorch's in its casts under autocast alone.
    """
    return isinstance(module, nn.Linear | nn.Conv2d) and type(module).__name__ in ("Linear", "Conv2d")


def features_of_map(feature_map: Tensor) -> Features:
    """A map (B, C, rows, cols), also as tokens."""
    return Features(as_tokens(feature_map), (feature_map.shape[2], feature_map.shape[3]), feature_map)


@contextlib.contextmanager
def refused_by(name: str, what: str) -> Iterator[None]:
    """Turn a peer's own error into a UsageError of one line."""
    try:
        yield
    except (UsageError, MemoryError):
        raise
    except Exception as error:  # other libraries refuse through many types
        first = (str(error).strip().splitlines() or [type(error).__name__])[0][:160]
        raise UsageError(f"{name} {what} ({first})") from None


def parameters_of(peer: type[nn.Module]) -> set[str]:
    """Return the names of the constructor's arguments, those of its base classes too."""
    names: set[str] = set()
    for kind in peer.__mro__:
        if issubclass(kind, nn.Module) and kind is not nn.Module and "__init__" in vars(kind):
            code = vars(kind)["__init__"].__code__
            names.update(code.co_varnames[1 : code.co_argcount + code.co_kwonlyargcount])
    return names


def optional(
    given: Mapping[str, tuple[str, float | None]], accepted: set[str], name: str
) -> dict[str, float]:
    """Return the peer's keywords for rates that were given; one it does not take raises NotTaken.

    given: our argument -> (the peer's keyword, value). None keeps the peer's own value.
    """
    for argument, (keyword, value) in given.items():
        if value is not None and keyword not in accepted:
            raise NotTaken(argument, value, name)
    return {keyword: value for keyword, value in given.values() if value is not None}


def to_native_names(state: Mapping[str, Tensor], classifier: str, *, bias: bool) -> State:
    """Rename the peer's state dict to ours.

    bias: whether the peer's classifier has one; where it has none ours is 0.
    """
    native: State = {}
    for key, tensor in state.items():
        if key == f"{classifier}.weight":
            native[f"{HEAD}.weight"] = tensor.flatten(1)
        elif key == f"{classifier}.bias":
            native[f"{HEAD}.bias"] = tensor
        else:
            native[f"peer.{key}"] = tensor
    weight = native.get(f"{HEAD}.weight")
    if not bias and weight is not None:
        native.setdefault(f"{HEAD}.bias", weight.new_zeros(weight.shape[0]))
    return native
