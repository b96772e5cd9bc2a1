"""Activation and BatchNorm around a convolution: statistics, scale-shift, and their gradients.

The value v that a convolution stored lacks its bias, which is added wherever v is read: a matrix product in
either layout then needs no epilogue of its own. Place p and channel c lie at p * place_stride + c *
channel_stride, so one text serves both layouts; a tile is PLACES x CHANNELS.
"""

from __future__ import annotations

import triton
import triton.language as tl

from isopatch.kernels.triton.device.activation import activate, activate_both


@triton.jit
def statistics(
    v_ptr,
    bias_ptr,  # (C,)
    mean_ptr,  # (splits, C) float32
    square_ptr,  # the same
    count_ptr,  # (splits,) float32
    M,
    C,
    place_stride,
    channel_stride,
    splits,
    ACTIVATION: tl.constexpr,
    PLACES: tl.constexpr,
    CHANNELS: tl.constexpr,
):
    """Mean and squared deviations of act(v + bias) over every `splits`-th tile of places.

    Each place of the tile keeps its own running mean and deviations (Welford 1962), then they are joined
    (Chan et al. 1979): sums of squares would lose the variance of channels whose mean is large.
    """
    channel_tiles = tl.cdiv(C, CHANNELS)
    pid = tl.program_id(0)
    split = pid // channel_tiles
    first_channel = (pid % channel_tiles) * CHANNELS
    channel = first_channel + tl.arange(0, CHANNELS)
    has_channel = channel < C
    bias = tl.load(bias_ptr + channel, mask=has_channel, other=0.0).to(tl.float32)[None, :]
    place = tl.arange(0, PLACES)
    offset = place[:, None] * place_stride + tl.arange(0, CHANNELS)[None, :] * channel_stride
    start = v_ptr + first_channel.to(tl.int64) * channel_stride

    mean = tl.zeros((PLACES, CHANNELS), tl.float32)
    square = tl.zeros((PLACES, CHANNELS), tl.float32)
    count = tl.zeros((PLACES,), tl.float32)
    for tile in range(split, tl.cdiv(M, PLACES), splits):
        first = tile * PLACES
        inside = first + place < M
        pointers = start + first.to(tl.int64) * place_stride + offset
        value = tl.load(pointers, mask=inside[:, None] & has_channel[None, :], other=0.0).to(tl.float32)
        active = activate(value + bias, ACTIVATION)
        count += tl.where(inside, 1.0, 0.0)
        away = tl.where(inside[:, None], active - mean, 0.0)
        mean += away * (1.0 / tl.maximum(count, 1.0))[:, None]
        square += away * (active - mean)
    all_count = tl.sum(count, axis=0)
    all_mean = tl.sum(mean * count[:, None], axis=0) / all_count
    apart = mean - all_mean[None, :]
    all_square = tl.sum(square + apart * apart * count[:, None], axis=0)
    tl.store(mean_ptr + split * C + channel, all_mean, mask=has_channel)
    tl.store(square_ptr + split * C + channel, all_square, mask=has_channel)
    if first_channel == 0:
        tl.store(count_ptr + split, all_count)


@triton.jit
def _join(mean_ptr, square_ptr, count_ptr, first, parts, channel, C, PARTS: tl.constexpr):
    """Join PARTS partial statistics from `first` on; return mean, squared deviations, count."""
    part = first + tl.arange(0, PARTS)
    mask = (part < parts)[:, None] & (channel < C)[None, :]
    offset = part[:, None] * C + channel[None, :]
    count = tl.load(count_ptr + part, mask=part < parts, other=0.0)
    mean = tl.load(mean_ptr + offset, mask=mask, other=0.0)
    square = tl.load(square_ptr + offset, mask=mask, other=0.0)
    all_count = tl.sum(count, axis=0)
    all_mean = tl.sum(mean * count[:, None], axis=0) / all_count
    apart = mean - all_mean[None, :]
    return all_mean, tl.sum(square + apart * apart * count[:, None], axis=0), all_count


@triton.jit
def join(
    mean_ptr,  # (parts, C)
    square_ptr,
    count_ptr,  # (parts,)
    out_mean_ptr,  # (cdiv(parts, PARTS), C)
    out_square_ptr,
    out_count_ptr,
    parts,
    C,
    PARTS: tl.constexpr,
    CHANNELS: tl.constexpr,
):
    """Join each PARTS partial statistics to one."""
    channel_tiles = tl.cdiv(C, CHANNELS)
    pid = tl.program_id(0)
    group = pid // channel_tiles
    channel = (pid % channel_tiles) * CHANNELS + tl.arange(0, CHANNELS)
    mean, square, count = _join(mean_ptr, square_ptr, count_ptr, group * PARTS, parts, channel, C, PARTS)
    tl.store(out_mean_ptr + group * C + channel, mean, mask=channel < C)
    tl.store(out_square_ptr + group * C + channel, square, mask=channel < C)
    if pid % channel_tiles == 0:
        tl.store(out_count_ptr + group, count)


