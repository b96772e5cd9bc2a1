"""When the plain modules run in a twin's stead, of any library.

Kernels read memory and know nothing of what PyTorch or a user hangs on modules. Whatever they would skip is
looked for at every call, which takes some microseconds a block.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable

import torch
from torch import Tensor, nn
from torch.autograd import forward_ad
from torch.nn.modules.module import _has_any_global_hook

from isopatch.kernels.intact import Intact

log = logging.getLogger("isopatch")

NOTHING: frozenset[str] = frozenset()
WEIGHTS = frozenset(("weight", "bias"))
CPU = torch.device("cpu")
_PLAIN = (Tensor, nn.Parameter)


def followed(x: Tensor) -> bool:
    """Whether PyTorch has to see every operation on x, or x is not memory that can be read.

    It traces, compiles or exports, differentiates forwards, maps over batches, counts operations.
    """
    return (
        torch.compiler.is_compiling()
        or torch._C._is_tracing()
        or type(x) not in _PLAIN
        or x.layout is not torch.strided
        or x.is_neg()
        or forward_ad._current_level >= 0
        or torch._C._len_torch_dispatch_stack() > 0
        or torch._C._functorch.peek_interpreter_stack() is not None
        or _has_any_global_hook()  # type: ignore[no-untyped-call]
    )


def altered(
    module: nn.Module,
    kinds: tuple[type[nn.Module], ...],
    parameters: frozenset[str],
    device: torch.device = CPU,
) -> str | None:
    """Say what of a module is not as its class made it; None for a plain one of one of the kinds.

    Subclasses, hooks, reparametrised weights (parametrize, prune, spectral_norm) and parameters of another
    type than float32 or on another device are what the kernels would leave out.
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
    return unreadable(own.values(), device)


def hooked(module: nn.Module) -> bool:
    """Whether something is called beside the module's forward."""
    return bool(
        module._forward_hooks
        or module._forward_pre_hooks
        or module._backward_hooks
        or module._backward_pre_hooks
    )


def unreadable(tensors: Iterable[Tensor | None], device: torch.device = CPU) -> str | None:
    """Say why parameters or buffers cannot be read as floats on the device; None where they can."""
    on_cpu = device.type == "cpu"
    for tensor in tensors:
        if tensor is None:
            continue
        if tensor.dtype is not torch.float32:
            return "parameters are not float32"
        here = tensor.is_cpu if on_cpu else tensor.device == device
        if not here or type(tensor) not in _PLAIN:
            return f"parameters are {type(tensor).__name__} on {tensor.device}"
    return None


def in_memory(gradient: Tensor) -> Tensor:
    """A gradient as memory that can be read: without gaps, its sign and its zeros written out."""
    if gradient._is_zerotensor():
        gradient = torch.zeros(gradient.shape, dtype=gradient.dtype, device=gradient.device)
    return gradient.resolve_neg().contiguous()


class Teller:
    """Says once why a twin leaves the work to the plain modules."""

    def __init__(self, what: str, library: str) -> None:
        """what: the plain modules and their verb, such as "stem runs". library: the twin's."""
        self.what = what
        self.library = library
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
            log.warning("kernels %s: the plain %s, because %s", self.library, self.what, why)
        return why is not None
