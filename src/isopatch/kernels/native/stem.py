"""Twins of patch stems: patches times weights; for ConvMixer activation and BatchNorm in the same product."""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from isopatch.kernels.convmixer_fit import unfit_norm
from isopatch.kernels.native import norms
from isopatch.kernels.native.fallback import (
    NOTHING,
    WEIGHTS,
    altered,
    hooked,
    in_memory,
    served_type,
    watched,
)
from isopatch.kernels.native.laid_out import LaidOut
from isopatch.kernels.native.library import NativeLibrary, dtype_number, floats, loaded
from isopatch.kernels.native.native_twin import NativeTwin
from isopatch.kernels.native.norms import Norm, known, pad_last, padded
from isopatch.kernels.native.shape import CHUNK, Shape, activation_number, known_activation, weight_groups
from isopatch.kernels.twin import Precision, Unfit
from isopatch.nn.layout import Grid
from isopatch.nn.stem import PatchStem, patch_grid
from isopatch.nn.strided import StridedConv2d


def make(module: nn.Module, precision: Precision) -> nn.Module | Unfit | None:
    """Return the twin of a stem with activation and BatchNorm, or with neither."""
    if type(module) is not PatchStem:
        return None
    bare = type(module.norm) is nn.Identity and type(module.activation) is nn.Identity
    if not bare and not isinstance(module.norm, nn.BatchNorm2d):
        return None
    reason = "the stem has hooks" if hooked(module) else unfit(module)
    if reason is not None:
        return Unfit(reason)
    return (NativeProjection if bare else NativePatchStem)(module, precision, loaded())


def unfit(module: nn.Module) -> str | None:
    """Say why the passes cannot do what this stem does, or None where they can."""
    stem = cast(PatchStem, module)
    proj, side = stem.proj, stem.patch_size
    reason = altered(proj, (StridedConv2d, nn.Conv2d), WEIGHTS)
    if reason is not None:
        return reason
    if proj.bias is None:
        return "the projection has no bias"
    square, once = (side, side), (1, 1)
    if (
        (proj.kernel_size, proj.stride, proj.padding, proj.dilation) != (square, square, (0, 0), once)
        or (proj.groups, proj.padding_mode) != (1, "zeros")
        or proj.weight.shape != (proj.out_channels, proj.in_channels, side, side)
        or proj.bias.shape != (proj.out_channels,)
    ):
        return f"the projection does not cut the picture into patches of {side}"
    if type(stem.norm) is nn.Identity:
        return altered(stem.norm, (nn.Identity,), NOTHING) or altered(
            stem.activation, (nn.Identity,), NOTHING
        )
    if activation_number(stem.activation) is None:
        return f"the activation {stem.activation} is neither exact GELU nor ReLU"
    return altered(stem.activation, (nn.GELU, nn.ReLU), NOTHING) or unfit_norm(stem.norm, proj.out_channels)


def _takes(stem: PatchStem, x: Tensor) -> bool:
    """Whether these are pictures of such a stem; what is not, the plain stem refuses in its words."""
    return x.dim() == 4 and x.shape[1] == stem.proj.in_channels and served_type(x) and x.numel() > 0


class _NativeStem(NativeTwin, PatchStem):
    # Alone it gains nothing: ResMLP, whose blocks have no twin, lost 4 to 10 % with it.
    serves_twins = True
    unfit = staticmethod(unfit)

    def __init__(self, stem: PatchStem, precision: Precision, lib: NativeLibrary) -> None:
        """Take over the parts, without a copy."""
        nn.Module.__init__(self)
        self.patch_size, self.stride, self.exact = stem.patch_size, stem.stride, stem.exact
        self.proj, self.activation, self.norm = stem.proj, stem.activation, stem.norm
        self._prepare(precision, lib)


class NativeProjection(_NativeStem):
    """Holds ViT's stem and computes it in C++ where no gradient is wanted; the plain one runs elsewhere.

    Also in the cases that `NativeConvMixerBlocks` names.
    """

    computes = "patch projection, inference"
    plain = "stem runs"
    _fixed: LaidOut[tuple[Tensor, Tensor]]

    def forward(self, x: Tensor) -> tuple[Tensor, Grid]:
        """Return (tokens (B, N, C) contiguous, grid). Raises UsageError for a size the stem cannot take."""
        wants_gradient = torch.is_grad_enabled() and (
            x.requires_grad or any(each.requires_grad for each in self.parameters())
        )
        if wants_gradient or watched(x) or self._altered() or not _takes(self, x):
            return super().forward(x)
        grid = patch_grid((x.shape[2], x.shape[3]), self.patch_size, exact=self.exact)
        wanted = torch.bfloat16 if torch.is_autocast_enabled("cpu") else x.dtype
        lib, dim = loaded(), self.proj.out_channels
        shape = Shape(x.shape[0], grid, padded(dim), self.dtype)
        tokens, x = shape.empty(), x.float()
        weight, bias = self._laid_out(lib, shape.channels)
        lib.call("stem_forward", **_pictures(self, shape, x, act=0), weight=weight, bias=bias, out=tokens)
        return tokens[..., :dim].to(wanted).contiguous(), grid

    def _laid_out(self, lib: NativeLibrary, channels: int) -> tuple[Tensor, Tensor]:
        """The weights as the pass reads them, made again when they changed."""
        bias = known(self.proj.bias)
        return self._fixed.of(
            lib,
            [self.proj.weight, bias],
            None,
            lambda: (_packed(self, channels), pad_last(bias, channels)),
        )


