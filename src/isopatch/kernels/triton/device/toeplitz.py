"""Depthwise convolution on "channels" (C, B, H, W), on tensor cores.

For one channel, output rows = sum over dy of (input rows shifted by dy) x T_dy, where T_dy[j, i] is the
weight of kernel row dy at j - i + PAD: a banded Toeplitz matrix that the zeros beyond both ends merely
truncate. A row of W places then costs K * W * W products instead of K * K * W, on units that are many times
faster. A program makes ROWS rows of one channel; SIDE is W rounded up to a power of two from 16, `tl.dot`'s
least.
"""

from __future__ import annotations

import triton
import triton.language as tl

from isopatch.kernels.triton.device.activation import activate


@triton.jit
def _dot(a, b, total, WIDEN: tl.constexpr):
    """total + a b. WIDEN: in the interpreter, which multiplies the bits of bf16 as if they were integers."""
    if WIDEN:
        a = a.to(tl.float32)
        b = b.to(tl.float32)
    return tl.dot(a, b, total, input_precision="ieee")


@triton.jit
def convolve(
    x_ptr,  # (C, B * H, W)
    weight_ptr,  # (C, K * K)
    residual_ptr,  # (C, B * H, W), with RESIDUAL
    bias_ptr,  # (C,), with APPLY or STATISTICS
    scale_ptr,  # (C,) float32, with APPLY
    shift_ptr,  # (C,) float32, with APPLY
    out_ptr,  # (C, B * H, W)
    mean_ptr,  # (programs per channel, C) float32, with STATISTICS
    square_ptr,  # the same
    count_ptr,  # (programs per channel,) float32, with STATISTICS
    all_rows,  # B * H
    H,
    C,
    tiles,
    W: tl.constexpr,
    K: tl.constexpr,
    PAD: tl.constexpr,
    FLIP: tl.constexpr,
    ACTIVATION: tl.constexpr,
    APPLY: tl.constexpr,
    RESIDUAL: tl.constexpr,
    STATISTICS: tl.constexpr,
    ROWS: tl.constexpr,
    SIDE: tl.constexpr,
    WIDEN: tl.constexpr,
):
    """Do what `direct.convolve` does, with the same options."""
    pid = tl.program_id(0)
    tile = pid % tiles
    channel = pid // tiles
    start = channel.to(tl.int64) * all_rows * W
    row = tile * ROWS + tl.arange(0, ROWS)
    row_of_picture = row % H
    col = tl.arange(0, SIDE)
    place = row[:, None] * W + col[None, :]
    tap = col[:, None] - col[None, :] + PAD
    in_band = (tap >= 0) & (tap < K)
    weights = weight_ptr + channel * (K * K)

    total = tl.zeros((ROWS, SIDE), tl.float32)
    for dy in range(K):
        source = row_of_picture + (dy - PAD)
        mask = ((source >= 0) & (source < H) & (row < all_rows))[:, None] & (col < W)[None, :]
        value = tl.load(x_ptr + start + place + (dy - PAD) * W, mask=mask, other=0.0)
        index = (K * K - 1 - dy * K - tap) if FLIP else (dy * K + tap)
        toeplitz = tl.load(weights + index, mask=in_band, other=0.0).to(value.dtype)
        total = _dot(value, toeplitz, total, WIDEN)

    mask = (row < all_rows)[:, None] & (col < W)[None, :]
    if APPLY or STATISTICS:
        bias = tl.load(bias_ptr + channel).to(tl.float32)
    if APPLY:
        total = activate(total + bias, ACTIVATION) * tl.load(scale_ptr + channel) + tl.load(
            shift_ptr + channel
        )
    if RESIDUAL:
        total += tl.load(residual_ptr + start + place, mask=mask, other=0.0).to(tl.float32)
    stored = total.to(out_ptr.dtype.element_ty)
    tl.store(out_ptr + start + place, stored, mask=mask)
    if STATISTICS:
        active = tl.where(mask, activate(stored.to(tl.float32) + bias, ACTIVATION), 0.0)
        count = (tl.minimum(ROWS, all_rows - tile * ROWS) * W).to(tl.float32)
        mean = tl.sum(active) / count
        away = tl.where(mask, active - mean, 0.0)
        tl.store(mean_ptr + tile * C + channel, mean)
        tl.store(square_ptr + tile * C + channel, tl.sum(away * away))
        if channel == 0:
            tl.store(count_ptr + tile, count)


@triton.jit
def weight_gradient(
    x_ptr,  # (C, B * H, W)
    gradient_ptr,  # (C, B * H, W), of the convolution's result
    partial_ptr,  # (splits, K * K, C) float32
    all_rows,  # B * H
    H,
    C,
    tiles,
    splits,
    W: tl.constexpr,
    K: tl.constexpr,
    PAD: tl.constexpr,
    ROWS: tl.constexpr,
    SIDE: tl.constexpr,
    WIDEN: tl.constexpr,
):
    """Multiply shifted rows^T x gradient rows, for one channel and row shift; add along the diagonals.

    The K programs of a channel stand side by side, so all but the first find its maps in the L2 cache.
    """
    pid = tl.program_id(0)
    dy = pid % K
    channel = (pid // K) % C
    split = pid // (K * C)
    start = channel.to(tl.int64) * all_rows * W
    col = tl.arange(0, SIDE)
    in_col = (col < W)[None, :]

    total = tl.zeros((SIDE, SIDE), tl.float32)
    for tile in range(split, tiles, splits):
        row = tile * ROWS + tl.arange(0, ROWS)
        place = row[:, None] * W + col[None, :]
        source = row % H + (dy - PAD)
        inside = row < all_rows
        gradient = tl.load(gradient_ptr + start + place, mask=inside[:, None] & in_col, other=0.0)
        inside = inside & (source >= 0) & (source < H)
        value = tl.load(x_ptr + start + place + (dy - PAD) * W, mask=inside[:, None] & in_col, other=0.0)
        total = _dot(tl.trans(value), gradient, total, WIDEN)
    diagonal = col[:, None] - col[None, :] + PAD
    for dx in range(K):
        tap = split * (K * K) + dy * K + dx
        tl.store(partial_ptr + tap * C + channel, tl.sum(tl.where(diagonal == dx, total, 0.0)))
