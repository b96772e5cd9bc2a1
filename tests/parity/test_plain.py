"""Architectures without a peer: the same weights in a second, plain implementation of the formulas.

Written from the papers' equations on (B, C, H, W) maps, without the library's parts.
"""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from isopatch.models.spec import build, make_spec

LIMITS = {torch.float64: 1e-10, torch.float32: 1e-5}
SIZES = {"dim": 12, "depth": 2, "patch_size": 4, "image_size": [16, 24], "num_classes": 5}


def linear(x: Tensor, state: dict[str, Tensor], name: str) -> Tensor:
    return x @ state[f"{name}.weight"].T + state[f"{name}.bias"]


def layer_norm(x: Tensor, state: dict[str, Tensor], name: str) -> Tensor:
    """Over the last axis."""
    mean = x.mean(-1, keepdim=True)
    variance = ((x - mean) ** 2).mean(-1, keepdim=True)
    return (x - mean) / (variance + 1e-6).sqrt() * state[f"{name}.weight"] + state[f"{name}.bias"]


def batch_norm(x: Tensor, state: dict[str, Tensor], name: str) -> Tensor:
    """With the running statistics, over axis 1."""
    mean, variance = state[f"{name}.running_mean"], state[f"{name}.running_var"]
    scale = state[f"{name}.weight"] / (variance + 1e-5).sqrt()
    return (x - mean[:, None, None]) * scale[:, None, None] + state[f"{name}.bias"][:, None, None]


def patches(x: Tensor, state: dict[str, Tensor]) -> Tensor:
    """(B, C, rows, cols), each place a linear map of its patch."""
    weight, bias = state["stem.proj.weight"], state["stem.proj.bias"]
    side = weight.shape[-1]
    cut = x.unfold(2, side, side).unfold(3, side, side)  # B, c, rows, cols, side, side
    return torch.einsum("bcrsij,ocij->bors", cut, weight) + bias[:, None, None]


def metaformer(x: Tensor, state: dict[str, Tensor], kind: str) -> Tensor:
    x = patches(x, state)
    rows, cols = x.shape[2:]
    for i in range(2):
        y = layer_norm(x.permute(0, 2, 3, 1), state, f"blocks.{i}.token.norm")
        if kind == "pool":
            mixed = torch.zeros_like(y)
            for r in range(rows):
                for c in range(cols):
                    window = y[:, max(r - 1, 0) : r + 2, max(c - 1, 0) : c + 2]
                    mixed[:, r, c] = window.mean(dim=(1, 2)) - y[:, r, c]
        elif kind == "random":
            weights = state[f"blocks.{i}.token.mixer.weights"]
            mixed = torch.einsum("mn,bnc->bmc", weights, y.flatten(1, 2)).unflatten(1, (rows, cols))
        else:
            mixed = y
        tokens = x.permute(0, 2, 3, 1) + mixed
        y = layer_norm(tokens, state, f"blocks.{i}.channel.norm")
        y = linear(
            F.gelu(linear(y, state, f"blocks.{i}.channel.mixer.fc1")), state, f"blocks.{i}.channel.mixer.fc2"
        )
        x = (tokens + y).permute(0, 3, 1, 2)
    return linear(layer_norm(x.permute(0, 2, 3, 1), state, "norm").mean((1, 2)), state, "heads.cls.linear")


def hard_swish(x: Tensor) -> Tensor:
    return x * (x + 3).clamp(0, 6) / 6


def mobilenet_v3(x: Tensor, state: dict[str, Tensor], kind: str) -> Tensor:
    x = hard_swish(batch_norm(patches(x, state), state, "stem.norm.0"))
    for i in range(2):
        name = f"blocks.{i}"
        y = torch.einsum("bchw,oc->bohw", x, state[f"{name}.expand.weight"][:, :, 0, 0])
        y = hard_swish(batch_norm(y, state, f"{name}.expand_norm"))
        kernel = state[f"{name}.depthwise.weight"]
        low, high = (kernel.shape[-1] - 1) // 2, kernel.shape[-1] // 2
        padded = F.pad(y, (low, high, low, high))
        windows = padded.unfold(2, kernel.shape[-1], 1).unfold(3, kernel.shape[-1], 1)
        y = torch.einsum("bchwij,cij->bchw", windows, kernel[:, 0])
        y = hard_swish(batch_norm(y, state, f"{name}.depthwise_norm"))
        if kind == "squeeze":
            pooled = y.mean((2, 3))
            hidden = pooled @ state[f"{name}.squeeze.reduce.weight"][:, :, 0, 0].T
            hidden = (hidden + state[f"{name}.squeeze.reduce.bias"]).clamp(min=0)
            scale = hidden @ state[f"{name}.squeeze.expand.weight"][:, :, 0, 0].T
            scale = (scale + state[f"{name}.squeeze.expand.bias"] + 3).clamp(0, 6) / 6
            y = y * scale[:, :, None, None]
        y = torch.einsum("bchw,oc->bohw", y, state[f"{name}.project.weight"][:, :, 0, 0])
        x = x + batch_norm(y, state, f"{name}.project_norm")
    return linear(x.mean((2, 3)), state, "heads.cls.linear")


