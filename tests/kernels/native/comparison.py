"""How twins are judged: against the plain modules in float64, relative to what is compared.

A gradient counts relative to at least a fifth of the model's largest, since small ones are differences of
large numbers. The twin may be off by the tolerance's limit, or by three times what the plain modules in the
same precision are off by. In bf16 that would let the gradient of a bias pass that is nothing: a bias's, and
a norm's weight's, is a sum over places, and counts relative to the root of the sum of its terms' squares,
which is what rounding the terms at random leaves of it, or to itself where that is more.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from isopatch.nn.skeleton import Isotropic

STEP = 2**-8  # bf16's relative rounding step


@dataclass(frozen=True)
class Tolerance:
    """limit: 1e-5 in fp32; in bf16 eight rounding steps, as often is a number rounded on its way.

    half: whether everything runs under bf16 autocast. gradients: whether they have a meaning at this
    precision. ReLU's slope jumps at 0; of a few hundred places one or two are so near it that bf16 puts them
    on the other side, each of them wrong altogether. Where all are far from it, see `far_from_zero`, they do.
    """

    limit: float
    half: bool
    gradients: bool

    @classmethod
    def of(cls, precision: str, activation: str, *, far: bool = False) -> Tolerance:
        half = precision == "bf16"
        return cls(8 * STEP if half else 1e-5, half, far or not (half and activation == "relu"))


def measured(model: Isotropic, pictures: Tensor, *, autocast: bool) -> dict[str, Tensor]:
    """Tokens, the gradients of a fixed function of them, and the statistics afterwards.

    The input's gradient is that of what enters the blocks: pictures that ask for one run the plain stem.
    """
    model.zero_grad()
    entered: list[Tensor] = []
    watch = model.blocks.register_forward_pre_hook(lambda _, given: entered.append(given[0]))
    torch.manual_seed(5)  # what is dropped is the same for all
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        tokens = model.final_features(pictures).tokens
    watch.remove()
    entered[0].retain_grad()
    direction = torch.randn(tokens.shape, generator=torch.Generator().manual_seed(1)).to(tokens.dtype)
    tokens.backward(direction)
    assert entered[0].grad is not None
    found = {"tokens": tokens.detach(), "gradient of the input": entered[0].grad}
    for name, parameter in model.named_parameters():
        if parameter.grad is not None:
            found[f"gradient of {name}"] = parameter.grad
    return found | {name: buffer.clone() for name, buffer in model.named_buffers()}


def terms_of_sums(model: nn.Module) -> dict[str, float]:
    """Norms of the terms that gradients of biases and of norms' weights add up; filled going back."""
    found: dict[str, float] = {}

    def watch(name: str, module: nn.Module) -> None:
        def after(module: nn.Module, given: object, out: Tensor) -> None:
            if not out.requires_grad:
                return

            def back(gradient: Tensor) -> None:
                found[f"gradient of {name}.bias"] = float(gradient.norm())
                if isinstance(module, nn.BatchNorm2d | nn.LayerNorm):
                    shape = (1, -1, 1, 1) if isinstance(module, nn.BatchNorm2d) else (-1,)
                    weight, bias = (each.detach().view(shape) for each in (module.weight, module.bias))
                    terms = gradient * (out.detach() - bias) / weight
                    found[f"gradient of {name}.weight"] = float(terms.norm())

            out.register_hook(back)

        module.register_forward_hook(after)

    for name, module in model.named_modules():
        if isinstance(module, nn.Conv2d | nn.Linear | nn.BatchNorm2d | nn.LayerNorm):
            watch(name, module)
    return found


def off(found: Tensor, wanted: Tensor, scale: float = 0.0) -> float:
    """Distance relative to the norm of what was wanted, or to `scale` where that is larger."""
    wanted = wanted.double()
    return float((found.double() - wanted).norm()) / max(float(wanted.norm()), scale, 1e-6)


def violations(twin: Isotropic, plain: Isotropic, pictures: Tensor, tolerance: Tolerance) -> list[str]:
    """What of the twin is farther off than it may be."""
    reference = copy.deepcopy(plain).double()
    terms = terms_of_sums(reference) if tolerance.half else {}
    exact = measured(reference, pictures.double(), autocast=False)
    theirs = measured(copy.deepcopy(plain), pictures, autocast=tolerance.half)
    ours = measured(twin, pictures, autocast=tolerance.half)
    assert ours.keys() == exact.keys()
    assert ours["tokens"].dtype == theirs["tokens"].dtype
    largest = max(float(exact[name].norm()) for name in exact if name.startswith("gradient"))
    found = []
    for name, wanted in exact.items():
        if name.startswith("gradient") and not tolerance.gradients:
            continue
        scale = largest / 5 if name.startswith("gradient") else 0.0
        scale = terms.get(name, scale)
        error, plain_error = off(ours[name], wanted, scale), off(theirs[name], wanted, scale)
        if not error <= (tolerance.limit if name in terms else max(tolerance.limit, 3 * plain_error)):
            found.append(f"{name}: {error:.1e}, plain {plain_error:.1e}")
    return found
