"""Depthwise convolution on "tokens" (B, H, W, C) by multiply-add, channels across threads.

A program makes ROWS x COLS places of CHANNELS channels. Each input row is loaded once for each of the K
column shifts and used for every output row it reaches, so an output costs (ROWS + K - 1) * K / ROWS loads
instead of K * K (18 instead of 81 for K 9, ROWS 8); the K weights of a column shift stay in registers. Loads
are masked because the border is everywhere on maps of 7 x 7 to 32 x 32; a masked load moves no bytes.
"""

from __future__ import annotations

import triton
import triton.language as tl

from isopatch.kernels.triton.device.activation import activate


@triton.jit
def convolve(
    x_ptr,  # (B, H, W, C)
    weight_ptr,  # (K * K, C) float32
    residual_ptr,  # (B, H, W, C), with RESIDUAL
    bias_ptr,  # (C,), with APPLY or STATISTICS
    scale_ptr,  # (C,) float32, with APPLY
    shift_ptr,  # (C,) float32, with APPLY
    out_ptr,  # (B, H, W, C)
    mean_ptr,  # (programs per channel, C) float32, with STATISTICS
    square_ptr,  # the same
    count_ptr,  # (programs per channel,) float32, with STATISTICS
    H,
    W,
    C,
    row_tiles,
    col_tiles,
    K: tl.constexpr,
    PAD: tl.constexpr,
    FLIP: tl.constexpr,
    ACTIVATION: tl.constexpr,
    APPLY: tl.constexpr,
    RESIDUAL: tl.constexpr,
    STATISTICS: tl.constexpr,
    ROWS: tl.constexpr,
    COLS: tl.constexpr,
    CHANNELS: tl.constexpr,
):
    """out = conv(x), which APPLY turns into scale * act(conv + bias) + shift and RESIDUAL adds to.

    PAD: zeros above and left. FLIP: the kernel turned by 180 degrees, which makes it the input gradient.
    STATISTICS: mean and squared deviations of act(out + bias) over this program's places.
    """
    channel_tiles = tl.cdiv(C, CHANNELS)
    pid = tl.program_id(0)
    place = pid // channel_tiles
    picture = place // (row_tiles * col_tiles)
    tile = place % (row_tiles * col_tiles)
    first_row = (tile // col_tiles) * ROWS
    first_col = (tile % col_tiles) * COLS
    channel = (pid % channel_tiles) * CHANNELS + tl.arange(0, CHANNELS)
    has_channel = channel < C
    start = picture.to(tl.int64) * H * W * C

    sums = ()
    for _ in tl.static_range(ROWS):
        sums = sums + (tl.zeros((COLS, CHANNELS), tl.float32),)
    for dx in range(K):
        weights = ()
        for dy in tl.static_range(K):
            tap = (K * K - 1 - dy * K - dx) if FLIP else (dy * K + dx)
            weights = weights + (tl.load(weight_ptr + tap * C + channel, mask=has_channel, other=0.0),)
        col = first_col + dx - PAD + tl.arange(0, COLS)
        inside = ((col >= 0) & (col < W))[:, None] & has_channel[None, :]
        offsets = ((first_row - PAD) * W + col)[:, None] * C + channel[None, :]
        for reach in tl.static_range(ROWS + K - 1):
            row = first_row - PAD + reach
            mask = inside & ((row >= 0) & (row < H))
            value = tl.load(x_ptr + start + offsets + reach * (W * C), mask=mask, other=0.0).to(tl.float32)
            added = ()
            for t in tl.static_range(ROWS):
                if reach - t >= 0 and reach - t < K:
                    added = added + (sums[t] + value * weights[reach - t][None, :],)
                else:
                    added = added + (sums[t],)
            sums = added

    col = first_col + tl.arange(0, COLS)
    inside = (col < W)[:, None] & has_channel[None, :]
    if APPLY or STATISTICS:
        bias = tl.load(bias_ptr + channel, mask=has_channel, other=0.0).to(tl.float32)[None, :]
    if APPLY:
        scale = tl.load(scale_ptr + channel, mask=has_channel, other=0.0)[None, :]
        shift = tl.load(shift_ptr + channel, mask=has_channel, other=0.0)[None, :]
    kept = ()
    total = tl.zeros((COLS, CHANNELS), tl.float32)
    for t in tl.static_range(ROWS):
        row = first_row + t
        mask = inside & (row < H)
        offset = start + (row * W + col)[:, None] * C + channel[None, :]
        value = sums[t]
        if APPLY:
            value = activate(value + bias, ACTIVATION) * scale + shift
        if RESIDUAL:
            value += tl.load(residual_ptr + offset, mask=mask, other=0.0).to(tl.float32)
        stored = value.to(out_ptr.dtype.element_ty)
        tl.store(out_ptr + offset, stored, mask=mask)
        if STATISTICS:
            # of what the backward pass will read, not of the sum before it was rounded
            active = tl.where(mask, activate(stored.to(tl.float32) + bias, ACTIVATION), 0.0)
            total += active
            kept = kept + (active,)
    if STATISTICS:
        count = (tl.minimum(ROWS, H - first_row) * tl.minimum(COLS, W - first_col)).to(tl.float32)
        mean = tl.sum(total, axis=0) / count
        deviation = tl.zeros((COLS, CHANNELS), tl.float32)
        for t in tl.static_range(ROWS):
            away = tl.where(inside & (first_row + t < H), kept[t] - mean[None, :], 0.0)
            deviation += away * away
        tl.store(mean_ptr + place * C + channel, mean, mask=has_channel)
        tl.store(square_ptr + place * C + channel, tl.sum(deviation, axis=0), mask=has_channel)
        if pid % channel_tiles == 0:
            tl.store(count_ptr + place, count)


@triton.jit
def weight_gradient(
    x_ptr,  # (B, H, W, C)
    gradient_ptr,  # (B, H, W, C), of the convolution's result
    partial_ptr,  # (splits, K * K, C) float32
    tiles,
    H,
    W,
    C,
    row_tiles,
    col_tiles,
    splits,
    K: tl.constexpr,
    PAD: tl.constexpr,
    ROWS: tl.constexpr,
    COLS: tl.constexpr,
    CHANNELS: tl.constexpr,
):
    """Sum gradient * shifted input over every `splits`-th tile, for one column shift and all K row shifts."""
    channel_tiles = tl.cdiv(C, CHANNELS)
    pid = tl.program_id(0)
    channel = (pid % channel_tiles) * CHANNELS + tl.arange(0, CHANNELS)
    has_channel = channel < C
    dx = (pid // channel_tiles) % K
    split = pid // (channel_tiles * K)

    sums = ()
    for _ in tl.static_range(K):
        sums = sums + (tl.zeros((COLS, CHANNELS), tl.float32),)
    for place in range(split, tiles, splits):
        picture = place // (row_tiles * col_tiles)
        tile = place % (row_tiles * col_tiles)
        first_row = (tile // col_tiles) * ROWS
        first_col = (tile % col_tiles) * COLS
        start = picture.to(tl.int64) * H * W * C
        col = first_col + tl.arange(0, COLS)
        inside = (col < W)[:, None] & has_channel[None, :]
        offsets = (first_row * W + col)[:, None] * C + channel[None, :]
        gradients = ()
        for t in tl.static_range(ROWS):
            mask = inside & (first_row + t < H)
            value = tl.load(gradient_ptr + start + offsets + t * (W * C), mask=mask, other=0.0)
            gradients = gradients + (value.to(tl.float32),)
        col += dx - PAD
        inside = ((col >= 0) & (col < W))[:, None] & has_channel[None, :]
        offsets = ((first_row - PAD) * W + col)[:, None] * C + channel[None, :]
        for reach in tl.static_range(ROWS + K - 1):
            row = first_row - PAD + reach
            mask = inside & ((row >= 0) & (row < H))
            value = tl.load(x_ptr + start + offsets + reach * (W * C), mask=mask, other=0.0).to(tl.float32)
            added = ()
            for dy in tl.static_range(K):
                if reach - dy >= 0 and reach - dy < ROWS:
                    added = added + (sums[dy] + value * gradients[reach - dy],)
                else:
                    added = added + (sums[dy],)
            sums = added
    for dy in tl.static_range(K):
        tap = split * (K * K) + dy * K + dx
        tl.store(partial_ptr + tap * C + channel, tl.sum(sums[dy], axis=0), mask=has_channel)
