"""Whether a twin's modules are still those that were found fit: the long look of `unfit`, made short."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import chain
from operator import is_
from typing import Any

from torch import Tensor, nn

_SETTINGS: dict[type[nn.Module], tuple[str, ...]] = {
    nn.GELU: ("approximate",),
    nn.Conv2d: ("kernel_size", "stride", "padding", "dilation", "groups", "padding_mode"),
}
_HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")


class Intact:
    """Remembers a tree of modules; says whether types, children, tensors and hooks are the same.

    Of tensors also the type and shape, of convolutions and GELU what else they were made with. Other settings
    that are numbers in the modules are not looked at. It is neither copied nor pickled: a copy knows nothing
    yet.
    """

    def __init__(self) -> None:
        """Know nothing."""
        self._seen: tuple[Any, ...] | None = None

    def remember(self, root: nn.Module) -> None:
        """From now on compare with what is below `root` now."""
        modules = [module for module in root.modules() if module is not root]
        held = [module.__dict__ for module in modules]
        children = [root._modules, *(each["_modules"] for each in held)]
        tensors = [each[name] for each in held for name in ("_parameters", "_buffers")]
        hooks = [each[name] for each in held for name in _HOOKS]
        kinds = list(map(type, modules))
        settings = [
            (each, name) for each, kind in zip(held, kinds, strict=True) for name in _SETTINGS.get(kind, ())
        ]
        self._seen = (
            modules, kinds, held, children, _values(children), tensors, _described(tensors), hooks,
            settings, _set(settings),
        )  # fmt: skip

    def __call__(self) -> bool:
        """Whether all is as remembered."""
        if self._seen is None:
            return False
        modules, kinds, held, children, known, tensors, described, hooks, settings, values = self._seen
        now = _values(children)
        return (
            not any(hooks)
            and len(now) == len(known)
            and all(map(is_, now, known))
            and list(map(type, modules)) == kinds
            and not any("forward" in each for each in held)
            and _described(tensors) == described
            and _set(settings) == values
        )

    def parameters(self) -> list[Tensor]:
        """All parameters below the remembered root as they are now, in `nn.Module.parameters`' order."""
        own = () if self._seen is None else self._seen[5][::2]
        return [each for each in _values(own) if each is not None]

    def __reduce__(self) -> tuple[type[Intact], tuple[()]]:
        """A copy knows nothing yet."""
        return Intact, ()


def _set(settings: Iterable[tuple[dict[str, Any], str]]) -> list[Any]:
    return [held[name] for held, name in settings]


def _values(dicts: Iterable[dict[str, Any]]) -> list[Any]:
    return list(chain.from_iterable(map(dict.values, dicts)))


def _described(dicts: Iterable[dict[str, Any]]) -> list[Any]:
    return [
        None if tensor is None else (type(tensor), tensor.dtype, tensor.shape, tensor.is_cpu)
        for tensor in _values(dicts)
    ]
