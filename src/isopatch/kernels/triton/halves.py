"""The two halves of a ConvMixer block with their gradients, on maps in a form's layout.

    half 1: x + norm(act(depthwise(x)))        half 2: norm(act(x W^T + bias))

Where a gradient may be asked for, each keeps its input and the convolution's result, nothing more: activation
and normalised value are computed again. Gradients of parameters are float32; autograd makes them the
parameter's type. Without one, half 1 is a single pass. The 1x1 product is PyTorch's
(cuBLAS): what its epilogue could save is one pass of about six, what a product of our own could lose is more.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from isopatch.kernels.fallback import in_memory
from isopatch.kernels.triton import depthwise, normalise
from isopatch.kernels.triton.forms import Step


def depthwise_half(x: Tensor, convolution: nn.Conv2d, norm: nn.BatchNorm2d, step: Step) -> Tensor:
    """x + norm(act(depthwise(x)))."""
    weight, bias = convolution.weight, convolution.bias
    if torch.is_grad_enabled() or norm.training:
        out: Tensor = _DepthwiseHalf.apply(x, weight, bias, norm.weight, norm.bias, norm, step)  # type: ignore[no-untyped-call]
        return out
    assert bias is not None
    return depthwise.convolve_apply(x, weight, bias, normalise.running_terms(norm), step)


def pointwise_half(x: Tensor, convolution: nn.Conv2d, norm: nn.BatchNorm2d, step: Step) -> Tensor:
    """norm(act(1x1 convolution of x))."""
    weight, bias = convolution.weight, convolution.bias
    out: Tensor = _PointwiseHalf.apply(x, weight, bias, norm.weight, norm.bias, norm, step)  # type: ignore[no-untyped-call]
    return out


class _DepthwiseHalf(torch.autograd.Function):
    """Tensors: input, depthwise weight (C, 1, k, k) and bias, the norm's weight and bias."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        weight: Tensor,
        bias: Tensor,
        norm_weight: Tensor,
        norm_bias: Tensor,
        norm: nn.BatchNorm2d,
        step: Step,
    ) -> Tensor:
        if norm.training:
            v, partials = depthwise.convolve_statistics(x, weight, bias, step)
            terms = normalise.batch_terms(partials, norm)
        else:
            v = depthwise.convolve(x, weight, step)
            terms = normalise.running_terms(norm)
        ctx.save_for_backward(x, v, weight, bias, terms)
        ctx.step, ctx.batch = step, norm.training
        return normalise.apply(v, bias, terms, step, residual=x)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        x, v, weight, bias, terms = ctx.saved_tensors
        gradient = in_memory(gradients[0])
        of_v, of_bias, of_norm_weight, of_norm_bias = normalise.gradients(
            gradient, v, bias, terms, ctx.step, batch=ctx.batch
        )
        of_x = of_weight = None
        if ctx.needs_input_grad[0]:
            of_x = depthwise.input_gradient(of_v, weight, gradient, ctx.step)
        if ctx.needs_input_grad[1]:
            of_weight = depthwise.weight_gradient(x, of_v, weight.shape[-1], ctx.step)
        return of_x, of_weight, of_bias, of_norm_weight, of_norm_bias, None, None


class _PointwiseHalf(torch.autograd.Function):
    """Tensors: input, 1x1 weight (C, C, 1, 1) and bias, the norm's weight and bias."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        weight: Tensor,
        bias: Tensor,
        norm_weight: Tensor,
        norm_bias: Tensor,
        norm: nn.BatchNorm2d,
        step: Step,
    ) -> Tensor:
        matrix = weight.flatten(1).to(x.dtype)
        if step.form.layout == "tokens":
            v = torch.mm(x.flatten(0, 2), matrix.t()).view_as(x)
        else:
            v = torch.mm(matrix, x.flatten(1)).view_as(x)
        if norm.training:
            terms = normalise.batch_terms(normalise.statistics(v, bias, step), norm)
        else:
            terms = normalise.running_terms(norm)
        ctx.save_for_backward(x, v, weight, bias, terms)
        ctx.step, ctx.batch = step, norm.training
        return normalise.apply(v, bias, terms, step)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        x, v, weight, bias, terms = ctx.saved_tensors
        of_v, of_bias, of_norm_weight, of_norm_bias = normalise.gradients(
            in_memory(gradients[0]), v, bias, terms, ctx.step, batch=ctx.batch
        )
        tokens = ctx.step.form.layout == "tokens"
        of_x = of_weight = None
        if ctx.needs_input_grad[0]:
            matrix = weight.flatten(1).to(x.dtype)
            if tokens:
                of_x = torch.mm(of_v.flatten(0, 2), matrix).view_as(x)
            else:
                of_x = torch.mm(matrix.t(), of_v.flatten(1)).view_as(x)
        if ctx.needs_input_grad[1]:
            if tokens:
                product = torch.mm(of_v.flatten(0, 2).t(), x.flatten(0, 2))
            else:
                product = torch.mm(of_v.flatten(1), x.flatten(1).t())
            of_weight = product.view_as(weight)
        return of_x, of_weight, of_bias, of_norm_weight, of_norm_bias, None, None