def patch_norm_vit(x: Tensor, state: dict[str, Tensor], kind: str) -> Tensor:
    """vit-pytorch's ViT: eps 1e-5, no bias in qkv, LayerNorm before and after the patch projection."""

    def norm(x: Tensor, name: str) -> Tensor:
        return F.layer_norm(x, x.shape[-1:], state[f"{name}.weight"], state[f"{name}.bias"], eps=1e-5)

    side = 4
    rows = [
        x[:, :, r : r + side, c : c + side].permute(0, 2, 3, 1).flatten(1)
        for r in range(0, x.shape[2], side)
        for c in range(0, x.shape[3], side)
    ]
    tokens = norm(linear(norm(torch.stack(rows, 1), "stem.patch_norm"), state, "stem.proj"), "stem.norm")
    cls = state["prefix.cls_token"].expand(len(x), -1, -1)
    tokens = torch.cat((cls, tokens), 1) + state["position.table"]
    for i in range(2):
        y = norm(tokens, f"blocks.{i}.token.norm")
        q, k, v = (y @ state[f"blocks.{i}.token.mixer.qkv.weight"].T).chunk(3, -1)
        heads = []
        for h in range(3):
            part = slice(4 * h, 4 * h + 4)
            scores = torch.einsum("bnc,bmc->bnm", q[..., part], k[..., part]) / 2.0
            heads.append(scores.softmax(-1) @ v[..., part])
        tokens = tokens + linear(torch.cat(heads, -1), state, f"blocks.{i}.token.mixer.proj")
        y = linear(norm(tokens, f"blocks.{i}.channel.norm"), state, f"blocks.{i}.channel.mixer.fc1")
        tokens = tokens + linear(F.gelu(y), state, f"blocks.{i}.channel.mixer.fc2")
    return linear(norm(tokens, "norm")[:, 0], state, "heads.cls.linear")


VIT_PYTORCH = {"num_heads": 3, "patch_norm": True, "norm_eps": 1e-5, "qkv_bias": False, "init": "pytorch"}

CASES = {
    "vit-pytorch": ("vit", VIT_PYTORCH, patch_norm_vit, "class"),
    "pooling": ("metaformer", {"token_mixer": "pool"}, metaformer, "pool"),
    "identity": ("metaformer", {"token_mixer": "identity"}, metaformer, "identity"),
    "random": ("metaformer", {"token_mixer": "random"}, metaformer, "random"),
    "mobilenet": ("mobilenet_v3", {}, mobilenet_v3, "squeeze"),
    "mobilenet without squeeze": ("mobilenet_v3", {"squeeze_ratio": None}, mobilenet_v3, "plain"),
    "mobilenet even kernel": ("mobilenet_v3", {"kernel_size": 4}, mobilenet_v3, "squeeze"),
}


def errors(name: str, arguments: dict, plain, kind: str, dtype: torch.dtype) -> tuple[float, float]:
    model = build(make_spec(name, SIZES | arguments)).to(dtype).eval()
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for key, tensor in model.state_dict().items():
            if tensor.is_floating_point() and not key.endswith("mixer.weights"):
                noise = torch.randn(tensor.shape, generator=generator, dtype=torch.float64)
                centre = 1.0 if tensor.dim() == 1 and key.endswith(("weight", "var")) else 0.0
                tensor.copy_((centre + 0.3 * noise).abs() if key.endswith("var") else centre + 0.3 * noise)
    x = torch.randn(2, 3, 16, 24, generator=generator, dtype=torch.float64).to(dtype)
    results = []
    for function in (model, lambda picture: plain(picture, model.state_dict(), kind)):
        picture = x.clone().requires_grad_()
        logits = function(picture)
        (gradient,) = torch.autograd.grad(logits.square().sum(), picture)
        results.append((logits.detach(), gradient))
    return tuple(float((a - b).abs().max() / b.abs().max()) for a, b in zip(*results, strict=True))


@pytest.mark.parametrize("dtype", LIMITS, ids=str)
@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_equals_a_plain_implementation(case: tuple, dtype: torch.dtype) -> None:
    assert max(errors(*case, dtype)) <= LIMITS[dtype]


def test_the_comparison_would_notice_a_missing_term() -> None:
    name, arguments, plain, _ = CASES["mobilenet"]
    assert max(errors(name, arguments, plain, "plain", torch.float64)) > 1e-3
