"""Activations and their derivatives in float32."""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def activate(v, ACTIVATION: tl.constexpr):
    """Exact GELU (erf) or ReLU."""
    if ACTIVATION == "gelu":
        return 0.5 * v * (1.0 + tl.math.erf(v * 0.7071067811865476))
    else:
        return tl.maximum(v, 0.0)


@triton.jit
def activate_both(v, ACTIVATION: tl.constexpr):
    """Return the activation and its derivative: for GELU Phi(v) + v phi(v); for ReLU 0 at 0, as PyTorch."""
    if ACTIVATION == "gelu":
        normal = 0.5 * (1.0 + tl.math.erf(v * 0.7071067811865476))
        density = 0.3989422804014327 * tl.exp(-0.5 * v * v)
        return v * normal, normal + v * density
    else:
        return tl.maximum(v, 0.0), tl.where(v > 0.0, 1.0, 0.0)