@triton.jit
def _store_terms(terms_ptr, mean, variance, weight_ptr, bias_ptr, eps, channel, C):
    """Write rows mean, 1 / std, scale, shift of terms (4, C)."""
    mask = channel < C
    rstd = 1.0 / tl.sqrt_rn(variance + eps)
    scale = tl.load(weight_ptr + channel, mask=mask, other=0.0).to(tl.float32) * rstd
    shift = tl.load(bias_ptr + channel, mask=mask, other=0.0).to(tl.float32) - mean * scale
    tl.store(terms_ptr + channel, mean, mask=mask)
    tl.store(terms_ptr + C + channel, rstd, mask=mask)
    tl.store(terms_ptr + 2 * C + channel, scale, mask=mask)
    tl.store(terms_ptr + 3 * C + channel, shift, mask=mask)


@triton.jit
def terms_of_batch(
    mean_ptr,  # (parts, C), parts <= PARTS
    square_ptr,
    count_ptr,  # (parts,)
    weight_ptr,  # (C,), of the norm
    bias_ptr,
    running_mean_ptr,  # (C,), updated
    running_var_ptr,
    terms_ptr,  # (4, C)
    parts,
    C,
    eps,
    momentum,
    PARTS: tl.constexpr,
    CHANNELS: tl.constexpr,
):
    """Join the last partial statistics; update the running ones with the unbiased variance, as PyTorch."""
    channel = tl.program_id(0) * CHANNELS + tl.arange(0, CHANNELS)
    mask = channel < C
    mean, square, count = _join(mean_ptr, square_ptr, count_ptr, 0, parts, channel, C, PARTS)
    _store_terms(terms_ptr, mean, square / count, weight_ptr, bias_ptr, eps, channel, C)
    running = tl.load(running_mean_ptr + channel, mask=mask, other=0.0).to(tl.float32)
    tl.store(running_mean_ptr + channel, (1.0 - momentum) * running + momentum * mean, mask=mask)
    running = tl.load(running_var_ptr + channel, mask=mask, other=0.0).to(tl.float32)
    unbiased = square / (count - 1.0)
    tl.store(running_var_ptr + channel, (1.0 - momentum) * running + momentum * unbiased, mask=mask)


@triton.jit
def terms_of_running(
    weight_ptr,
    bias_ptr,
    running_mean_ptr,
    running_var_ptr,
    terms_ptr,  # (4, C)
    C,
    eps,
    CHANNELS: tl.constexpr,
):
    """The same four rows from the running statistics, which stay as they are."""
    channel = tl.program_id(0) * CHANNELS + tl.arange(0, CHANNELS)
    mean = tl.load(running_mean_ptr + channel, mask=channel < C, other=0.0).to(tl.float32)
    variance = tl.load(running_var_ptr + channel, mask=channel < C, other=1.0).to(tl.float32)
    _store_terms(terms_ptr, mean, variance, weight_ptr, bias_ptr, eps, channel, C)


