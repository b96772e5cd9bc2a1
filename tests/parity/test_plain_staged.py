"""CycleMLP and Vision Permutator: the same weights in a second, plain implementation of the papers' formulas.

On maps (B, C, H, W), place by place, without the library's parts.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from isopatch.models.spec import build, make_spec

LIMITS = {torch.float64: 1e-10, torch.float32: 1e-5}
State = dict[str, Tensor]

CYCLE: dict[str, Any] = {
    "dims": [8, 12, 12],
    "depths": [2, 1, 1],
    "mlp_ratios": [3, 2, 2.5],
    "image_size": [20, 28],
    "num_classes": 5,
}
VIP: dict[str, Any] = {
    "dims": [8, 8, 12],
    "depths": [1, 2, 1],
    "segment_dims": [4, 4, 2],
    "transitions": [False, True],
    "mlp_ratios": [3, 2, 2.5],
    "patch_size": 4,
    "image_size": 16,
    "num_classes": 5,
}


def linear(x: Tensor, state: State, name: str) -> Tensor:
    """Over axis 1, the channels."""
    y = torch.einsum("bi...,oi->bo...", x, state[f"{name}.weight"])
    bias = state.get(f"{name}.bias")
    return y if bias is None else y + bias.view(1, -1, *[1] * (x.dim() - 2))


def layer_norm(x: Tensor, state: State, name: str) -> Tensor:
    """Over axis 1."""
    centred = x - x.mean(1, keepdim=True)
    normed = centred / (centred.square().mean(1, keepdim=True) + 1e-5).sqrt()
    return normed * state[f"{name}.weight"][:, None, None] + state[f"{name}.bias"][:, None, None]


def convolution(x: Tensor, state: State, name: str, stride: int, padding: int) -> Tensor:
    weight = state[f"{name}.weight"]
    side = weight.shape[-1]
    windows = F.pad(x, [padding] * 4).unfold(2, side, stride).unfold(3, side, stride)
    return torch.einsum("bchwij,ocij->bohw", windows, weight) + state[f"{name}.bias"][:, None, None]


def weighted(branches: list[Tensor], state: State, name: str) -> Tensor:
    """Softmax over branches, per channel; then the projection."""
    pooled = torch.stack(branches).sum(0).mean((2, 3))
    scores = linear(F.gelu(linear(pooled, state, f"{name}.fc1")), state, f"{name}.fc2")
    mixed = torch.zeros_like(branches[0])
    for channel in range(mixed.shape[1]):
        three = scores[:, 3 * channel : 3 * channel + 3].exp()
        for index, branch in enumerate(branches):
            share = three[:, index] / three.sum(1)
            mixed[:, channel] = mixed[:, channel] + branch[:, channel] * share[:, None, None]
    return linear(mixed, state, f"{name}.proj")


def staircase(x: Tensor, step: int, axis: int, sign: int) -> Tensor:
    """Every channel from its own distance: 0, 1, ... then the negative ones, and again."""
    distances = [*range((step - 1) // 2 + 1), *range(-(step // 2), 0)]
    shifted = torch.zeros_like(x)
    for channel in range(x.shape[1]):
        distance = sign * distances[channel % step]
        for row in range(x.shape[2]):
            for col in range(x.shape[3]):
                r, c = (row + distance, col) if axis == 0 else (row, col + distance)
                if 0 <= r < x.shape[2] and 0 <= c < x.shape[3]:
                    shifted[:, channel, row, col] = x[:, channel, r, c]
    return shifted


def cycle_mixing(x: Tensor, state: State, name: str, options: dict[str, Any]) -> Tensor:
    step, sign = options.get("step_size", 3), options.get("sign", 1)
    cols = linear(staircase(x, step, 1, sign), state, f"{name}.cols")
    rows = linear(staircase(x, step, 0, sign), state, f"{name}.rows")
    return weighted([cols, rows, linear(x, state, f"{name}.place")], state, f"{name}.branches")


def permute_mixing(x: Tensor, state: State, name: str, options: dict[str, Any]) -> Tensor:
    places = x.shape[2]
    size = x.shape[1] // places
    rows, cols = torch.zeros_like(x), torch.zeros_like(x)
    names = ("cols", "rows") if options.get("exchanged") else ("rows", "cols")
    for first in range(0, x.shape[1], size):
        segment = slice(first, first + size)
        for other in range(places):
            column = torch.cat([x[:, segment, place, other] for place in range(places)], 1)
            line = torch.cat([x[:, segment, other, place] for place in range(places)], 1)
            column, line = (
                linear(v, state, f"{name}.{n}") for v, n in zip((column, line), names, strict=True)
            )
            for place in range(places):
                part = slice(place * size, place * size + size)
                rows[:, segment, place, other] = column[:, part]
                cols[:, segment, other, place] = line[:, part]
    return weighted([rows, cols, linear(x, state, f"{name}.place")], state, f"{name}.branches")


def plain(
    x: Tensor, state: State, mixing: Callable[..., Tensor], options: dict[str, Any], halving: tuple[int, int]
) -> Tensor:
    if mixing is cycle_mixing:
        x = convolution(x, state, "stem.proj", stride=4, padding=2)
    else:
        x = convolution(x, state, "stem.patches.proj", stride=4, padding=0)
    for stage in range(3):
        names = sorted({".".join(key.split(".")[:3]) for key in state if key.startswith(f"stages.{stage}.")})
        for name in names:
            if f"{name}.weight" in state:
                x = convolution(x, state, name, *halving)
                continue
            y = layer_norm(x, state, f"{name}.block.token.norm")
            x = x + mixing(y, state, f"{name}.block.token.mixer", options)
            y = layer_norm(x, state, f"{name}.block.channel.norm")
            y = F.gelu(linear(y, state, f"{name}.block.channel.mixer.fc1"))
            x = x + linear(y, state, f"{name}.block.channel.mixer.fc2")
    return linear(layer_norm(x, state, "norm.norm").mean((2, 3)), state, "heads.cls.linear")


CASES = {
    "cycle_mlp": ("cycle_mlp_b1", CYCLE, cycle_mixing, (2, 1), {}),
    "cycle_mlp step 5": ("cycle_mlp_b1", {**CYCLE, "step_size": 5}, cycle_mixing, (2, 1), {"step_size": 5}),
    "cycle_mlp step 4": ("cycle_mlp_b1", {**CYCLE, "step_size": 4}, cycle_mixing, (2, 1), {"step_size": 4}),
    "vision_permutator": ("vip_s7", VIP, permute_mixing, (2, 0), {}),
}


def errors(
    name: str,
    arguments: dict[str, Any],
    mixing: Callable[..., Tensor],
    halving: tuple[int, int],
    options: dict[str, Any],
    dtype: torch.dtype,
) -> float:
    """Largest relative error of logits and of the gradient of the picture."""
    model = build(make_spec(name, arguments)).to(dtype).eval()
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for key, tensor in model.state_dict().items():
            noise = 0.3 * torch.randn(tensor.shape, generator=generator, dtype=torch.float64)
            tensor.copy_(1 + noise if tensor.dim() == 1 and key.endswith("norm.weight") else noise)
    size = model.spec.input
    x = torch.randn(2, 3, size.height, size.width, generator=generator, dtype=torch.float64).to(dtype)
    results = []
    state = dict(model.state_dict())
    for function in (model, lambda picture: plain(picture, state, mixing, options, halving)):
        picture = x.clone().requires_grad_()
        logits = function(picture)
        (gradient,) = torch.autograd.grad(logits.square().sum(), picture)
        results.append((logits.detach(), gradient))
    return max(float((a - b).abs().max() / b.abs().max()) for a, b in zip(*results, strict=True))


@pytest.mark.parametrize("dtype", LIMITS, ids=str)
@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_equals_a_plain_implementation(case: tuple[Any, ...], dtype: torch.dtype) -> None:
    assert errors(*case, dtype) <= LIMITS[dtype]


@pytest.mark.parametrize(
    ("case", "mistake"), [("cycle_mlp", {"sign": -1}), ("vision_permutator", {"exchanged": True})]
)
def test_the_comparison_would_notice_a_mistake(case: str, mistake: dict[str, Any]) -> None:
    # Negative control: the staircase goes the other way; the maps along rows and columns are exchanged.
    assert errors(*CASES[case][:-1], mistake, torch.float64) > 1e-3
