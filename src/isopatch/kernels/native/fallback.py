"""When the plain modules run in a twin's stead.

The passes read memory and know nothing of what PyTorch or a user hangs on modules. Whatever they would skip
is looked for at every call, which takes some microseconds a block.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable

import torch
from torch import Tensor, nn
from torch.autograd import forward_ad
from torch.nn.modules.module import _has_any_global_hook

from isopatch.kernels.native.intact import Intact

log = logging.getLogger("isopatch")

NOTHING: frozenset[str] = frozenset()
WEIGHTS = frozenset(("weight", "bias"))
_PLAIN = (Tensor, nn.Parameter)


def watched(x: Tensor) -> bool:
    """Whether PyTorch has to see every operation on x, or x is not memory of the CPU that can be read.

    It traces, compiles or exports, differentiates forwards, maps over batches, counts operations.
    """
    return (
        torch.compiler.is_compiling()
        or torch._C._is_tracing()
        or type(x) not in _PLAIN
        or not x.is_cpu
        or x.layout is not torch.strided
        or x.is_neg()
        or forward_ad._current_level >= 0
        or torch._C._len_torch_dispatch_stack() > 0
        or torch._C._functorch.peek_interpreter_stack() is not None
        or _has_any_global_hook()  # type: ignore[no-untyped-call]
    )


def served_type(x: Tensor) -> bool:
    """Whether x has a type the plain float32 modules take: float32, or under bf16 autocast a half as well."""
    if not torch.is_autocast_enabled("cpu"):
        return x.dtype is torch.float32
    halves = (torch.float32, torch.bfloat16, torch.float16)
    return torch.get_autocast_dtype("cpu") is torch.bfloat16 and x.dtype in halves


def altered(module: nn.Module, kinds: tuple[type[nn.Module], ...], parameters: frozenset[str]) -> str | None:
    """Say what of a module is not as its class made it; None for a plain one of one of the kinds.

    Subclasses, hooks, reparametrised weights (parametrize, prune, spectral_norm) and parameters of another
    type than float32 are what the passes would leave out.
    """
    kind = type(module)
    if kind not in kinds:
        return f"{kind.__name__} is not {' or '.join(each.__name__ for each in kinds)}"
    if hooked(module):
        return f"{kind.__name__} has hooks"
    if "forward" in module.__dict__:
        return f"{kind.__name__} has a forward of its own"
    own = module._parameters
    if own.keys() != parameters:
        return (
            f"{kind.__name__} has parameters {', '.join(own) or 'none'}, not {', '.join(sorted(parameters))}"
        )
    return unreadable(own.values())


def hooked(module: nn.Module) -> bool:
    """Whether something is called beside the module's forward."""
    return bool(
        module._forward_hooks
        or module._forward_pre_hooks
        or module._backward_hooks
        or module._backward_pre_hooks
    )


def unreadable(tensors: Iterable[Tensor | None]) -> str | None:
    """Say why parameters or buffers cannot be read as floats; None where they can."""
    for tensor in tensors:
        if tensor is None:
            continue
        if tensor.dtype is not torch.float32:
            return "parameters are not float32"
        if not tensor.is_cpu or type(tensor) not in _PLAIN:
            return f"parameters are {type(tensor).__name__} on {tensor.device}"
    return None


def in_memory(gradient: Tensor) -> Tensor:
    """A gradient as memory that can be read: without gaps, its sign and its zeros written out."""
    if gradient._is_zerotensor():
        gradient = torch.zeros(gradient.shape, dtype=gradient.dtype)
    return gradient.resolve_neg().contiguous()


class Teller:
    """Says once why a twin leaves the work to the plain modules."""

    def __init__(self, what: str) -> None:
        """what: the twin, such as "stem"."""
        self.what = what
        self._told: set[str] = set()

    def unless_fit(self, intact: Intact, module: nn.Module, why: str | None) -> bool:
        """The same; a module that is fit is remembered as it is."""
        if why is None:
            intact.remember(module)
        return self(why)

    def __call__(self, why: str | None) -> bool:
        """Log a reason that is new; return whether there is one."""
        if why is not None and why not in self._told:
            self._told.add(why)
            log.warning("kernels native: the plain %s, because %s", self.what, why)
        return why is not None