@triton.jit
def apply(
    v_ptr,
    bias_ptr,
    terms_ptr,  # (4, C)
    residual_ptr,  # like v, with RESIDUAL
    out_ptr,
    M,
    C,
    place_stride,
    channel_stride,
    RESIDUAL: tl.constexpr,
    ACTIVATION: tl.constexpr,
    PLACES: tl.constexpr,
    CHANNELS: tl.constexpr,
):
    """out = scale * act(v + bias) + shift, and the residual."""
    channel_tiles = tl.cdiv(C, CHANNELS)
    pid = tl.program_id(0)
    first_channel = (pid % channel_tiles) * CHANNELS
    first = (pid // channel_tiles) * PLACES
    channel = first_channel + tl.arange(0, CHANNELS)
    has_channel = channel < C
    place = tl.arange(0, PLACES)
    mask = (first + place < M)[:, None] & has_channel[None, :]
    start = first.to(tl.int64) * place_stride + first_channel.to(tl.int64) * channel_stride
    offset = start + (place[:, None] * place_stride + tl.arange(0, CHANNELS)[None, :] * channel_stride)
    bias = tl.load(bias_ptr + channel, mask=has_channel, other=0.0).to(tl.float32)[None, :]
    scale = tl.load(terms_ptr + 2 * C + channel, mask=has_channel, other=0.0)[None, :]
    shift = tl.load(terms_ptr + 3 * C + channel, mask=has_channel, other=0.0)[None, :]
    value = tl.load(v_ptr + offset, mask=mask, other=0.0).to(tl.float32)
    value = activate(value + bias, ACTIVATION) * scale + shift
    if RESIDUAL:
        value += tl.load(residual_ptr + offset, mask=mask, other=0.0).to(tl.float32)
    tl.store(out_ptr + offset, value.to(out_ptr.dtype.element_ty), mask=mask)


@triton.jit
def gradient_sums(
    gradient_ptr,  # of the norm's result
    v_ptr,
    bias_ptr,
    terms_ptr,  # (4, C)
    partial_ptr,  # (2, splits, C) float32: sums of the gradient, and of gradient * normalised
    M,
    C,
    place_stride,
    channel_stride,
    splits,
    ACTIVATION: tl.constexpr,
    PLACES: tl.constexpr,
    CHANNELS: tl.constexpr,
):
    """Gradients of the norm's bias and weight, over every `splits`-th tile of places."""
    channel_tiles = tl.cdiv(C, CHANNELS)
    pid = tl.program_id(0)
    split = pid // channel_tiles
    first_channel = (pid % channel_tiles) * CHANNELS
    channel = first_channel + tl.arange(0, CHANNELS)
    has_channel = channel < C
    bias = tl.load(bias_ptr + channel, mask=has_channel, other=0.0).to(tl.float32)[None, :]
    mean = tl.load(terms_ptr + channel, mask=has_channel, other=0.0)[None, :]
    rstd = tl.load(terms_ptr + C + channel, mask=has_channel, other=0.0)[None, :]
    place = tl.arange(0, PLACES)
    offset = place[:, None] * place_stride + tl.arange(0, CHANNELS)[None, :] * channel_stride
    start = first_channel.to(tl.int64) * channel_stride

    plain = tl.zeros((PLACES, CHANNELS), tl.float32)
    weighted = tl.zeros((PLACES, CHANNELS), tl.float32)
    for tile in range(split, tl.cdiv(M, PLACES), splits):
        first = tile * PLACES
        mask = (first + place < M)[:, None] & has_channel[None, :]
        where = start + first.to(tl.int64) * place_stride + offset
        gradient = tl.load(gradient_ptr + where, mask=mask, other=0.0).to(tl.float32)
        value = tl.load(v_ptr + where, mask=mask, other=0.0).to(tl.float32)
        plain += gradient
        weighted += gradient * ((activate(value + bias, ACTIVATION) - mean) * rstd)
    tl.store(partial_ptr + split * C + channel, tl.sum(plain, axis=0), mask=has_channel)
    tl.store(partial_ptr + (splits + split) * C + channel, tl.sum(weighted, axis=0), mask=has_channel)


@triton.jit
def gradient(
    gradient_ptr,  # of the norm's result
    v_ptr,
    bias_ptr,
    terms_ptr,  # (4, C)
    sums_ptr,  # (2, C) float32: what `gradient_sums` adds up to
    out_ptr,  # of v
    partial_ptr,  # (splits, C) float32: sums of out, the gradient of the convolution's bias
    M,
    C,
    place_stride,
    channel_stride,
    splits,
    BATCH: tl.constexpr,
    ACTIVATION: tl.constexpr,
    PLACES: tl.constexpr,
    CHANNELS: tl.constexpr,
):
    """out = act'(v + bias) * scale * (g - mean(g) - normalised * mean(g * normalised)).

    Without BATCH the statistics were constants, and both means fall away (Ioffe and Szegedy 2015, section 3).
    """
    channel_tiles = tl.cdiv(C, CHANNELS)
    pid = tl.program_id(0)
    split = pid // channel_tiles
    first_channel = (pid % channel_tiles) * CHANNELS
    channel = first_channel + tl.arange(0, CHANNELS)
    has_channel = channel < C
    bias = tl.load(bias_ptr + channel, mask=has_channel, other=0.0).to(tl.float32)[None, :]
    scale = tl.load(terms_ptr + 2 * C + channel, mask=has_channel, other=0.0)[None, :]
    if BATCH:
        mean = tl.load(terms_ptr + channel, mask=has_channel, other=0.0)[None, :]
        rstd = tl.load(terms_ptr + C + channel, mask=has_channel, other=0.0)[None, :]
        plain = (tl.load(sums_ptr + channel, mask=has_channel, other=0.0) / M)[None, :]
        weighted = (tl.load(sums_ptr + C + channel, mask=has_channel, other=0.0) / M)[None, :]
    place = tl.arange(0, PLACES)
    offset = place[:, None] * place_stride + tl.arange(0, CHANNELS)[None, :] * channel_stride
    start = first_channel.to(tl.int64) * channel_stride

    total = tl.zeros((PLACES, CHANNELS), tl.float32)
    for tile in range(split, tl.cdiv(M, PLACES), splits):
        first = tile * PLACES
        mask = (first + place < M)[:, None] & has_channel[None, :]
        where = start + first.to(tl.int64) * place_stride + offset
        slope = tl.load(gradient_ptr + where, mask=mask, other=0.0).to(tl.float32)
        value = tl.load(v_ptr + where, mask=mask, other=0.0).to(tl.float32)
        active, derivative = activate_both(value + bias, ACTIVATION)
        if BATCH:
            slope = slope - plain - (active - mean) * rstd * weighted
        slope = slope * scale * derivative
        stored = slope.to(out_ptr.dtype.element_ty)
        tl.store(out_ptr + where, stored, mask=mask)
        total += tl.where(mask, slope, 0.0)
    tl.store(partial_ptr + split * C + channel, tl.sum(total, axis=0), mask=has_channel)