class NativePatchStem(_NativeStem):
    """Holds the plain stem's parts and computes them in C++; see `NativeConvMixerBlocks` for types.

    The plain parts run where a gradient of the picture itself is wanted, and in the cases named there.
    """

    computes = "patch stem"
    plain = "stem runs"

    def forward(self, x: Tensor) -> tuple[Tensor, Grid]:
        """Return (tokens (B, N, C) contiguous, grid). Raises UsageError for a size the stem cannot take."""
        wants_gradient = x.requires_grad and torch.is_grad_enabled()
        if wants_gradient or watched(x) or self._altered() or not _takes(self, x):
            return super().forward(x)
        grid = patch_grid((x.shape[2], x.shape[3]), self.patch_size, exact=self.exact)
        wanted = torch.bfloat16 if torch.is_autocast_enabled("cpu") else x.dtype
        dim = self.proj.out_channels
        shape = Shape(x.shape[0], grid, padded(dim), self.dtype)
        parameters = [self.proj.weight, self.proj.bias, self.norm.weight, self.norm.bias]
        with torch.autocast("cpu", enabled=False):
            if torch.is_grad_enabled() and any(
                each is not None and each.requires_grad for each in parameters
            ):
                tokens = _Stem.apply(x.float(), shape, self, *parameters)  # type: ignore[no-untyped-call]
            else:
                tokens = _run(x.float(), shape, self, keep=False)[0]
        return tokens[..., :dim].to(wanted).contiguous(), grid


def _pictures(stem: PatchStem, shape: Shape, x: Tensor, act: int) -> dict[str, Any]:
    """The members both passes share; pictures may have any strides."""
    image, channel, row, column = x.stride()
    return {
        "dtype": dtype_number(shape.dtype),
        "act": act,
        "images": shape.images,
        "height": shape.grid[0] * stem.patch_size,
        "width": shape.grid[1] * stem.patch_size,
        "in_channels": x.shape[1],
        "patch": stem.patch_size,
        "inner": _inner(stem),
        "channels": shape.channels,
        "chunk": CHUNK,
        "stride_image": image,
        "stride_channel": channel,
        "stride_row": row,
        "stride_column": column,
        "pictures": x.data_ptr(),
    }


def _inner(stem: PatchStem) -> int:
    """Values of a patch, padded."""
    return padded(stem.proj.in_channels * stem.patch_size**2)


def _packed(stem: NativePatchStem | NativeProjection, channels: int) -> Tensor:
    matrix = stem.proj.weight.detach().flatten(1)
    matrix = F.pad(matrix, (0, _inner(stem) - matrix.shape[1], 0, channels - matrix.shape[0]))
    return loaded().pack(matrix.contiguous(), stem.dtype)


def _run(
    x: Tensor, shape: Shape, stem: NativePatchStem, *, keep: bool
) -> tuple[Tensor, tuple[Tensor, Norm] | None]:
    """Return the tokens and, to go back, the activation's input and the norm."""
    lib = loaded()
    norm, act = cast(nn.BatchNorm2d, stem.norm), known_activation(stem.activation)
    product = {
        **_pictures(stem, shape, x, act),
        "weight": _packed(stem, shape.channels),
        "bias": pad_last(known(stem.proj.bias), shape.channels),
    }
    u = shape.empty()
    fixed = None if norms.uses_batch(norm) else norms.fixed(norm)
    if fixed is not None and not keep:
        lib.call("stem_forward", **product, out=u, scale=fixed.scale, shift=fixed.shift)
        return u, None
    if fixed is not None:
        lib.call("stem_forward", **product, out=u)
        found = fixed
    else:
        sums = norms.statistics(norm, each=CHUNK, count=shape.rows)
        lib.call("stem_forward", **product, out=u, sums=sums.sums)
        found = norms.finish(lib, norm, sums)
    tokens = shape.empty()
    lib.call(
        "normalise",
        **shape.rowwise(act),
        channels=shape.channels,
        u=u,
        scale=found.scale,
        shift=found.shift,
        x=tokens,
    )
    return tokens, (u, found)


class _Stem(torch.autograd.Function):
    """The stem as one step of autograd."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, shape: Shape, stem: NativePatchStem, *parameters: Tensor) -> Tensor:
        """Run; keep the pictures and one activation."""
        tokens, kept = _run(x, shape, stem, keep=True)
        u, ctx.norm = cast("tuple[Tensor, Norm]", kept)
        ctx.shape, ctx.stem, ctx.act = shape, stem, known_activation(stem.activation)
        ctx.save_for_backward(x, u, *parameters[::2])  # see `_ConvMixerRun`
        return tokens

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        """Return the parameters' gradients."""
        lib, shape, stem, act = loaded(), ctx.shape, ctx.stem, ctx.act
        x, u, weight = ctx.saved_tensors[:3]
        g = in_memory(gradient)
        size = shape.channels
        sums = floats(shape.chunks, 2, size)
        norm = {"mean": ctx.norm.mean, "rstd": ctx.norm.rstd}
        lib.call("gradient_sums", **shape.rowwise(act), channels=size, g=g, u=u, **norm, sums=sums)
        found = norms.finish_gradient(lib, ctx.norm, sums, shape.rows)
        groups = weight_groups(shape.rows, shape.chunks, 4 * size * _inner(stem))
        matrix, bias = floats(groups, size, _inner(stem)), floats(shape.chunks, size)
        lib.call(
            "stem_backward",
            **_pictures(stem, shape, x, act),
            groups=groups,
            g=g,
            u=u,
            **norm,
            scale=ctx.norm.scale,
            mean_g=found.mean_g,
            mean_gx=found.mean_gx,
            weight_sums=matrix,
            bias_sums=bias,
        )
        dim, values = weight.shape[0], weight[0].numel()
        of_weight = norms.add_up(lib, matrix)[:dim, :values].reshape(weight.shape)
        of_bias = norms.add_up(lib, bias)[:dim]
        return None, None, None, of_weight, of_bias, found.weight[:dim], found.bias[:dim]
