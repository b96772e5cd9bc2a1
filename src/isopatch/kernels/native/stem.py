"""Twins of patch stems: patches times weights; for ConvMixer activation and BatchNorm in the same product."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from isopatch.kernels.native import norms
from isopatch.kernels.native.library import NativeLibrary, dtype_number, loaded
from isopatch.kernels.native.norms import Norm, pad_last, padded
from isopatch.kernels.native.shape import CHUNK, Shape, activation_number
from isopatch.kernels.twin import Precision, Unfit
from isopatch.nn.layout import Grid
from isopatch.nn.stem import PatchStem, patch_grid

GROUPS = 8  # partial sums of the weight's gradient


def make(module: nn.Module, precision: Precision) -> nn.Module | Unfit | None:
    """Return the twin of a stem with activation and BatchNorm, or with neither."""
    if type(module) is not PatchStem:
        return None
    if type(module.norm) is nn.Identity and type(module.activation) is nn.Identity:
        if any(each.dtype != torch.float32 for each in module.parameters()):
            return Unfit("parameters are not float32")
        return NativeProjection(module, precision, loaded())
    if type(module.norm) is not nn.BatchNorm2d:
        return None
    if activation_number(module.activation) is None:
        return Unfit(f"the activation {module.activation} is neither exact GELU nor ReLU")
    if not module.norm.affine or any(each.dtype != torch.float32 for each in module.parameters()):
        return Unfit("parameters are not float32, or BatchNorm has none")
    return NativePatchStem(module, precision, loaded())


class NativeProjection(PatchStem):
    """Holds ViT's stem and computes it in C++ where no gradient is wanted; the plain one runs elsewhere."""

    def __init__(self, stem: PatchStem, precision: Precision, lib: NativeLibrary) -> None:
        """Take over the projection, without a copy."""
        nn.Module.__init__(self)
        self.patch_size, self.stride, self.exact = stem.patch_size, stem.stride, stem.exact
        self.proj, self.activation, self.norm = stem.proj, stem.activation, stem.norm
        self.dtype = torch.bfloat16 if precision == "bf16" else torch.float32
        self.twin_name = f"native patch projection, inference, {precision}, {lib.instructions}"
        self._packed: tuple[Any, Tensor, Tensor] | None = None

    def forward(self, x: Tensor) -> tuple[Tensor, Grid]:
        """Return (tokens (B, N, C) contiguous, grid). Raises UsageError for a size the stem cannot take."""
        wants_gradient = torch.is_grad_enabled() and (
            x.requires_grad or any(each.requires_grad for each in self.parameters())
        )
        if x.dim() != 4 or x.device.type != "cpu" or wants_gradient:
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
        parameters = list(self.parameters())
        key = (lib.instructions, [(each.data_ptr(), each._version) for each in parameters])
        if self._packed is None or self._packed[0] != key:
            assert self.proj.bias is not None
            self._packed = (key, _packed(self, channels), pad_last(self.proj.bias, channels))
        return self._packed[1:]


class NativePatchStem(PatchStem):
    """Holds the plain stem's parts and computes them in C++; see `NativeConvMixerBlocks` for types.

    The plain parts run where a gradient of the picture itself is wanted, and on devices other than the CPU.
    """

    def __init__(self, stem: PatchStem, precision: Precision, lib: NativeLibrary) -> None:
        """Take over the parts, without a copy."""
        nn.Module.__init__(self)
        self.patch_size, self.stride, self.exact = stem.patch_size, stem.stride, stem.exact
        self.proj, self.activation, self.norm = stem.proj, stem.activation, stem.norm
        self.dtype = torch.bfloat16 if precision == "bf16" else torch.float32
        self.twin_name = f"native patch stem, {precision}, {lib.instructions}"

    def forward(self, x: Tensor) -> tuple[Tensor, Grid]:
        """Return (tokens (B, N, C) contiguous, grid). Raises UsageError for a size the stem cannot take."""
        if x.dim() != 4 or x.device.type != "cpu" or (x.requires_grad and torch.is_grad_enabled()):
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
    norm, act = stem.norm, activation_number(stem.activation)
    assert isinstance(norm, nn.BatchNorm2d) and act is not None and stem.proj.bias is not None
    product = {
        **_pictures(stem, shape, x, act),
        "weight": _packed(stem, shape.channels),
        "bias": pad_last(stem.proj.bias, shape.channels),
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
    def forward(ctx: Any, x: Tensor, shape: Shape, stem: NativePatchStem, *_: Tensor) -> Tensor:
        """Run; keep the pictures and one activation."""
        tokens, kept = _run(x, shape, stem, keep=True)
        assert kept is not None
        ctx.u, ctx.norm = kept
        ctx.x, ctx.shape, ctx.stem = x, shape, stem
        return tokens

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        """Return the parameters' gradients."""
        lib, shape, stem = loaded(), ctx.shape, ctx.stem
        act = activation_number(stem.activation)
        assert act is not None
        g = gradient.contiguous()
        size = shape.channels
        sums = torch.empty(shape.chunks, 2, size)
        norm = {"mean": ctx.norm.mean, "rstd": ctx.norm.rstd}
        lib.call("gradient_sums", **shape.rowwise(act), channels=size, g=g, u=ctx.u, **norm, sums=sums)
        found = norms.finish_gradient(lib, ctx.norm, sums, shape.rows)
        groups = min(shape.chunks, GROUPS)
        matrix, bias = torch.empty(groups, size, _inner(stem)), torch.empty(shape.chunks, size)
        lib.call(
            "stem_backward",
            **_pictures(stem, shape, ctx.x, act),
            groups=groups,
            g=g,
            u=ctx.u,
            **norm,
            scale=ctx.norm.scale,
            mean_g=found.mean_g,
            mean_gx=found.mean_gx,
            weight_sums=matrix,
            bias_sums=bias,
        )
        weight = stem.proj.weight
        dim, values = weight.shape[0], weight[0].numel()
        of_weight = norms.add_up(lib, matrix)[:dim, :values].reshape(weight.shape)
        of_bias = norms.add_up(lib, bias)[:dim]
        return None, None, None, of_weight, of_bias, found.weight[:dim], found.bias[:dim]
